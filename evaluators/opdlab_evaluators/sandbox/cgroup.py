"""Limits on the processes and the memory of a whole sandbox, where this user may make control groups.

Only groups that nobody else manages are used: in version 2 a folder that is ours to write and hands both
controllers down, in version 1 (which has no delegation) the top of a hierarchy that this process is in.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("pids", "memory")
_LIMITS = {
    ("pids", 1): "pids.max",
    ("pids", 2): "pids.max",
    ("memory", 1): "memory.limit_in_bytes",
    ("memory", 2): "memory.max",
}
_NUMBERS = count()
REMOVAL_S = 2.0


def parents(own: str | None = None, root: Path = ROOT) -> dict[str, Path]:
    """The folder in which a group may be made, for each controller that there is one for.

    Args:
        own: content of /proc/self/cgroup.
    """
    try:
        own = Path("/proc/self/cgroup").read_text() if own is None else own
    except OSError:
        return {}
    entries = [line.split(":", 2) for line in own.splitlines() if line.count(":") >= 2]
    if (root / "cgroup.controllers").exists():
        path = next((path for _, names, path in entries if not names), "/")
        found = _delegated(root, root / path.lstrip("/"))
        return dict.fromkeys(CONTROLLERS, found) if found else {}
    tops = {name for _, names, path in entries if path == "/" for name in names.split(",")}
    folders = {name: root / name for name in CONTROLLERS if name in tops}
    return {name: path for name, path in folders.items() if os.access(path, os.W_OK)}


def _delegated(root: Path, own: Path) -> Path | None:
    for folder in own.parents:
        if not folder.is_relative_to(root):
            return None
        handed = folder / "cgroup.subtree_control"
        with contextlib.suppress(OSError):
            if set(CONTROLLERS) <= set(handed.read_text().split()) and os.access(folder, os.W_OK):
                return folder
    return None


class Groups:
    """One group in each hierarchy; `close` removes them once they are empty."""

    def __init__(
        self, limits: Mapping[str, int], own: str | None = None, root: Path = ROOT
    ) -> None:
        version = 2 if (root / "cgroup.controllers").exists() else 1
        name = f"opdlab-{os.getpid()}-{next(_NUMBERS)}"
        self.folders: dict[str, Path] = {}
        for controller, parent in parents(own, root).items():
            _sweep(parent)
            try:
                (parent / name).mkdir(exist_ok=True)
                (parent / name / _LIMITS[controller, version]).write_text(str(limits[controller]))
            except OSError:
                continue  # a limit that cannot be set is one that this machine has not
            self.folders[controller] = parent / name

    @property
    def joined(self) -> list[str]:
        """Files into which a process writes 0 to be a member."""
        return sorted({str(folder / "cgroup.procs") for folder in self.folders.values()})

    def close(self) -> None:
        """Remove the groups; processes that were killed take a moment to leave them."""
        deadline = time.monotonic() + REMOVAL_S
        for folder in set(self.folders.values()):
            while folder.exists() and time.monotonic() < deadline:
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.01)
        self.folders = {}


def _sweep(parent: Path) -> None:
    """Remove what processes that were killed have left."""
    for folder in parent.glob("opdlab-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
