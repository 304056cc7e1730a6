"""What comparing graded answers multiplies the gradient of their outcome by, from the formula alone.

An answer's advantage is `(R_i - mean of its group) / scale`. With grades of 0 and 1 its expected gradient
is that of the outcome times a factor: how much more a right answer is worth than a wrong one, in the mean
over the grades of all others. So a wrong scale shows as a wrong factor.

Source: DeepSeekMath, arXiv:2402.03300; without a scale Dr. GRPO, arXiv:2503.20783.
"""

from __future__ import annotations

import math
from typing import Any

from opdlab.objectives.tiny_world import World

SCALES = ("group", "none", "batch")


def outcome_factor(world: World, method: Any, rows: int, groups: int) -> float | None:
    """The factor of `raise_outcome`; None for a method that has no such scale.

    Args:
        method: whose `scale` is used, or that of the objective below it.
        rows, groups: answers of a batch, and how many groups share them equally.
    """
    scale = getattr(getattr(method, "below", method), "scale", None)
    if scale not in SCALES:
        return None
    graded = zip(world.answers, world.grade, strict=True)
    right = sum(grade * world.probability[answer] for answer, grade in graded)
    size = rows // groups
    total = 0.0
    for near in range(size):
        for far in range(rows - size + 1):
            chance = _binomial(near, size - 1, right) * _binomial(far, rows - size, right)
            gain = _worth(1, near, far, size, rows, scale) - _worth(0, near, far, size, rows, scale)
            total += chance * gain
    return total


def _worth(grade: int, near: int, far: int, size: int, rows: int, scale: str) -> float:
    """Advantage of an answer, where so many others of its group, and of other groups, are right."""
    here = (near + grade) / size
    share = here if scale == "group" else (near + grade + far) / rows
    deviation = 1.0 if scale == "none" else math.sqrt(share * (1 - share))
    return (grade - here) / deviation if deviation else 0.0


def _binomial(right: int, count: int, p: float) -> float:
    return math.comb(count, right) * p**right * (1 - p) ** (count - right)
