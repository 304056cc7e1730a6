"""A model's weights on disk for servers to read, and the end of copies that nobody uses."""

from __future__ import annotations

import logging
import os
import re
import socket
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import WeakKeyDictionary, finalize

import psutil
from filelock import FileLock, Timeout
from transformers import PreTrainedModel

from opdlab.modelling import adapters

LOG = logging.getLogger("opdlab")
LOCK = ".lock"
"""In a copy: held by the process that wrote it, as long as it lives."""
_PART = ".part"
_NAME = re.compile(
    rf"weights-(?P<host>.+?)-((?P<boot>[0-9a-f]{{8}})-)?(?P<process>\d+)-\w+({re.escape(_PART)})?"
)


@dataclass(frozen=True, eq=False)
class _Copy:
    """A model's weights on disk; calling `remove` or the end of the model or process removes them."""

    folder: Path
    fingerprint: str
    remove: finalize[Any, Any]


_TOLD: set[Path] = set()
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
    writer = f"{socket.gethostname()}-{_boot()}-{os.getpid()}"
    part = new.rename(parent / f"weights-{writer}-{new.name.removeprefix('.new-')}{_PART}")
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
    """Remove what processes of this machine that were killed left behind: each copy is a whole model.

    The kernel tells whose a copy is, since machines and containers may share a name, or change it. Locks
    tell whether it is in use; those of other kernels may not be seen here, so their copies are told.
    """
    foreign = []
    for left in sorted(parent.iterdir()):
        found = _NAME.fullmatch(left.name)
        if not found:
            continue
        if found["boot"] != _boot():
            foreign += [left.name] if left not in _TOLD else []
            _TOLD.add(left)
        elif not _in_use(left):
            rmtree(left, ignore_errors=True)
    if foreign:
        LOG.warning(
            "%s holds copies of weights by other machines, or from before this one was restarted: %s. "
            "Delete those that no training uses",
            parent,
            ", ".join(foreign),
        )


@cache
def _boot() -> str:
    """Of the running kernel, which containers of one machine share."""
    try:
        found = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        found = str(psutil.boot_time())
    return sha256(found.encode()).hexdigest()[:8]


def _in_use(copy: Path) -> bool:
    """Whether the process that wrote a copy lives.

    Its lock tells, in whichever container it is; ids of processes are others there, and come again.
    """
    lock = _lock(copy)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False
