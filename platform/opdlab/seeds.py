"""Seeds as people write them, such as 20261126, and as libraries take them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

LARGEST_SEED = 2**63 - 1
"""Of an experiment: torch and the stores of results keep seeds in 64 bits with a sign."""
_ROWS = 2**40  # of one seed, so that no two seeds share the seed of a row
_IN_ORDER = 2**22  # seeds below it have their rows end to end
_SMALL = 2**32  # numpy's and Lightning's limit


def row_seeds(seed: int, rows: Iterable[int]) -> list[int]:
    """Seeds of rows of an experiment, each from 0 to 2**63 - 1 and a function of its seed and row alone."""
    if seed < _IN_ORDER:
        return [seed * _ROWS + row for row in rows]
    # Rows of large seeds have their places in the upper half of the numbers, far from each other by hash.
    first = 2**62 + _hashed(seed, 2**62 - _ROWS)
    return [first + row for row in rows]


def training_name(run: str, seed: int) -> str:
    """Name of one of several trainings of a run."""
    return f"{run}-{seed}"


def small_seed(seed: int) -> int:
    """The seed itself where it fits into 32 bits, else its hash."""
    return seed if 0 <= seed < _SMALL else _hashed(seed, _SMALL)


def _hashed(seed: int, below: int) -> int:
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()) % below
