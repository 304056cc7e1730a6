"""The metrics of a run on disk: a line of `metrics.jsonl` for each step, before it is sent anywhere."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from opdlab.files.whole_files import damaged, is_there, read_file, write_whole

METRICS = "metrics.jsonl"
OWNER = "execution"
"""Key of the first line, which says whose metrics these are."""
PARTS = ("seconds/rollout", "seconds/teacher", "seconds/update")
"""Metrics that add up to the seconds of a step of training."""

WITHOUT = "restore it from a copy, or delete it: the run then has no curves, but keeps its scores"


def end_line(path: Path) -> None:
    """End a line that a crash cut short, so that it does not swallow the next one."""
    if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("a") as file:
            file.write("\n")


def begin_metrics(folder: Path, execution: str) -> None:
    """Write whose metrics follow, where none are there yet.

    Args:
        execution: id of the training.

    Raises:
        DataError: those that are there are another's.
    """
    path = folder / METRICS
    if is_there(path):
        read_metrics(folder, execution)
    else:
        path.write_text(json.dumps({OWNER: execution}) + "\n")


def is_bin(name: str) -> bool:
    """Whether a metric is that of a bin of positions, such as `fidelity/t0000-0015`."""
    return re.search(r"/t\d+-\d+$", name) is not None


def read_metrics(folder: Path, execution: str | None = None) -> list[dict[str, float]]:
    """The metrics of a run, one mapping a step; a line that is none, cut short by a crash, is dropped.

    Args:
        execution: id of the training that they must be of, where they say whose they are.

    Raises:
        DataError: the file cannot be read, is not a text, or is another training's; the message names it.
    """
    path = folder / METRICS
    if not is_there(path):
        return []
    rows = []
    try:
        lines = read_file(path).decode().split("\n")
    except (OSError, ValueError) as error:
        raise damaged(path, str(error), WITHOUT) from error
    for line in lines:
        row: dict[str, Any] = {}
        with suppress(ValueError, RecursionError):
            told = json.loads(line)
            row = told if isinstance(told, dict) else {}
        if execution and row.get(OWNER, execution) != execution:
            why = f"it is of the training {row[OWNER]}, not {execution}"
            raise damaged(path, why, WITHOUT)
        with suppress(OverflowError):
            found = _numbers(row)
            if math.isfinite(found.get("step", math.nan)) and math.isfinite(found.get("time", 0.0)):
                rows.append(found)
    return rows


def replace_metrics(folder: Path, step: int, part: str, values: Mapping[str, float]) -> None:
    """Put others in the place of a step's metrics whose names begin with `part`; of no curves nothing."""

    def replaced(row: dict[str, Any]) -> dict[str, Any]:
        if row.get("step") != step:
            return row
        return {name: v for name, v in row.items() if not name.startswith(part)} | {**values}

    _rewrite(folder, replaced)


def forget_metrics(folder: Path, after: int) -> None:
    """Drop the rows of the steps after one."""
    _rewrite(folder, lambda row: None if row.get("step", after) > after else row)


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change rows, or drop them for None; lines that are none stay."""
    path = folder / METRICS
    if not is_there(path):
        return
    lines: list[bytes] = []
    for line in read_file(path).split(b"\n"):
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            row = json.loads(line)
            if (changed := change(row)) is None:
                continue
            line = line if changed == row else json.dumps(changed).encode()
        lines.append(line)
    write_whole(path, b"\n".join(lines))


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numbers in a line."""
    pairs = row.items()
    return {key: v for key, v in pairs if isinstance(v, int | float) and not isinstance(v, bool)}
