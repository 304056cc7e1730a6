"""How much more it takes to find a difference of a given size, where what there is did not.

A spread that cannot be known, of one problem or of problems that all differ by the same, gives None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from scipy import optimize, stats

from opdlab_evaluators.statistics.intervals import ROUNDING

MOST = 10**7
POWER = 0.8
LEVEL = 0.05
NEARLY_NORMAL = 2000
"""Degrees of freedom from which the sum of two quantiles is the noncentral t's to four digits."""


@lru_cache(maxsize=4096)
def factor(freedom: float, power: float = POWER, level: float = LEVEL) -> float:
    """Standard errors that a true difference must measure to be found: two-sided Student's t.

    By the noncentral t: with two seeds it is 16.3, and not the 14.1 that the sum of two quantiles of the
    central one gives. The chance to be found on the wrong side is left out: it is below 1e-4.

    Returns:
        The number of standard errors.
    """
    critical = float(stats.t.isf(level / 2, freedom))
    high = critical + float(stats.norm.isf(1 - power))
    if freedom > NEARLY_NORMAL:
        return high

    def missing(size: float) -> float:
        return power - float(stats.nct.sf(critical, freedom, size))

    while missing(high) > 0:
        high *= 1.5
    found = optimize.root_scalar(missing, bracket=(0.0, high), method="brentq", xtol=1e-9)
    return float(found.root)


def smallest(
    deviation: float | None, count: int, power: float = POWER, level: float = LEVEL
) -> float | None:
    """The smallest true difference that `count` problems or seeds can show; None if that is unknown.

    Args:
        deviation: standard deviation of the paired differences of single problems, or seeds.
        count: number of problems, or seeds.
        power: probability to show a difference of that size.
        level: of the test.

    Returns:
        The difference, in the unit of `deviation`; None if that is unknown.
    """
    if deviation is None or not math.isfinite(deviation) or deviation < ROUNDING or count < 2:
        return None
    return factor(count - 1, power, level) * deviation / count**0.5


def count_needed(
    deviation: float | None, difference: float, power: float = POWER, level: float = LEVEL
) -> int | None:
    """The fewest problems, or seeds, with which a true difference of that size is found.

    None where more than ten million would not do, as for a difference of nothing, or where the spread is
    not known.

    Returns:
        The number of problems or seeds, or None.
    """
    if smallest(deviation, 2, power, level) is None or abs(difference) < ROUNDING:
        return None
    return _least(lambda count: (smallest(deviation, count, power, level) or 0) <= abs(difference))


def _least(enough: Callable[[int], bool]) -> int | None:
    """The smallest count from 2 on that is enough; more always is, too."""
    high = 2
    while not enough(high):
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, 2)
