"""Sets of real numbers made of intervals, however they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mpmath

CLOSE = mpmath.mpf(10) ** -40
INFINITY = mpmath.inf


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`; whether each end belongs to it."""

    low: Any
    high: Any
    low_in: bool
    high_in: bool

    def holds(self, x: Any) -> bool:
        """Whether a number, not closer than CLOSE to an end unless it is that end, lies inside."""
        if _equal(x, self.low):
            return self.low_in and (self.low_in if not _equal(x, self.high) else self.high_in)
        if _equal(x, self.high):
            return self.high_in
        return bool(self.low < x < self.high)


Region = tuple[Interval, ...]
EVERYTHING: Region = (Interval(-INFINITY, INFINITY, False, False),)


def _equal(a: Any, b: Any) -> bool:
    if not (mpmath.isfinite(a) and mpmath.isfinite(b)):
        return bool(a == b)
    return bool(abs(a - b) <= CLOSE * max(1, abs(a), abs(b)))


def interval(low: Any, high: Any, low_in: bool, high_in: bool) -> Region:
    """One interval; an infinite end never belongs to it. Empty where it holds nothing."""
    low_in, high_in = low_in and mpmath.isfinite(low), high_in and mpmath.isfinite(high)
    if _equal(low, high):
        return (Interval(low, high, True, True),) if low_in and high_in else ()
    return (Interval(low, high, low_in, high_in),) if low < high else ()


def points(values: Iterable[Any]) -> Region:
    """Single numbers."""
    return combine(lambda *inside: any(inside), *[interval(v, v, True, True) for v in values])


def combine(rule: Callable[..., bool], *regions: Region) -> Region:
    """The numbers for which the rule, given whether each region holds them, is true."""
    ends: list[Any] = []
    for end in sorted(e for r in regions for i in r for e in (i.low, i.high) if mpmath.isfinite(e)):
        if not ends or not _equal(ends[-1], end):
            ends.append(end)

    def inside(x: Any) -> bool:
        return rule(*[any(i.holds(x) for i in region) for region in regions])

    # Gaps and ends in turn: gap, end, gap, end, ..., gap.
    cells: list[tuple[Any, Any, bool, bool]] = []
    edges = [-INFINITY, *ends, INFINITY]
    for number, (low, high) in enumerate(pairwise(edges)):
        if number:
            cells.append((low, low, True, inside(low)))
        cells.append((low, high, False, inside(between(low, high))))
    found: list[Interval] = []
    joined = False
    for low, high, point, held in cells:
        if held and joined:
            found[-1] = Interval(found[-1].low, high, found[-1].low_in, point)
        elif held:
            found.append(Interval(low, high, point, point))
        joined = held
    return tuple(found)


def between(low: Any, high: Any) -> Any:
    """A number inside of an interval."""
    if not mpmath.isfinite(low):
        return mpmath.mpf(0) if not mpmath.isfinite(high) else high - 1 - abs(high)
    return low + 1 + abs(low) if not mpmath.isfinite(high) else (low + high) / 2


def union(*regions: Region) -> Region:
    """Numbers of any of them."""
    return combine(lambda *inside: any(inside), *regions)


def intersection(*regions: Region) -> Region:
    """Numbers of all of them."""
    return combine(lambda *inside: all(inside), *regions)


def without(first: Region, second: Region) -> Region:
    """Numbers of the first that the second does not hold."""
    return combine(lambda a, b: a and not b, first, second)


def same(a: Region, b: Region) -> bool:
    """Whether they hold the same numbers."""
    return len(a) == len(b) and all(
        _equal(x.low, y.low)
        and _equal(x.high, y.high)
        and (x.low_in, x.high_in) == (y.low_in, y.high_in)
        for x, y in zip(a, b, strict=True)
    )
