"""One process at a time works in a folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from opdlab.errors import DataError, ResumeError
from opdlab.files.metrics_file import METRICS
from opdlab.files.whole_files import read_json, write_whole

LOCK = ".process.lock"
OWNER = ".process.json"
TRIAL = "trial.json"
"""In the folder of a sweep's trial: which one it is."""
BEGUN = ("config.yaml", "pretraining.yaml", METRICS)
"""Files of a run that has begun, whichever kind it is."""


@contextmanager
def claimed(folder: Path, patient: bool = False) -> Iterator[None]:
    """Hold a folder for this process; the system frees it however the process ends.

    Args:
        patient: wait for another process that works there.

    Raises:
        ResumeError: another process works there; the message names it.
    """
    lock = FileLock(folder / LOCK, timeout=-1 if patient else 0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ResumeError(
            f"{folder} is in use by {_owner(folder)}. Wait until it has ended, or stop it, then try again"
        ) from error
    owner = folder / OWNER
    try:
        write_whole(owner, json.dumps(_who(os.getpid())) + "\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    """Who holds a folder, in words.

    It may not have written its name yet; one that was killed before left its own, and its number may be
    another program's by now.
    """
    try:
        found = read_json(folder / OWNER, "pid", "host")
        if found["host"] == socket.gethostname() and found != _who(int(found["pid"])):
            return "another process"
        return f"process {found['pid']} on {found['host']}"
    except (DataError, ValueError, TypeError, psutil.Error):
        return "another process"


def held_here(folder: Path) -> bool:
    """Whether a process of this machine works in a folder."""
    try:
        found = read_json(folder / OWNER, "pid", "host")
        return found["host"] == socket.gethostname() and found == _who(int(found["pid"]))
    except (DataError, ValueError, TypeError, psutil.Error):
        return False


def holder(run: Path) -> str:
    """Who works in a run's folder or in that of its execution, in words; empty where nobody does."""
    found = [_owner(one) for one in (run, run.parent) if (one / OWNER).is_file()]
    # Nothing is known of a name that a killed process left.
    return found[0] if found and found[0].startswith("process") else ""


def unfinished(run: Path) -> str:
    """Why a run's folder holds no trained model, and what to do; empty where it has one or is not a run."""
    is_run = any((run / name).is_file() for name in BEGUN)
    if not is_run or (run / "model").is_dir():
        return ""
    trial = (run.parent / TRIAL).is_file()
    remedy = "continue with the command that began it" + ("" if trial else " and --resume")
    if found := holder(run):
        remedy = f"wait until {found} has ended, which works there"
    return f"{run} holds no trained model: its training has not ended; {remedy}"


def _who(pid: int) -> dict[str, Any]:
    """A process of this machine; numbers are used again, so it is known by its beginning as well.

    Raises:
        psutil.Error: it has ended.
    """
    started = psutil.Process(pid).create_time()
    return {"pid": pid, "host": socket.gethostname(), "started": started}
