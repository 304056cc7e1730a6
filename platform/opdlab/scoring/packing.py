"""Rows of unequal length laid out together: which, so that little filler is among them."""

from __future__ import annotations

from collections.abc import Sequence

MOST_SLOTS = 1.3
"""Slots a token, filler included, that a group may take."""
_WORTH_A_FORWARD = 128
"""Filler of a group that costs less than a forward more."""


def slots_fit(rows: int, longest: int, tokens: int) -> bool:
    """Whether rows in lines as long as the longest hold little filler."""
    return rows * longest <= MOST_SLOTS * tokens + _WORTH_A_FORWARD


def packs(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows in groups of like length, longest first, of at most so many tokens or of one row."""
    groups: list[list[int]] = []
    total = longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        more = total + lengths[row]
        if not groups or more > tokens or not slots_fit(len(groups[-1]) + 1, longest, more):
            groups.append([])
            more, longest = lengths[row], lengths[row]
        groups[-1].append(row)
        total = more
    return groups


def parts_of(rows: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows, in their order, in parts of at most so many tokens, or of one row.

    Args:
        lengths: of every row, by its number.
    """
    parts: list[list[int]] = []
    total = tokens + 1
    for row in rows:
        total += lengths[row]
        if total > tokens:
            parts.append([])
            total = lengths[row]
        parts[-1].append(row)
    return parts
