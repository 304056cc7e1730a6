"""Two checkpoints on the same problems: paired differences with intervals and p-values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opdlab.errors import DataError
from opdlab.records import JUDGED, Sample
from opdlab_evaluators.statistics.answer_sheets import Sheet, pass_at_every_k, sheets
from opdlab_evaluators.statistics.intervals import combine, difference_interval
from opdlab_evaluators.statistics.resampling import bootstrap_interval, sign_flip_p, together
from opdlab_evaluators.statistics.scores import joint_protocol

POOLED = "all benchmarks"


@dataclass(frozen=True)
class Difference:
    """What b has more than a, on the same problems.

    Attributes:
        a, b: the two scores; None where a sample could not be graded, as all up to `p_holm` are then.
        value: b - a.
        low, high: 95 % interval over problems.
        p: two-sided sign-flip permutation test of "no difference" over problems.
        p_holm: `p` corrected for all that is tested with it (Holm), here the benchmarks and the
            difference over all of them, which has half of the weight; over several pairs see
            `opdlab_evaluators.statistics.claims`.
        problems: the denominator.
        worst, best: the difference if every sample that could not be graded went against b, or for b.
        bootstrap: 95 % interval by the paired bootstrap over problems, for comparison with `low`, `high`.
    """

    a: float | None
    b: float | None
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    problems: int
    worst: float
    best: float
    bootstrap: tuple[float, float] | None = None


@dataclass(frozen=True)
class Paired:
    """Checkpoints a and b on one benchmark, or on all of them (`benchmark` is "all benchmarks").

    `pass_at` is pass@k at `k`, the samples of the problem that has fewest on either side.
    """

    a: str
    b: str
    benchmark: str
    protocol: str
    problems: int
    k: int
    mean: Difference
    pass_at: Difference


@dataclass(frozen=True, eq=False)
class Pair:
    """The two sides of one benchmark: the same problems in the same order."""

    a: Sheet
    b: Sheet

    @property
    def k(self) -> int:
        """Samples of the problem that has fewest on either side."""
        return min(self.a.k, self.b.k)

    @property
    def graded(self) -> bool:
        """Whether every sample of both sides has a verdict on its answer."""
        return not (self.a.faults.any() or self.b.faults.any())


def compare(a: Sequence[Sample], b: Sequence[Sample]) -> list[Paired]:
    """Compare b with a, paired by problem: one result per benchmark, then one over all of several.

    Differences are b - a. Over all, benchmarks weigh the same; those that a model judged are left out.

    Returns:
        Results with differences as shares between -1 and 1, and with p-values by a sign-flip permutation
            test.

    Raises:
        DataError: a side holds no samples or several checkpoints, or the sides differ in benchmarks,
            problems or protocols.
    """
    pairs = pair_up(a, b)
    each = [_paired(pair.a.benchmark, pair.a.protocol, [pair]) for pair in pairs]
    exact = [pair for pair in pairs if not pair.a.grader.startswith(JUDGED)]
    if len(exact) > 1:
        each.append(_paired(POOLED, joint_protocol([pair.a for pair in exact]), exact))
    means, passes = _corrected([r.mean for r in each]), _corrected([r.pass_at for r in each])
    return [
        replace(result, mean=mean, pass_at=passed)
        for result, mean, passed in zip(each, means, passes, strict=True)
    ]


def pair_up(a: Sequence[Sample], b: Sequence[Sample]) -> list[Pair]:
    """The benchmarks of two sides, by name; refuses what cannot be compared (see `compare`)."""
    left, right = _by_benchmark(a, "a"), _by_benchmark(b, "b")
    if left.keys() != right.keys():
        raise DataError(
            "the sides were evaluated on different benchmarks: "
            f"{_only('a', left.keys() - right.keys())}{_only('b', right.keys() - left.keys())}"
            "evaluate both on the same, or leave the others out"
        )
    for name in left:
        check_comparable(left[name], right[name])
    return [Pair(left[name], right[name]) for name in sorted(left)]


def check_comparable(a: Sheet, b: Sheet) -> None:
    """Raise DataError unless both were measured in the same way on the same problems."""
    names = f"{a.checkpoint} and {b.checkpoint} on {a.benchmark}"
    if a.protocol != b.protocol:
        raise DataError(
            f"{names} were measured under different protocols, {a.protocol} (grader {a.grader}) and "
            f"{b.protocol} (grader {b.grader}): evaluate or grade one of them again with the same "
            "problems, prompt template, sampling, k and grader"
        )
    if a.samples.keys() != b.samples.keys():
        raise DataError(
            f"{names} have different problems: "
            f"{_only('a', a.samples.keys() - b.samples.keys())}"
            f"{_only('b', b.samples.keys() - a.samples.keys())}"
            "evaluate the missing ones"
        )


def mean_at_k(sheet: Sheet, correct: np.ndarray, k: int) -> np.ndarray:
    """Share of correct samples of each problem, of all it has."""
    del k
    return correct / sheet.total


def pass_at_k(sheet: Sheet, correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each problem."""
    return pass_at_every_k(correct, sheet.total)[:, k - 1]


