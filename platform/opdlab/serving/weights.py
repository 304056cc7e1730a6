"""Keeping the weights of a server those of the student: saved to a folder that both see, then read by it.

vLLM reads a checkpoint into the model it serves by the worker method `reload_weights` with `weights_path`,
which `/collective_rpc` calls in its development mode (`VLLM_SERVER_DEV_MODE=1`); SGLang by
`/update_weights_from_disk`. Neither server could be run where this was written: the calls follow their
documentation, and the tests speak to a stand-in that obeys it.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from opdlab.errors import ServerError
from opdlab.head import hidden_states, log_distribution
from opdlab.sampling_mode import sampling_mode
from opdlab.serving.client import Client
from opdlab.serving.dialect import Identity, read_scores, scoring_body
from opdlab.shapes import Tensor

_SENT: WeakKeyDictionary[PreTrainedModel, dict[str, int]] = WeakKeyDictionary()
"""State of a model's weights that each server has, by its address."""


def state(model: PreTrainedModel) -> int:
    """Changes with every step of an optimizer: the number of times weights were written."""
    return sum(weight._version for weight in model.parameters())


def send(client: Client, server: Identity, model: PreTrainedModel, folder: str) -> None:
    """Make the server serve the model's weights.

    Raises:
        ServerError: the server cannot, or training runs in several processes.
    """
    _check(model, server)
    Path(folder).mkdir(parents=True, exist_ok=True)
    # A folder of its own each time: a reader may keep files of the last one open or cached.
    with TemporaryDirectory(prefix="weights-", dir=folder) as place:
        model.save_pretrained(place)
        root = client.access.root
        if server.software == "vllm":
            call = {"method": "reload_weights", "kwargs": {"weights_path": place}}
            client.post(client.access.beside_api("/collective_rpc"), call)
            # What was cached was computed with the weights before.
            client.post(client.access.beside_api("/reset_prefix_cache"), {})
        else:
            url = client.access.beside_api("/update_weights_from_disk")
            done = client.post(url, {"model_path": place})
            if not done.get("success"):
                raise ServerError(
                    f"{root} did not take the weights in {place}: {done.get('message', done)}. The folder "
                    "must be visible to the server under the same name"
                )
    _SENT.setdefault(model, {})[root] = state(model)


def outdated(client: Client, model: PreTrainedModel) -> bool:
    """Whether the weights changed since they were sent, or never were."""
    return _SENT.get(model, {}).get(client.access.root) != state(model)


def _check(model: PreTrainedModel, server: Identity) -> None:
    if server.software not in ("vllm", "sglang"):
        raise ServerError(
            f"weights cannot be sent to a server of kind {server.software!r}; vLLM and SGLang take them"
        )
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    whole = all(type(weight.data) is Tensor for weight in model.parameters())
    if not whole or (several and torch.distributed.get_world_size() > 1):
        raise ServerError(
            "weights are sent to a rollout server by one process that holds all of them; train on one "
            "device, or use rollout type `cached`"
        )


def gap(client: Client, server: Identity, model: PreTrainedModel, ids: list[int]) -> float:
    """Mean absolute difference between the server's and the model's log-probabilities of a text, nats.

    vLLM only: SGLang has no `prompt_logprobs` behind OpenAI's interface.
    """
    answer = client.post(client.access.api("/completions"), scoring_body(server, ids))
    theirs = torch.tensor(read_scores(answer, ids))
    with sampling_mode(model):
        tokens = torch.tensor([ids], device=model.device)
        said = log_distribution(model, hidden_states(model, tokens)[0, :-1], None)
        ours = said.gather(-1, tokens[0, 1:, None])[:, 0].cpu()
    return float((theirs - ours).abs().mean())
