"""Samples laid out by problem, and the scores of single problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from opdlab.errors import DataError
from opdlab.records import Sample, Verdict

FAULTS = Verdict.FAULTS


@dataclass(frozen=True, eq=False)
class Sheet:
    """The samples of one checkpoint on one benchmark, by problem and index, in sorted order.

    `correct`, `faults` and `total` hold one number a problem, in the order of `samples`.
    """

    checkpoint: str
    benchmark: str
    protocol: str
    grader: str
    samples: Mapping[str, Mapping[int, Sample]]
    correct: np.ndarray
    faults: np.ndarray
    total: np.ndarray

    @property
    def k(self) -> int:
        """Samples of the problem that has fewest."""
        return int(self.total.min())


def sheets(samples: Sequence[Sample]) -> list[Sheet]:
    """The samples of each (checkpoint, benchmark), in order of appearance; errors as `summarise`."""
    if not samples:
        raise DataError("no samples to score: evaluate a checkpoint first")
    groups: dict[tuple[str, str], dict[str, dict[int, Sample]]] = {}
    for sample in samples:
        group = groups.setdefault((sample.checkpoint, sample.benchmark), {})
        problem = group.setdefault(sample.problem, {})
        if sample.index in problem:
            raise DataError(
                f"{sample.checkpoint} on {sample.benchmark}: sample {sample.index} of problem "
                f"{sample.problem} stands there twice; give each sample once"
            )
        problem[sample.index] = sample
    return [_sheet(*key, problems) for key, problems in groups.items()]


def _sheet(checkpoint: str, benchmark: str, problems: dict[str, dict[int, Sample]]) -> Sheet:
    ordered = {name: dict(sorted(problems[name].items())) for name in sorted(problems)}
    protocols = {(s.protocol, s.grader) for rows in ordered.values() for s in rows.values()}
    if len(protocols) > 1:
        listed = ", ".join(f"{protocol} ({grader})" for protocol, grader in sorted(protocols))
        raise DataError(
            f"{checkpoint} on {benchmark} mixes samples of different protocols (graders): {listed}; "
            "score each by itself"
        )
    (protocol, grader) = protocols.pop()
    statuses = [[sample.status for sample in rows.values()] for rows in ordered.values()]
    return Sheet(
        checkpoint,
        benchmark,
        protocol,
        grader,
        ordered,
        correct=np.array([row.count("correct") for row in statuses]),
        faults=np.array([sum(status in FAULTS for status in row) for row in statuses]),
        total=np.array([len(row) for row in statuses]),
    )


def pass_at_every_k(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    """1 - C(n - c, k) / C(n, k) of each problem, for k = 1 to the smallest n. `[problems, k]`

    Unbiased for the chance that k fresh samples hold a correct one. Source: arXiv:2107.03374, eq. 1.
    """
    drawn = np.arange(total.min())
    # Once the wrong samples are used up a factor is 0, and so is every later product.
    missed = (total - correct)[:, None] - drawn
    return 1 - np.cumprod(missed / (total[:, None] - drawn), axis=1)


def majority(votes: Sequence[tuple[str | None, bool]]) -> float:
    """Score of the most frequent answer among (answer, correct) votes; None does not vote.

    Tied answers share: the score is their mean, the expectation of a fair draw among them. An answer
    counts by the share of its samples that were judged correct, which is 0 or 1 where the grader looks
    at the answer alone. Without any answer the score is 0.
    """
    counts = Counter(answer for answer, _ in votes if answer is not None)
    if not counts:
        return 0.0
    top = max(counts.values())
    right = Counter(answer for answer, correct in votes if correct)
    return float(np.mean([right[a] / count for a, count in counts.items() if count == top]))


def majority_bounds(samples: Sequence[Sample]) -> tuple[float, float]:
    """`majority` of the graded samples, or 0 and 1 where those not graded could outvote it."""
    graded = [s for s in samples if s.status not in FAULTS]
    counts = Counter(s.answer for s in graded if s.answer is not None)
    first, second = ([count for _, count in counts.most_common(2)] + [0, 0])[:2]
    faults = len(samples) - len(graded)
    if faults and faults >= first - second:
        return 0.0, 1.0
    score = majority([(s.answer, s.status == "correct") for s in graded])
    return score, score
