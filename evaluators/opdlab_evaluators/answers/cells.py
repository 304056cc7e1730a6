"""Values of data files as the texts that stand for them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

MISSING = (
    "nan",
    "nat",
    "none",
    "null",
    "n/a",
    "na",
    "<na>",
    "-",
    "--",
    "?",
    "unknown",
    "tbd",
    "todo",
)
"""What programs and people write for a value that is not there."""
LARGEST_EXACT = 2.0**53


def written(value: Any) -> str:
    """A value of a data file as a text, numbers with all their digits.

    Raises:
        ValueError: it is no text and no number, or a number whose last digits were lost.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"a {type(value).__name__} is no answer")
    if isinstance(value, int):
        return str(value)
    exact = Decimal(repr(value)) if isinstance(value, float) else value
    if (
        isinstance(value, float)
        and abs(value) > LARGEST_EXACT
        and len(exact.as_tuple().digits) > 15
    ):
        raise ValueError("a decimal of this size has lost its last digits: write it as a text")
    if not exact.is_finite():
        raise ValueError("it is no number")
    return f"{exact:f}".removesuffix(".0")