def _by_benchmark(samples: Sequence[Sample], side: str) -> dict[str, Sheet]:
    found = sheets(samples)
    checkpoints = sorted({sheet.checkpoint for sheet in found})
    if len(checkpoints) > 1:
        raise DataError(
            f"side {side} holds {', '.join(checkpoints)}: give the samples of one checkpoint"
        )
    return {sheet.benchmark: sheet for sheet in found}


def _only(side: str, names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} only on side {side} ({shown}); " if names else ""


def _paired(benchmark: str, protocol: str, pairs: Sequence[Pair]) -> Paired:
    return Paired(
        a=pairs[0].a.checkpoint,
        b=pairs[0].b.checkpoint,
        benchmark=benchmark,
        protocol=protocol,
        problems=sum(len(pair.a.samples) for pair in pairs),
        k=min(pair.k for pair in pairs),
        mean=_difference(pairs, mean_at_k),
        pass_at=_difference(pairs, pass_at_k),
    )


def _difference(
    pairs: Sequence[Pair], score: Callable[[Sheet, np.ndarray, int], np.ndarray]
) -> Difference:
    k = min(pair.k for pair in pairs)
    worst_a, best_a, worst_b, best_b = (
        [score(sheet, sheet.correct + faults * sheet.faults, k) for sheet in side]
        for side in ([p.a for p in pairs], [p.b for p in pairs])
        for faults in (0, 1)
    )
    bounds: dict[str, Any] = {
        "problems": sum(len(values) for values in worst_a),
        "worst": _mean_of_means(worst_b) - _mean_of_means(best_a),
        "best": _mean_of_means(best_b) - _mean_of_means(worst_a),
    }
    if not all(pair.graded for pair in pairs):
        return Difference(None, None, None, None, None, None, None, **bounds)
    differences = [b - a for a, b in zip(worst_a, worst_b, strict=True)]
    intervals = [(d.mean(), *difference_interval(d)) for d in differences]
    value, low, high = (float(x) for x in combine(*np.array(intervals).T))
    # Each difference with its weight in the mean of benchmark means, but for a common factor.
    p = sign_flip_p(np.concatenate([d / len(d) for d in differences]))
    return Difference(
        _mean_of_means(worst_a),
        _mean_of_means(worst_b),
        value,
        low,
        high,
        p,
        p,
        **bounds,
        bootstrap=bootstrap_interval(differences),
    )


def _mean_of_means(benchmarks: Sequence[np.ndarray]) -> float:
    return float(np.mean([values.mean() for values in benchmarks]))


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The last one is over all, where there are several."""
    overall = [place > 0 and place == len(differences) - 1 for place in range(len(differences))]
    adjusted = together([d.p for d in differences], overall)
    return [replace(d, p_holm=p) for d, p in zip(differences, adjusted, strict=True)]
