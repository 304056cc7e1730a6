"""Intervals by drawing problems with replacement: what one problem's tokens share does not count twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from opdlab.diagnosis.observation import Tokens
from opdlab.errors import DataError
from opdlab.shapes import Bool, Float

REPLICATES = 1000
FLIPS = 4999
REPLICATES_OF_TOKENS = 200
"""Of a statistic that is computed anew from all tokens."""


def resampled(count: int, seed: int) -> Float[np.ndarray, "R problems"]:
    """How often each problem is drawn, in each replicate; one seed gives one draw, so that what is
    computed of two models is paired."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(count, np.full(count, 1 / count), size=REPLICATES).astype(float)


def interval(values: Float[np.ndarray, "R ..."]) -> tuple[Any, Any]:
    """2.5 and 97.5 % of replicates, those without a value left out."""
    low, high = np.nanquantile(values, [0.025, 0.975], axis=0)
    return low.tolist(), high.tolist()


def two_sided(below: Bool[np.ndarray, "R"], above: Bool[np.ndarray, "R"]) -> float:
    """p of "no change" from replicates of it that are not above 0, and not below; at least 1 / R."""
    return min(1.0, max(2 * min(int(below.sum()), int(above.sum())), 1) / len(below))


def sign_flip(values: Float[np.ndarray, "n"], seed: int) -> float:
    """Two-sided p of a mean over problems, if each difference had its sign by chance."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (FLIPS, len(values)))
    least = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    return (1 + int((np.abs(signs @ values) >= least).sum())) / (1 + FLIPS)


def interval_of(
    tokens: Tokens, statistic: Callable[[Tokens], float], seed: int
) -> tuple[float, float]:
    """Interval of a statistic of tokens; NaN where no replicate has one."""
    problems = np.unique(tokens.problem)
    places = {number: np.flatnonzero(tokens.problem == number) for number in problems.tolist()}
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(REPLICATES_OF_TOKENS):
        drawn = draw.choice(problems, len(problems))
        rows = np.concatenate([places[number] for number in drawn.tolist()])
        try:
            found.append(statistic(tokens[rows]))
        except DataError:
            continue
    return interval(np.array(found)) if found else (float("nan"), float("nan"))
