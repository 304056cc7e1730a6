"""Servers that a process has for itself: each has the weights of one student at a time."""

from __future__ import annotations

import atexit
import errno
import os
import socket
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from opdlab.errors import AwayError
from opdlab.files import hold_name
from opdlab.serving.session import Session

MEETING = "opdlab-server-"
"""Beginning of the names by which the trainings of this machine tell each other which servers they have."""
_TAKEN: dict[str, tuple[int, FileLock | socket.socket]] = {}
"""By name, with the process's id: a fork has none."""


def take(session: Session, folder: Path) -> None:
    """Take a server for this process, as long as it lives.

    Nobody else sends it weights through the same folder, or from this machine. Of a training elsewhere its
    tag tells.

    Raises:
        AwayError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = session.client.access.root
    server = sha256(session.client.access.server.encode()).hexdigest()[:12]
    path = folder / f".server-{server}.lock"
    if not _has(str(path)):
        lock = FileLock(path, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise _of_another(root, f"{path} is locked") from None
        _TAKEN[str(path)] = os.getpid(), lock
    if not _has(MEETING + server):
        try:
            _TAKEN[MEETING + server] = os.getpid(), _named(MEETING + server)
        except OSError as error:
            _give_back(str(path))
            if error.errno != errno.EADDRINUSE:
                raise
            raise _of_another(root, "of this machine") from None


def _has(name: str) -> bool:
    return name in _TAKEN and _TAKEN[name][0] == os.getpid()


def _give_back(name: str) -> None:
    _, held = _TAKEN.pop(name)
    if isinstance(held, FileLock):
        held.release()
    else:
        held.close()


def _named(name: str) -> socket.socket:
    """A name of this machine's; raises OSError where another process has it."""
    found = hold_name(name)
    atexit.register(found.close)
    return found


def _of_another(root: str, where: str) -> AwayError:
    return AwayError(
        f"{root} is taken by another training, which sends it its student's weights ({where}): a "
        "server serves one student. Wait until it ends, or give each training (and each worker of a "
        "sweep) a server of its own"
    )
