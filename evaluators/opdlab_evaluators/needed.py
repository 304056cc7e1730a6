"""How much more it takes to find a difference of a given size, where what there is did not."""

from __future__ import annotations

from collections.abc import Callable

from scipy import stats

MOST = 10**7
POWER = 0.8
LEVEL = 0.05


def factor(freedom: float, power: float = POWER, level: float = LEVEL) -> float:
    """Standard errors that a true difference must measure to be found: two-sided Student's t."""
    return float(stats.t.isf(level / 2, freedom) + stats.t.isf(1 - power, freedom))


def smallest(deviation: float, count: int, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest true difference that `count` problems, or seeds, find.

    Args:
        deviation: standard deviation of the paired differences of single problems, or seeds.
        count: of them, at least 2.
    """
    return factor(count - 1, power, level) * deviation / count**0.5


def count_needed(
    deviation: float, difference: float, power: float = POWER, level: float = LEVEL
) -> int | None:
    """The fewest problems, or seeds, with which a true difference of that size is found.

    None where more than ten million would not do, as for a difference of nothing.
    """
    return _least(lambda count: smallest(deviation, count, power, level) <= abs(difference))


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
