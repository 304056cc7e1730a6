"""The metrics of a run on disk: a line of `metrics.jsonl` for each step, before it is sent anywhere."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from opdlab.files.whole_files import damaged, is_there, read_file

METRICS = "metrics.jsonl"
PARTS = ("seconds/rollout", "seconds/teacher", "seconds/update")
"""Metrics that add up to the seconds of a step of training."""


def end_line(path: Path) -> None:
    """End a line that a crash cut short, so that it does not swallow the next one."""
    if path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("a") as file:
            file.write("\n")


def is_bin(name: str) -> bool:
    """Whether a metric is that of a bin of positions, such as `fidelity/t0000-0015`."""
    return re.search(r"/t\d+-\d+$", name) is not None


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run, one mapping a step; a line that is none, cut short by a crash, is dropped.

    Raises:
        DataError: the file cannot be read, or is no text; the message names it.
    """
    path = folder / METRICS
    if not is_there(path):
        return []
    rows = []
    try:
        lines = read_file(path).decode().split("\n")
    except (OSError, ValueError) as error:
        remedy = (
            "restore it from a copy, or delete it: the run then has no curves, but keeps its scores"
        )
        raise damaged(path, str(error), remedy) from error
    for line in lines:
        with suppress(ValueError, RecursionError, OverflowError):
            row = _row(json.loads(line))
            if math.isfinite(row.get("step", math.nan)) and math.isfinite(row.get("time", 0.0)):
                rows.append(row)
    return rows


def _row(line: Any) -> dict[str, float]:
    """The numbers in a line."""
    pairs = line.items() if isinstance(line, dict) else ()
    return {key: v for key, v in pairs if isinstance(v, int | float) and not isinstance(v, bool)}
