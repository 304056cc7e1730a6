"""95 % intervals for averages over problems, and over training seeds.

The problem is the unit: its k samples are not independent of one another, so every interval here is
computed from one number a problem. All functions work on the last axis, n problems or seeds; the axes
before it are independent repetitions.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

TAIL = 0.025
ROUNDING = 1e-12
"""Scores of samples that differ at all differ by more; what is nearer than this is the same number."""


def mean_interval(
    values: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Interval for the mean of numbers between 0 and 1, such as mean@k, pass@k or maj@k.

    Student's t over the problems and two imaginary ones, one scored 0 and one scored 1, so that a spread
    which the sample happened not to show is not taken for no spread: if all n problems are solved, about
    4 / n may still not be. The interval lies in [0, 1] and contains the plain mean.

    `opdlab bench statistics` prints the coverage of this and other intervals. For problems that are each
    right or wrong it is at least 93 %, whatever their share (by enumeration).

    Args:
        values: one per problem, between 0 and 1. `[..., problems]`
        weights: of each problem in the mean, such as its tokens; equal by default.

    Returns:
        Lower and upper limits of the 95 % interval.

    Source: the idea of Agresti and Coull, The American Statistician 52, 1998, with problems for trials.

    Examples:
        >>> low, high = mean_interval(np.ones(30))
        >>> round(float(low), 3), float(high)
        (0.905, 1.0)
    """
    return with_imaginary(values, weights, 0.0, 1.0)


def difference_interval(
    values: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Interval for the mean of paired differences, each between -1 and 1; see `mean_interval`.

    The two imaginary problems are one won and one lost completely. Among 30 problems of which none
    differs the interval is [-9.2, 9.2] points. That is close to the shortest there can be: if 8 % of all
    problems differed completely, 8 % of such draws of 30 would show none of them.

    Returns:
        Lower and upper limits, differences between -1 and 1.
    """
    return with_imaginary(values, weights, -1.0, 1.0)


def seed_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval for the mean of differences between training runs, one a seed: Student's t over seeds.

    Each is itself a mean over problems, and so nearly normal; imaginary runs at the ends of the scale
    would outweigh two to five real ones. Where all runs agree nothing is known of their spread: no
    exception in n leaves at most 1 - 0.025^(1/n) exceptions among all runs (Clopper-Pearson), each of
    which could lie at the end of the scale.

    Returns:
        Lower and upper limits, in the unit of `values`.
    """
    n = values.shape[-1]
    mean = values.mean(-1)
    share = 1 - TAIL ** (1 / n)
    bound = mean - share * (mean + 1), mean + share * (1 - mean)
    if n < 2:
        return bound
    half = stats.t.isf(TAIL, n - 1) * values.std(-1, ddof=1) / np.sqrt(n)
    agree = constant(values)
    low, high = np.where(agree, bound[0], mean - half), np.where(agree, bound[1], mean + half)
    return np.clip(low, -1.0, 1.0), np.clip(high, -1.0, 1.0)


def combine(
    value: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plain mean over independent benchmarks (last axis) and its interval.

    The distances to the limits add up in squares, each side by itself, which keeps the asymmetry near
    0 and 1. Source: Zou and Donner, Statistics in Medicine 27, 2008 (MOVER).

    Returns:
        The mean and its lower and upper limits.
    """
    benchmarks = value.shape[-1]
    mean = value.mean(-1)
    below = np.sqrt(((value - low) ** 2).sum(-1)) / benchmarks
    above = np.sqrt(((high - value) ** 2).sum(-1)) / benchmarks
    return mean, mean - below, mean + above


def constant(values: np.ndarray) -> np.ndarray:
    """Whether all values of the last axis are one number, but for rounding."""
    return np.ptp(values, axis=-1) < ROUNDING


def with_imaginary(
    values: np.ndarray,
    weights: np.ndarray | None,
    floor: float,
    ceiling: float,
    imaginary: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Student's t over the values and `imaginary` more at either end of the scale."""
    weights = np.ones_like(values, dtype=float) if weights is None else weights
    share = weights / weights.sum(-1, keepdims=True)
    # Kish's effective number: so many problems of equal weight say as much.
    n = 1 / (share**2).sum(-1)
    count = n + 2 * imaginary
    mean = (n * (share * values).sum(-1) + imaginary * (floor + ceiling)) / count
    squares = n * (share * (values - mean[..., None]) ** 2).sum(-1)
    squares += imaginary * ((floor - mean) ** 2 + (ceiling - mean) ** 2)
    half = stats.t.isf(TAIL, count - 1) * np.sqrt(squares / (count - 1) / count)
    return np.clip(mean - half, floor, ceiling), np.clip(mean + half, floor, ceiling)
