"""A model's weights on disk for servers to read, and the end of copies that nobody uses."""

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
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from opdlab.modelling import adapters

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
