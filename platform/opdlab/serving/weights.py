"""Keeping the weights of a server those of the student: saved to a folder that both see, then read by it.

vLLM reads a checkpoint into the model it serves by the worker method `reload_weights` with `weights_path`,
which `/collective_rpc` calls in its development mode (`VLLM_SERVER_DEV_MODE=1`); SGLang by
`/update_weights_from_disk`. Neither server could be run where this was written: the calls follow their
documentation, and the tests speak to a stand-in that obeys it.
"""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from weakref import WeakKeyDictionary, finalize

import psutil
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
_PREFIX = f"weights-{socket.gethostname()}-"


@dataclass(frozen=True, eq=False)
class _Copy:
    """A model's weights on disk; calling `remove` or the end of the model or process removes them."""

    folder: Path
    state: int
    remove: finalize[Any, Any]


_COPIES: WeakKeyDictionary[PreTrainedModel, _Copy] = WeakKeyDictionary()


def state(model: PreTrainedModel) -> int:
    """Changes with every step of an optimizer: the number of times weights were written."""
    return sum(weight._version for weight in model.parameters())


def send(client: Client, server: Identity, model: PreTrainedModel, folder: str) -> None:
    """Make the server serve the model's weights.

    Raises:
        ServerError: the server cannot, or the weights are sharded.
    """
    _check(model, server)
    place = written(model, Path(folder))
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


def written(model: PreTrainedModel, parent: Path) -> str:
    """Folder with the model's weights, which is written only where they changed since it was.

    It stays for a server that is started again, until the weights change or this process ends.
    """
    copy = _COPIES.get(model)
    if copy is not None:
        if copy.state == state(model) and copy.folder.is_dir() and copy.folder.parent == parent:
            return str(copy.folder)
        copy.remove()
    parent.mkdir(parents=True, exist_ok=True)
    _clear(parent)
    # A name of its own each time: a reader may keep files of the last one open or cached.
    folder = Path(mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    # The server may run as somebody else.
    folder.chmod(0o755)
    remove = finalize(model, shutil.rmtree, folder, ignore_errors=True)
    _COPIES[model] = _Copy(folder, -1, remove)
    model.save_pretrained(folder)
    _COPIES[model] = _Copy(folder, state(model), remove)
    return str(folder)


def _clear(parent: Path) -> None:
    """Remove what processes of this machine that were killed left behind: each copy is a whole model."""
    for left in parent.glob(f"{_PREFIX}*-*"):
        number = left.name.removeprefix(_PREFIX).split("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def outdated(client: Client, model: PreTrainedModel) -> bool:
    """Whether the weights changed since they were sent, or never were."""
    return _SENT.get(model, {}).get(client.access.root) != state(model)


def _check(model: PreTrainedModel, server: Identity) -> None:
    if server.software not in ("vllm", "sglang"):
        raise ServerError(
            f"weights cannot be sent to a server of kind {server.software!r}; vLLM and SGLang take them"
        )
    if not all(type(weight.data) is Tensor for weight in model.parameters()):
        raise ServerError(
            "weights are sent to a rollout server by a process that holds all of them, and these are "
            "sharded; use rollout type `cached`"
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
