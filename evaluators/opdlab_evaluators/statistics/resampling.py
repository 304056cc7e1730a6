"""Permutation test and bootstrap over problems, and the correction for making several tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from opdlab_evaluators.statistics.intervals import ROUNDING

EXACT_UP_TO = 16
FLIPS = 99_999
RESAMPLES = 9_999
SEED = 20260529


def sign_flip_p(contributions: np.ndarray) -> float:
    """Two-sided p-value of a sum of independent paired differences, if each sign were a coin's.

    Exact over all sign patterns while at most 16 differences are not zero; else 99,999 seeded patterns
    and the observed one, which keeps the test valid (Phipson and Smyth 2010).

    Args:
        contributions: one difference a problem, each times its weight in the mean.

    Returns:
        The p-value, above 0 and at most 1.
    """
    moving = contributions[np.abs(contributions) > ROUNDING]
    if not len(moving):
        return 1.0
    # Equal sums reached along different patterns differ by rounding; they are ties.
    limit = abs(moving.sum()) - 1e-9 * np.abs(moving).sum()
    if len(moving) <= EXACT_UP_TO:
        patterns = (np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving))) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ moving) >= limit))
    extreme = sum(int((np.abs(sums) >= limit).sum()) for sums in _random_sums(moving))
    return (extreme + 1) / (FLIPS + 1)


def _random_sums(moving: np.ndarray) -> Iterable[np.ndarray]:
    """FLIPS sums under random signs, some thousand at a time to bound memory."""
    generator = np.random.default_rng(SEED)
    width = -(-len(moving) // 8)
    for start in range(0, FLIPS, 8192):
        rows = min(8192, FLIPS - start)
        packed = generator.integers(0, 256, (rows, width), dtype=np.uint8)
        bits = np.unpackbits(packed, axis=1, count=len(moving)).astype(float)
        yield 2 * (bits @ moving) - moving.sum()


def bootstrap_interval(benchmarks: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean of benchmark means, problems resampled within each.

    The problem is drawn with all its samples (a cluster bootstrap); of paired differences it is the
    paired bootstrap. With 30 problems it contains the true value a little less often than Student's t,
    which is therefore the headline interval; if the two disagree, few problems decide.

    Args:
        benchmarks: one number a problem, for each benchmark.

    Returns:
        Lower and upper limit, in the unit of the numbers.
    """
    generator = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for values in benchmarks:
        # Scores of k samples take few values: drawing how often each comes is drawing the problems.
        kinds, counts = np.unique(values, return_counts=True)
        n = len(values)
        means += generator.multinomial(n, counts / n, RESAMPLES) @ kinds / n / len(benchmarks)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def holm(
    p_values: Sequence[float | None], weights: Sequence[float] | None = None
) -> list[float | None]:
    """Holm's step-down adjustment, in the given order; a test without a p-value still counts.

    Args:
        p_values: one per test.
        weights: of the tests, equal by default. A test with a larger weight is adjusted less (Holm 1979,
            section 3); the probability of any false claim stays the same.

    Returns:
        Adjusted p-values, at most 1, in the given order; None for a test without one.

    Examples:
        >>> holm([0.01, 0.04, None])
        [0.03, 0.08, None]
    """
    weights = [1.0] * len(p_values) if weights is None else weights
    order = sorted(range(len(p_values)), key=lambda i: _or_one(p_values[i]) / weights[i])
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        left = sum(weights[j] for j in order[rank:])
        running = max(running, min(1.0, _or_one(p_values[i]) * left / weights[i]))
        adjusted[i] = None if p_values[i] is None else running
    return adjusted


def shares(overall: Sequence[bool]) -> list[float]:
    """Weights of tests that are claimed together.

    Half for those over all benchmarks, which are the main claims, half for those on one; each half in
    equal parts.

    Returns:
        One weight per test; they sum to 1.
    """
    kinds = {kind: overall.count(kind) for kind in set(overall)}
    return [1 / len(kinds) / kinds[kind] for kind in overall]


def together(p_values: Sequence[float | None], overall: Sequence[bool]) -> list[float | None]:
    """Holm's adjustment of what is claimed together, with the weights of `shares`."""
    return holm(p_values, shares(overall))


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p
