"""Curves of training: metrics by step, and the teacher's fidelity by position early and late."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CURVES = {
    "reverse_kl": "reverse KL to the teacher, nats",
    "accuracy": "share of right answers in rollouts",
    "entropy": "student's entropy, nats",
    "response_length": "response length, tokens",
    "truncated_share": "share cut at the limit",
    "repetition_rate": "share of repeated 4-grams",
    "fidelity": "fidelity: teacher's largest probability",
}
SHARES = ("accuracy", "truncated_share", "repetition_rate")
"""Curves that are shown from 0 on: a share that never moves is no wave."""
POINTS = 80
ENDS = 0.1
BIN = re.compile(r"fidelity/t(\d+)-(\d+)$")


Curve = Sequence[Sequence[float | None]]
"""Positions and values; None is a gap in the line."""


def training_curves(seeds: Sequence[list[dict[str, float]]]) -> dict[str, Curve]:
    """`{metric: [steps, values]}`, means over seeds and over neighbouring steps, at most 80 points.

    Where a step's figure is not finite the line has a gap: that is where a training broke.
    """
    found: dict[str, Curve] = {}
    for name in CURVES:
        lines = [
            [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            for rows in seeds
        ]
        points = [point for line in lines for point in line]
        if points:
            steps, values = np.array(points).T
            parts = np.array_split(np.unique(steps), min(POINTS, len(np.unique(steps))))
            near = [values[(steps >= p[0]) & (steps <= p[-1])] for p in parts]
            means = [float(one.mean()) if np.isfinite(one).all() else None for one in near]
            found[name] = [[float(p.mean()) for p in parts], means]
    return found


def fidelity_curves(seeds: Sequence[list[dict[str, float]]]) -> dict[str, Curve]:
    """`{"first steps": [positions, values], "last steps": ...}`: the first and last tenth of training.

    Each value is the mean of F(t) in a bin of positions, each step weighing the same.
    """
    found: dict[str, Curve] = {}
    for label, part in (("first steps", _first), ("last steps", _last)):
        rows = [row for run in seeds for row in part([r for r in run if "fidelity" in r])]
        names = {n for row in rows for n in row if BIN.match(n) and _known(row, n)}
        bins = sorted(names, key=_middle)
        if bins:
            middles = [_middle(name) for name in bins]
            found[label] = [middles, [float(np.mean(_values(rows, name))) for name in bins]]
    return found


def _first(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return rows[: max(1, round(ENDS * len(rows)))]


def _last(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return rows[-max(1, round(ENDS * len(rows))) :]


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if _known(row, name)]


def _known(row: Mapping[str, Any], name: str) -> bool:
    """Whether a step has the metric, as a number that can be drawn."""
    return row.get(name) is not None and math.isfinite(row[name])


def _middle(name: str) -> float:
    match = BIN.match(name)
    assert match is not None
    return (int(match[1]) + int(match[2])) / 2
