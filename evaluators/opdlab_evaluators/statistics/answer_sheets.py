"""Samples laid out by problem, and the scores of single problems."""

from __future__ import annotations

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
                f"{sample.problem} is given twice; give each sample once"
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
    """pass@k of each problem, for k = 1 to the smallest n.

    1 - C(n - c, k) / C(n, k), `[problems, k]`: unbiased for the probability that k fresh samples hold a
    correct one. Source: arXiv:2107.03374, eq. 1.

    Returns:
        pass@k as `[problems, k]`, a probability.
    """
    drawn = np.arange(total.min())
    # Once the wrong samples are used up a factor is 0, and so is every later product.
    missed = (total - correct)[:, None] - drawn
    return 1 - np.cumprod(missed / (total[:, None] - drawn), axis=1)
