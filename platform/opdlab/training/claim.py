"""One process at a time works in a folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from opdlab.errors import ResumeError

LOCK = ".process.lock"
OWNER = ".process.json"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system frees it however the process ends.

    Raises:
        ResumeError: another process works there; the message names it.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ResumeError(
            f"{folder} is in use by {_owner(folder)}. Wait until it has ended, or stop it, then try again"
        ) from error
    owner = folder / OWNER
    try:
        owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    """Who holds a folder, in words; it may not have written its name yet."""
    try:
        found = json.loads((folder / OWNER).read_text())
        return f"process {found['pid']} on {found['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
