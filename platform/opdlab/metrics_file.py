"""The metrics of a run on disk: a line of `metrics.jsonl` for each step, before it is sent anywhere."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

METRICS = "metrics.jsonl"
PARTS = ("seconds/rollout", "seconds/teacher", "seconds/update")
"""Metrics that add up to the seconds of a step of training."""


def end_line(path: Path) -> None:
    """End a line that a crash cut short, so that it does not swallow the next one."""
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("a") as file:
            file.write("\n")


def is_bin(name: str) -> bool:
    """Whether a metric is that of a bin of positions, such as `fidelity/t0000-0015`."""
    return re.search(r"/t\d+-\d+$", name) is not None


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run, one mapping a step; a line that is none, cut short by a crash, is dropped."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int | float):
                rows.append(row)
    return rows
