"""Numbers with as many digits as their errors leave them."""

from __future__ import annotations

import math

TWO = 3.55
"""Errors up to here, whatever their power of ten, keep two digits."""
MOST = 6
"""Decimals of what has next to no error."""
PARAMETER = 3
"""Significant digits of a setting on a page, whose title holds all of them."""


def decimals(low: float, high: float) -> int:
    """Decimals of a value with this interval.

    Half its width keeps two significant digits up to 35, one from there on (as the Particle Data Group
    rounds), so 12 [4, 20] and 12.3 [9.9, 14.7]. One where it has no width.
    """
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 1
    return max(0, min(MOST, -math.floor(math.log10(half / TWO))))


def with_interval(value: float, low: float, high: float, sign: bool = False) -> str:
    """`12.3 [10.1, 14.5]`, or `+0.3 [-2.5, +2.8]` with signs; a zero has none."""
    return f"{_written(value, decimals(low, high), sign)} {interval(low, high, sign)}"


def interval(low: float, high: float, sign: bool = False) -> str:
    """`[10.1, 14.5]`, in as many digits as its width leaves."""
    places = decimals(low, high)
    return f"[{_written(low, places, sign)}, {_written(high, places, sign)}]"


def _written(value: float, places: int, sign: bool) -> str:
    rounded = round(value, places) + 0.0  # no negative zero
    return f"{rounded:+.{places}f}" if sign and rounded else f"{rounded:.{places}f}"


def short(value: object) -> str:
    """A setting in a few digits; whole numbers and words as they are, and a dash for none."""
    if isinstance(value, float):
        return f"{value:.{PARAMETER}g}"
    return "–" if value is None else str(value)
