"""Keeping the weights of a server those of the student: saved to a folder that both see, then read by it.

vLLM reads a checkpoint into the model it serves by the worker method `reload_weights` with `weights_path`,
which `/collective_rpc` calls in its development mode (`VLLM_SERVER_DEV_MODE=1`); SGLang by
`/update_weights_from_disk`. Neither server could be run where this was written: the calls follow their
documentation, and the tests speak to a stand-in that obeys it.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import WeakKeyDictionary, finalize

import psutil
import torch
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from opdlab.errors import ServerError
from opdlab.modelling import adapters, hidden_states, log_distribution, sampling_mode
from opdlab.serving.client import Client
from opdlab.serving.dialect import Identity, read_scores, scoring_body
from opdlab.serving.fingerprint import fingerprint
from opdlab.shapes import Tensor

_SENT: WeakKeyDictionary[PreTrainedModel, dict[str, str]] = WeakKeyDictionary()
"""Fingerprint of a model's weights that each server has, by its address."""
LOCK = ".lock"
"""In a copy: held by the process that wrote it, as long as it lives."""
_PREFIX, _PART = f"weights-{socket.gethostname()}-", ".part"


@dataclass(frozen=True, eq=False)
class _Copy:
    """A model's weights on disk; calling `remove` or the end of the model or process removes them."""

    folder: Path
    fingerprint: str
    remove: finalize[Any, Any]


_COPIES: WeakKeyDictionary[PreTrainedModel, _Copy] = WeakKeyDictionary()


def send(client: Client, server: Identity, model: PreTrainedModel, folder: str) -> None:
    """Make the server serve the model's weights.

    Raises:
        ServerError: the server cannot.
    """
    now = fingerprint(model)
    place = written(model, Path(folder), now)
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
    _SENT.setdefault(model, {})[root] = now


def written(model: PreTrainedModel, parent: Path, now: str) -> str:
    """Folder with the model's weights, which is written only where they changed since it was.

    It stays for a server that is started again, until the weights change or this process ends. The next
    copy is whole before the last one goes, so there is room for two.

    Args:
        now: fingerprint of the weights.
    """
    copy = _COPIES.get(model)
    known = copy is not None and copy.folder.is_dir() and copy.folder.parent == parent
    if copy is not None and known and copy.fingerprint == now:
        return str(copy.folder)
    parent.mkdir(parents=True, exist_ok=True)
    _clear(parent)
    folder, lock = _saved(model, parent)
    _COPIES[model] = _Copy(folder, now, finalize(model, _remove, folder, lock))
    if copy is not None:
        copy.remove()
    return str(folder)


def _saved(model: PreTrainedModel, parent: Path) -> tuple[Path, FileLock]:
    """A new copy, which has its name once it is whole, and the lock that says that it is in use."""
    # A name of its own each time: a reader may keep files of the last one open or cached.
    new = Path(mkdtemp(prefix=".new-", dir=parent))
    # It is locked before it has a name by which another process may take it for left behind.
    lock = _lock(new)
    lock.acquire()
    part = new.rename(parent / f"{_PREFIX}{os.getpid()}-{new.name.removeprefix('.new-')}{_PART}")
    try:
        # The server may run as somebody else.
        part.chmod(0o755)
        # A server gets a model as it knows it, adapters merged.
        whole = adapters.whole(model) if adapters.has(model) else model
        whole.save_pretrained(part)
        return part.rename(parent / part.name.removesuffix(_PART)), lock
    except BaseException:
        _remove(part, lock)
        raise


def _lock(copy: Path) -> FileLock:
    # A copy goes when its model does, in whichever thread that is.
    return FileLock(copy / LOCK, timeout=0, thread_local=False)


def _remove(folder: Path, lock: FileLock) -> None:
    rmtree(folder, ignore_errors=True)
    lock.release()


def _clear(parent: Path) -> None:
    """Remove what processes of this machine that were killed left behind: each copy is a whole model."""
    # A longer name of another machine may begin like this one's.
    ours = re.compile(rf"{re.escape(_PREFIX)}(\d+)-\w+({re.escape(_PART)})?")
    for left in parent.iterdir():
        found = ours.fullmatch(left.name)
        if found and not _in_use(left, int(found[1])):
            rmtree(left, ignore_errors=True)


def _in_use(copy: Path, process: int) -> bool:
    """Whether the process that wrote a copy lives.

    Its lock tells, in whichever container with this host's name it is; ids of processes are others there,
    and come again.
    """
    if not (copy / LOCK).exists():
        return psutil.pid_exists(process)
    lock = _lock(copy)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def outdated(client: Client, model: PreTrainedModel) -> bool:
    """Whether the weights changed since they were sent, or never were."""
    return _SENT.get(model, {}).get(client.access.root) != fingerprint(model)


def check(model: PreTrainedModel, server: Identity) -> None:
    """Refuse weights that cannot be sent.

    Raises:
        ServerError: the server takes none, or the weights are sharded.
    """
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
