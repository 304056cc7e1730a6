"""95 % intervals for averages over problems.

The problem is the unit: its k samples are not independent of one another, so every interval here is
computed from one number a problem. All functions work on the last axis, n problems; the axes before it
are independent repetitions.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

TAIL = 0.025


def mean_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval for the mean of numbers between 0 and 1, such as mean@k, pass@k or maj@k.

    Wilson's interval with n replaced by the effective number of independent trials that the variance
    among problems implies, and Student's t in place of the normal. Against t on the plain mean it
    keeps its coverage near 0 and 1 (n = 96 and 5 % of problems solvable: 97 % against 86 %), stays
    inside [0, 1], and is no wider.

    Source: Wilson 1927; Korn and Graubard, Survey Methodology 24, 1998 (effective sample size).
    """
    if _is_constant(values).all():
        return _constant_interval(values, 0.0, 1.0)
    n = values.shape[-1]
    mean = values.mean(-1)
    spread = mean * (1 - mean)
    effective = np.where(
        spread > 0, values.var(-1, ddof=1) / n / np.where(spread > 0, spread, 1), 0
    )
    r = stats.t.isf(TAIL, n - 1) ** 2 * effective
    centre = (mean + r / 2) / (1 + r)
    half = np.sqrt(r * spread + r**2 / 4) / (1 + r)
    return _unless_constant(values, centre - half, centre + half, 0.0, 1.0)


def difference_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval for the mean of paired differences, each between -1 and 1: Student's t over problems.

    Chosen among t, percentile, expanded percentile and BCa bootstrap by simulated coverage: with 30 to
    175 problems t had 93 to 97 % wherever at least 15 % of problems differed, each bootstrap less.
    """
    if _is_constant(values).all():
        return _constant_interval(values, -1.0, 1.0)
    n = values.shape[-1]
    mean = values.mean(-1)
    half = stats.t.isf(TAIL, n - 1) * values.std(-1, ddof=1) / np.sqrt(n)
    return _unless_constant(values, mean - half, mean + half, -1.0, 1.0)


def combine(
    value: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plain mean over independent benchmarks (last axis) and its interval.

    The distances to the limits add up in squares, each side by itself, which keeps the asymmetry near
    0 and 1. Source: Zou and Donner, Statistics in Medicine 27, 2008 (MOVER).
    """
    benchmarks = value.shape[-1]
    mean = value.mean(-1)
    below = np.sqrt(((value - low) ** 2).sum(-1)) / benchmarks
    above = np.sqrt(((high - value) ** 2).sum(-1)) / benchmarks
    return mean, mean - below, mean + above


def _is_constant(values: np.ndarray) -> np.ndarray:
    return np.ptp(values, axis=-1) == 0


def _constant_interval(
    values: np.ndarray, floor: float, ceiling: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where all n problems agree: the exact bound on the share of problems that would not.

    No exception in n problems leaves at most 1 - 0.025^(1/n) exceptions in the population
    (Clopper-Pearson), each of which could lie at the end of the scale.
    """
    share = 1 - TAIL ** (1 / values.shape[-1])
    mean = values.mean(-1)
    return mean - share * (mean - floor), mean + share * (ceiling - mean)


def _unless_constant(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, floor: float, ceiling: float
) -> tuple[np.ndarray, np.ndarray]:
    constant = _is_constant(values)
    bound_low, bound_high = _constant_interval(values, floor, ceiling)
    low, high = np.where(constant, bound_low, low), np.where(constant, bound_high, high)
    return np.clip(low, floor, ceiling), np.clip(high, floor, ceiling)
