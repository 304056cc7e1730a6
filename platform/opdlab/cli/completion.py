"""What a shell offers after Tab: it asks at every key, so files are listed and none is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MOST = 200
"""Names offered; more would fill the screen."""


def experiments(incomplete: str) -> list[str]:
    """Shipped experiments, files, and folders on the way to one."""
    from opdlab.files import shipped

    named = [name for name in shipped.experiments() if name.startswith(incomplete)]
    return [*named, *_beside(incomplete, shipped.SUFFIX)][:MOST]


def runs(incomplete: str) -> list[str]:
    """Runs below `runs`, newest executions first, and folders."""
    before, comma, last = incomplete.rpartition(",")
    found = [*_below(Path("runs"), last), *_beside(last, None)]
    return [f"{before}{comma}{name}" for name in dict.fromkeys(found)][:MOST]


def experiments_or_runs(incomplete: str) -> list[str]:
    """Both."""
    return list(dict.fromkeys([*experiments(incomplete), *runs(incomplete)]))[:MOST]


def trainings(incomplete: str) -> list[str]:
    """Executions and runs that have begun, newest executions first, and folders."""
    from opdlab.files import natural

    groups = sorted(_folders(Path("runs")), key=natural, reverse=True)
    named = [one.name for one in groups if one.name.startswith(incomplete)]
    found = [*named, *_below(Path("runs"), incomplete, "metrics.jsonl"), *_beside(incomplete, None)]
    return list(dict.fromkeys(found))[:MOST]


def _below(output: Path, incomplete: str, there: str = "samples") -> Iterator[str]:
    """Runs by their names below the output folder: `quickstart-001/lgr`; those in which something is."""
    from opdlab.files import natural

    for group in sorted(_folders(output), key=natural, reverse=True):
        for run in sorted(_folders(group), key=natural):
            name = f"{group.name}/{run.name}"
            if name.startswith(incomplete) and (run / there).exists():
                yield name


def _folders(folder: Path) -> list[Path]:
    try:
        return [one for one in folder.iterdir() if one.is_dir()]
    except OSError:
        return []


def _beside(incomplete: str, suffix: str | None) -> Iterator[str]:
    """Files with a suffix and folders, as a shell would offer them."""
    folder, start = os.path.split(incomplete)
    try:
        found = sorted(os.scandir(Path(folder or ".").expanduser()), key=lambda one: one.name)
    except OSError:
        return
    for one in found:
        if not one.name.startswith(start) or (one.name.startswith(".") and not start):
            continue
        path = os.path.join(folder, one.name)
        if one.is_dir():
            yield f"{path}/"
        elif suffix is not None and one.name.endswith(suffix):
            yield path
