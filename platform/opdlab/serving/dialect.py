"""What is asked of which server, and what its answers hold.

One completion is one request to `/v1/completions`, the endpoint that takes a prompt as it is: a chat
endpoint would render it anew. Written against the documentation and source of vLLM 0.33 and SGLang
(`prompt` as token ids, `return_token_ids`, `logprobs`, `prompt_logprobs`), neither of which could be run
where this was written, and against `transformers serve` 5.23, which the tests start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from opdlab.errors import ServerError
from opdlab.modelling import text_of
from opdlab.serving.client import Body, Client

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_SERVERS = ("vllm", "sglang")
"""Servers that take and return token ids."""
TRIES = 4
"""Questions after what a server is, until a failure is an answer: one must not make it another."""
ALL = -1
"""`top_k` for all entries: SGLang's word, which vLLM takes too."""


@dataclass(frozen=True)
class Identity:
    """What a server says it is.

    Attributes:
        software: `vllm`, `sglang`, `transformers` or `unknown`.
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


@dataclass(frozen=True)
class Draw:
    """How an answer is drawn."""

    temperature: float
    top_p: float
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True)
class Reply:
    """One completion as the server returned it.

    Attributes:
        text: without special tokens.
        tokens: how many, the EOS included.
        stop: `eos` or `length`.
        ids: the tokens themselves; None where the server does not return them.
        log_probs: of the tokens, nats; None where the server does not return them.
    """

    text: str
    tokens: int
    stop: str
    ids: tuple[int, ...] | None
    log_probs: tuple[float, ...] | None


def identify(client: Client, wanted: str | None, usual: str | None = None) -> Identity:
    """Ask the server for its software, version and model.

    Args:
        wanted: name of the model; None takes the only one that is served.
        usual: name to take where the server does not list what it serves.

    Raises:
        ServerError: nobody is there, or the model is not served or must be named.
    """
    api = "/v1" if client.access.root != client.access.url else ""
    listed = (client.ask(f"{api}/models") or {}).get("data") or []
    software, version = _software(client, str(listed[0].get("owned_by", "")) if listed else "")
    # `transformers serve` lists what was ever downloaded, which is not what it serves.
    served = [] if software == "transformers" else listed
    cards = {str(card["id"]): card for card in served}
    name = wanted or (next(iter(cards)) if len(cards) == 1 else None if cards else usual)
    if name is None or (cards and name not in cards):
        problem = f"no model {name!r} is served" if name else "several models are served, or none"
        raise ServerError(
            f"{client.access.url}: {problem}; the server lists {', '.join(cards) or 'none'}. Name one: "
            "rollout={type: openai, served_model: NAME}, with the rollout's other keys"
        )
    return Identity(software, version, name, str(cards.get(name, {}).get("root") or ""))


def _software(client: Client, owner: str) -> tuple[str, str]:
    told = client.ask("/version", TRIES)
    if owner == "vllm" or (isinstance(told, dict) and owner != "sglang" and "version" in told):
        return "vllm", str((told or {}).get("version", ""))
    if owner == "sglang":
        info = client.ask("/server_info", TRIES) or client.ask("/get_server_info", TRIES) or {}
        return "sglang", str(info.get("version", ""))
    paths = (client.ask("/openapi.json", TRIES) or {}).get("paths", {})
    # Only `transformers serve` has it; it does not tell its version.
    return ("transformers" if "/v1/systemone" in paths or "/load_model" in paths else "unknown"), ""


def completion_body(
    server: Identity, draw: Draw, ids: Sequence[int], text: str, seed: int, log_probs: bool = False
) -> dict[str, Any]:
    """The request for one completion, every sampling setting said: servers have defaults of their own.

    Args:
        ids, text: the prompt, as tokens and as a text that gives these tokens.
        log_probs: also ask for the log-probability of each token.
    """
    body: dict[str, Any] = {
        "model": server.model,
        "prompt": text,
        "max_tokens": draw.max_new_tokens,
        "temperature": draw.temperature,
        "top_p": draw.top_p,
        "seed": seed,
    }
    if server.software in TOKEN_SERVERS:
        body |= {
            "prompt": list(ids),
            "top_k": ALL,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(draw.eos_ids),
            "return_token_ids": True,
        }
        body |= {"logprobs": 1} if log_probs else {}
    if server.software == "sglang":
        # Else the token that ended the answer is cut off.
        body["no_stop_trim"] = True
    if server.software == "transformers":
        body["generation_config"] = _generation_config(draw)
    return body


def _generation_config(draw: Draw) -> str:
    """`transformers serve` samples greedily, or among the top 50, unless told otherwise in this way."""
    settings: dict[str, Any] = {
        "do_sample": draw.temperature > 0,
        "max_new_tokens": draw.max_new_tokens,
        "eos_token_id": list(draw.eos_ids),
        "pad_token_id": draw.pad_id,
    }
    if draw.temperature > 0:
        settings |= {"temperature": draw.temperature, "top_p": draw.top_p, "top_k": 0}
    return json.dumps(settings)


def read_reply(
    answer: Any, ids: Sequence[int], draw: Draw, tokenizer: PreTrainedTokenizerBase | None
) -> Reply:
    """The completion in an answer, after checking that it answers the prompt that was meant.

    Args:
        ids: the prompt's tokens.
        tokenizer: turns returned token ids into text; None takes the server's text.

    Raises:
        ServerError: the server read another prompt, or its answer is not whole.
    """
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, reason = str(choice["text"]), choice["finish_reason"]
    except (KeyError, IndexError, TypeError) as error:
        raise ServerError(f"the server's answer is no completion: {str(answer)[:300]}") from error
    _check_prompt(choice.get("prompt_token_ids"), usage.get("prompt_tokens"), ids)
    tokens = choice.get("token_ids")
    if tokens and tokenizer is not None:
        text = text_of(tokenizer, tokens)
    if reason not in ("stop", "length"):
        raise ServerError(
            f"an answer ended by {reason!r}, neither at its end nor at the length limit"
        )
    if reason == "stop" and tokens and tokens[-1] not in draw.eos_ids:
        raise ServerError(
            f"an answer ended by token {tokens[-1]}, which is no EOS ({draw.eos_ids}): the server stops at "
            "something else, or cuts the EOS off"
        )
    # The length limit may fall on the EOS.
    ended = reason == "stop" or bool(tokens and tokens[-1] in draw.eos_ids)
    return Reply(
        text,
        len(tokens) if tokens else int(usage["completion_tokens"]),
        "eos" if ended else "length",
        None if not tokens else tuple(tokens),
        _log_probs(choice.get("logprobs"), len(tokens or ())),
    )


def _check_prompt(returned: Sequence[int] | None, count: int | None, ids: Sequence[int]) -> None:
    if returned is None and count is None:
        raise ServerError(
            "the server does not say how many tokens it read the prompt as, so that it cannot be known "
            "whether it answered what was asked"
        )
    if list(ids) != list(returned) if returned is not None else count != len(ids):
        raise ServerError(
            f"the server read a prompt as {count if returned is None else len(returned)} tokens that has "
            f"{len(ids)}: it serves a model with another tokenizer, or adds special tokens of its own"
        )


def _log_probs(found: Any, count: int) -> tuple[float, ...] | None:
    values = found.get("token_logprobs") if isinstance(found, dict) else None
    if not values or len(values) != count or None in values:
        return None
    return tuple(float(value) for value in values)


def prompt_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], shown: str) -> str:
    """A text that the tokenizer turns into exactly these tokens, for a server that takes text only.

    Raises:
        ServerError: there is none: the chat template writes what the tokenizer would add again.
    """
    beginning = str(tokenizer.bos_token or "")
    candidates = [shown, shown.removeprefix(beginning)]
    for text in candidates:
        if list(tokenizer(text)["input_ids"]) == list(ids):  # pyright: ignore[reportArgumentType]
            return text
    raise ServerError(
        "this server takes prompts as text only, and no text gives the prompt's tokens; use a server that "
        f"takes token ids ({', '.join(TOKEN_SERVERS)})"
    )


def scoring_body(server: Identity, ids: Sequence[int]) -> Body:
    """A request for the log-probability of every token of a text, by vLLM's `prompt_logprobs`."""
    return {
        "model": server.model,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 1,
        "return_token_ids": True,
    }


def read_scores(answer: Any, ids: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens but the first, given those before, nats.

    Raises:
        ServerError: the server does not return them.
    """
    listed = answer["choices"][0].get("prompt_logprobs")
    if not listed or len(listed) != len(ids):
        raise ServerError("the server returned no prompt_logprobs; vLLM does")
    return [
        float(row[str(token)]["logprob"]) for row, token in zip(listed[1:], ids[1:], strict=True)
    ]
