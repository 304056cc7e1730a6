"""Who is shown to be better than whom among many systems, and which places each can have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opdlab_evaluators.statistics.intervals import ROUNDING
from opdlab_evaluators.statistics.resampling import SEED

FLIPS = 9_999
LEVEL = 0.05
CHUNK = 1024
TIE = 1e-6


@dataclass(frozen=True)
class Standing:
    """The places that one system can have.

    Attributes:
        first, last: best and worst place that is not ruled out, from 1.
        better, worse: indices of the systems shown to be better, or worse, than it.
    """

    first: int
    last: int
    better: frozenset[int]
    worse: frozenset[int]

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


def rank(benchmarks: Sequence[np.ndarray]) -> list[Standing]:
    """Standings by the mean over benchmarks of the mean over problems.

    Two systems are separated by a paired sign-flip test over problems whose threshold covers all
    pairs at once: over random signs, the same for every system, the largest statistic of any pair
    exceeds it in 5 % of draws. So with a probability of 95 % no "better" is an accident, however
    many systems are compared. What follows from two such findings (a beats b, b beats c) is
    used, too. Two systems that are not separated always share a place: if the places of i all lay
    before those of j, some x would be worse than i and better than j, and i would be better than j.

    Args:
        benchmarks: scores of the problems, `[systems, problems]`, the same systems in each.

    Returns:
        One standing per system, in the given order: the range of its places.

    Examples:
        >>> always, never, once = [1.0] * 30, [0.0] * 30, [1.0] + [0.0] * 29
        >>> [str(place) for place in rank([np.array([always, never, once])])]
        ['1', '2–3', '2–3']

    Source: Westfall and Young, Resampling-Based Multiple Testing, 1993 (single-step maxT).
    """
    weighted = np.concatenate([b / b.shape[1] for b in benchmarks], axis=1)
    count = len(weighted)
    better = _closed(_shown(weighted)) if count > 1 else np.zeros((1, 1), bool)
    return [
        Standing(
            first=1 + int(better[:, i].sum()),
            last=count - int(better[i].sum()),
            better=frozenset(np.flatnonzero(better[:, i]).tolist()),
            worse=frozenset(np.flatnonzero(better[i]).tolist()),
        )
        for i in range(count)
    ]


def _shown(values: np.ndarray) -> np.ndarray:
    """Whether row i is shown to be better than row j, `[systems, systems]`."""
    # The sum of flipped differences is the difference of flipped sums: one product serves all pairs.
    totals = values.sum(1)
    lengths = _distances(values)
    largest = np.concatenate([_largest(values, lengths, rows) for rows in _signs(values.shape[1])])
    threshold = np.sort(largest)[-int(LEVEL * (FLIPS + 1))] + TIE
    return (totals[:, None] - totals) / lengths > threshold


def _distances(values: np.ndarray) -> np.ndarray:
    """Root of the sum of squared differences of each pair, which no sign changes; infinite for none."""
    squares = np.stack([((values - row) ** 2).sum(1) for row in values])
    return np.where(squares > ROUNDING**2, np.sqrt(squares), np.inf)


def _signs(problems: int) -> list[np.ndarray]:
    generator = np.random.default_rng(SEED)
    sizes = [min(CHUNK, FLIPS - start) for start in range(0, FLIPS, CHUNK)]
    return [
        2 * generator.integers(0, 2, (n, problems), dtype=np.int8).astype(np.float32) - 1
        for n in sizes
    ]


def _largest(values: np.ndarray, lengths: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The largest statistic of any pair, under each row of signs."""
    sums = signs @ values.T.astype(np.float32)
    largest = np.zeros(len(signs), np.float32)
    for i in range(len(values) - 1):
        gaps = np.abs(sums[:, i + 1 :] - sums[:, i : i + 1]) / lengths[i, i + 1 :].astype(
            np.float32
        )
        np.maximum(largest, gaps.max(1), out=largest)
    return largest


def _closed(better: np.ndarray) -> np.ndarray:
    """Better than what is worse: the relation with all that follows from it."""
    closed = better.copy()
    for middle in range(len(closed)):
        closed |= closed[:, [middle]] & closed[[middle]]
    return closed
