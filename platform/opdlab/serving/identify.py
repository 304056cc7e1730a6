"""What a server is: its software, version and model, by what it says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from opdlab.errors import ServerError
from opdlab.serving.client import Client, FailedError

TOKEN_SERVERS = ("vllm", "sglang")
"""Servers that take and return token ids."""
KNOWN = (*TOKEN_SERVERS, "transformers")
"""Servers whose every sampling setting can be said in a request: llama.cpp keeps the stop strings of its
command line (`--reverse-prompt`)."""
NAMING = "Name one: rollout={type: openai, served_model: NAME}, with the rollout's other keys"
TRIES = 4
"""Questions after what a server is, until a failure of its own is an error: it must not make it another."""


@dataclass(frozen=True)
class Identity:
    """What a server says it is.

    Attributes:
        software: `vllm`, `sglang`, `transformers`, `llama.cpp` or `unknown`.
        version: of the software; empty where it does not say.
        model: name under which the model is served.
        root: where its weights come from; empty where it does not say.
    """

    software: str
    version: str
    model: str
    root: str

    def record(self) -> dict[str, str]:
        """For the record that is stored beside the samples."""
        return {f"server_{name}": value or "not told" for name, value in asdict(self).items()}


def identify(
    client: Client, wanted: str | None, usual: str | None = None, naming: str = NAMING
) -> Identity:
    """Ask the server for its software, version and model.

    Args:
        wanted: name of the model; None takes the only one that is served.
        usual: name to take where the server does not list what it serves.
        naming: how a model is named, for the message.

    Raises:
        ServerError: nobody is there, it lets nobody in or fails each time, or the model is not served or
            must be named.
    """
    api = "/v1" if client.access.root != client.access.url else ""
    path, fault = f"{api}/models", None
    try:
        told = client.ask(path, TRIES)
    except FailedError as error:
        # `transformers serve` fails at the list of models that were ever downloaded.
        told, fault = None, error
        if not _is_transformers(client):
            raise
    listed = told.get("data") if isinstance(told, dict) else None
    listed = listed if isinstance(listed, list) else []
    listed = [card for card in listed if isinstance(card, dict) and isinstance(card.get("id"), str)]
    if told is None and not api and fault is None and client.ask("/v1/models", TRIES) is not None:
        raise ServerError(
            f"{client.access.url}: OpenAI's API begins at {client.access.beside_api('/v1')}; write that as "
            "the url"
        )
    software, version = _software(client, str(listed[0].get("owned_by", "")) if listed else "")
    # `transformers serve` lists what was ever downloaded, which is not what it serves.
    served = [] if software == "transformers" else listed
    cards = {str(card["id"]): card for card in served}
    name = wanted or (next(iter(cards)) if len(cards) == 1 else None if cards else usual)
    if name is None or (cards and name not in cards):
        problem = f"no model {name!r} is served" if name else "several models are served, or none"
        raise ServerError(
            f"{client.access.url}: {problem}; the server lists {', '.join(cards) or 'none'}. {naming}"
        )
    client.pulse.tells = software == "vllm"
    context = cards.get(name, {}).get("max_model_len")
    client.context = context if type(context) is int and context > 0 else None
    return Identity(software, version, name, str(cards.get(name, {}).get("root") or ""))


def _software(client: Client, owner: str) -> tuple[str, str]:
    if owner == "llamacpp":
        return "llama.cpp", str(_told(client, "/props").get("build_info") or "")
    told = _told(client, "/version")
    if owner == "vllm" or (owner != "sglang" and "version" in told):
        return "vllm", str(told.get("version") or "")
    if owner == "sglang":
        info = _told(client, "/server_info") or _told(client, "/get_server_info")
        return "sglang", str(info.get("version") or "")
    return ("transformers" if _is_transformers(client) else "unknown"), ""


def _told(client: Client, path: str) -> dict[str, Any]:
    """What a server says at a path; empty where that is not an object."""
    told = client.ask(path, TRIES)
    return told if isinstance(told, dict) else {}


def _is_transformers(client: Client) -> bool:
    paths = _told(client, "/openapi.json").get("paths") or {}
    # It does not tell its version. vLLM has `/v1/systemone` as well, and says before that it is vLLM.
    return "/load_model" in paths or "/v1/systemone" in paths
