"""From stored samples to mean@k, pass@k and maj@k with intervals; every number with its denominator."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from opdlab.errors import DataError
from opdlab.records import Sample, Verdict
from opdlab_evaluators.statistics.answer_sheets import Sheet, pass_at_every_k, sheets
from opdlab_evaluators.statistics.intervals import combine, mean_interval
from opdlab_evaluators.statistics.resampling import bootstrap_interval
from opdlab_evaluators.statistics.voting import majority_bounds


@dataclass(frozen=True)
class Estimate:
    """A score between 0 and 1, averaged over problems.

    Attributes:
        value: the score; None if a sample could not be graded.
        low, high: 95 % interval over problems; None with `value`.
        problems: its denominator.
        worst, best: the score if every sample that could not be graded were wrong, or right; both are
            `value` when all were graded.
        bootstrap: 95 % bootstrap interval over problems, for comparison with `low` and `high`.
    """

    value: float | None
    low: float | None
    high: float | None
    problems: int
    worst: float
    best: float
    bootstrap: tuple[float, float] | None = None

    def metrics(self, name: str, every: bool = False) -> dict[str, float]:
        """What is known, under names that trackers accept: the interval, or else the bounds.

        Args:
            name: of the score.
            every: both, NaN where it is not known: in place of what was told before.

        Returns:
            Numbers by name: shares between 0 and 1.
        """
        bounds = {f"{name}_worst": self.worst, f"{name}_best": self.best}
        names = name, f"{name}_low", f"{name}_high"
        if self.value is None or self.low is None or self.high is None:
            return bounds | (dict.fromkeys(names, math.nan) if every else {})
        known = dict(zip(names, (self.value, self.low, self.high), strict=True))
        return known | (bounds if every else {})


@dataclass(frozen=True)
class Summary:
    """Scores of one checkpoint on one benchmark.

    Attributes:
        k: samples of the problem that has fewest; a missing sample is never counted as wrong.
        mean: mean over problems of the share of correct samples, of all samples there are.
        pass_at: for every k' up to k, the unbiased estimate of the chance that k' samples hold a
            correct one.
        maj: score of the most frequent answer of each problem, by meaning (see `voting`); None where a
            correct sample has no extracted answer, because there is nothing to vote on.
        verdicts: samples with each verdict.
        truncated: samples cut at the length limit; `truncated_share` of those that were answered, with its
            interval over problems.
        mean_tokens, most_tokens: tokens of a response, over the samples that were answered; 0 for none.
        mean_seconds: wall time of the sampling, likewise.
    """

    checkpoint: str
    benchmark: str
    protocol: str
    grader: str
    problems: int
    samples: int
    k: int
    mean: Estimate
    pass_at: Mapping[int, Estimate]
    maj: Estimate | None
    verdicts: Mapping[str, int]
    truncated: int
    truncated_share: float
    truncated_interval: tuple[float, float]
    mean_tokens: float
    most_tokens: int
    mean_seconds: float

    def metrics(self, every: bool = False) -> dict[str, float]:
        """Numbers for a tracker: `mean_at_8`, `pass_at_8`, `maj_at_8` with their limits, and counts.

        Args:
            every: see `Estimate.metrics`.

        Returns:
            Numbers by name: shares between 0 and 1, and counts.
        """
        counts = {f"verdicts/{status}": float(count) for status, count in self.verdicts.items()}
        return {
            **_score_metrics(self, every),
            "truncated_share": self.truncated_share,
            "mean_tokens": self.mean_tokens,
            "mean_seconds": self.mean_seconds,
            **counts,
        }


@dataclass(frozen=True)
class Average:
    """Scores of one checkpoint averaged over benchmarks, each of equal weight.

    `protocol` covers the benchmarks and their protocols: averages over different ones differ in it.
    """

    checkpoint: str
    benchmarks: tuple[str, ...]
    protocol: str
    problems: int
    samples: int
    k: int
    mean: Estimate
    pass_at: Mapping[int, Estimate]
    maj: Estimate | None

    def metrics(self) -> dict[str, float]:
        """Numbers for a tracker, named as in `Summary.metrics`."""
        return _score_metrics(self)


def summarise(samples: Sequence[Sample]) -> list[Summary]:
    """One summary for each (checkpoint, benchmark), in order of appearance.

    Returns:
        The summaries, with scores as shares between 0 and 1 and intervals over problems.

    Raises:
        DataError: no samples, a sample that is given twice, or samples of one checkpoint and
            benchmark under different protocols.
    """
    return [_summary(sheet) for sheet in sheets(samples)]


def average(summaries: Sequence[Summary]) -> list[Average]:
    """One average over benchmarks for each checkpoint, with an interval over problems.

    Returns:
        The averages, as shares between 0 and 1, in order of appearance.

    Raises:
        DataError: a checkpoint has two summaries of one benchmark.
    """
    groups: dict[str, dict[str, Summary]] = {}
    for summary in summaries:
        group = groups.setdefault(summary.checkpoint, {})
        if summary.benchmark in group:
            raise DataError(
                f"two summaries of {summary.checkpoint} on {summary.benchmark}: "
                "average one set of samples at a time"
            )
        group[summary.benchmark] = summary
    return [_average(list(group.values())) for group in groups.values()]


def _summary(sheet: Sheet) -> Summary:
    samples = [s for rows in sheet.samples.values() for s in rows.values()]
    worst, best = (
        pass_at_every_k(sheet.correct, sheet.total),
        pass_at_every_k(sheet.correct + sheet.faults, sheet.total),
    )
    graded = not sheet.faults.any()
    answered = [s for s in samples if s.answered]
    count = max(len(answered), 1)
    truncated = sum(s.stop == "length" for s in answered)
    cut = [
        [s.stop == "length" for s in rows.values() if s.answered] for rows in sheet.samples.values()
    ]
    low, high = mean_interval(np.array([np.mean(row) for row in cut if row] or [0.0]))
    verdicts = Counter(s.status for s in samples)
    return Summary(
        checkpoint=sheet.checkpoint,
        benchmark=sheet.benchmark,
        protocol=sheet.protocol,
        grader=sheet.grader,
        problems=len(sheet.samples),
        samples=len(samples),
        k=sheet.k,
        mean=_estimate(
            sheet.correct / sheet.total, (sheet.correct + sheet.faults) / sheet.total, graded
        ),
        pass_at={k + 1: _estimate(worst[:, k], best[:, k], graded) for k in range(sheet.k)},
        maj=_maj(sheet, graded),
        verdicts={status: verdicts[status] for status in Verdict.STATUSES},
        truncated=truncated,
        truncated_share=truncated / count,
        truncated_interval=(float(low), float(high)),
        mean_tokens=sum(s.tokens for s in answered) / count,
        most_tokens=max((s.tokens for s in answered), default=0),
        mean_seconds=sum(s.seconds for s in answered) / count,
    )


def _maj(sheet: Sheet, graded: bool) -> Estimate | None:
    rows = [list(problem.values()) for problem in sheet.samples.values()]
    if any(s.status == "correct" and s.answer is None for row in rows for s in row):
        return None
    bounds = np.array([majority_bounds(row) for row in rows])
    return _estimate(bounds[:, 0], bounds[:, 1], graded)


def _estimate(worst: np.ndarray, best: np.ndarray, graded: bool) -> Estimate:
    low, high = mean_interval(worst)
    return Estimate(
        value=float(worst.mean()) if graded else None,
        low=float(low) if graded else None,
        high=float(high) if graded else None,
        problems=len(worst),
        worst=float(worst.mean()),
        best=float(best.mean()),
        bootstrap=bootstrap_interval([worst]) if graded else None,
    )


def _average(summaries: Sequence[Summary]) -> Average:
    ordered = sorted(summaries, key=lambda s: s.benchmark)
    k = min(s.k for s in ordered)
    majorities = [s.maj for s in ordered if s.maj is not None]
    return Average(
        checkpoint=ordered[0].checkpoint,
        benchmarks=tuple(s.benchmark for s in ordered),
        protocol=joint_protocol(ordered),
        problems=sum(s.problems for s in ordered),
        samples=sum(s.samples for s in ordered),
        k=k,
        mean=_pool([s.mean for s in ordered]),
        pass_at={j: _pool([s.pass_at[j] for s in ordered]) for j in range(1, k + 1)},
        maj=_pool(majorities) if len(majorities) == len(ordered) else None,
    )


def joint_protocol(parts: Sequence[Summary] | Sequence[Sheet]) -> str:
    """Hash over several benchmarks' protocols, so that averages over different ones never meet."""
    listed = "\n".join(sorted(f"{part.benchmark} {part.protocol}" for part in parts))
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def _pool(estimates: Sequence[Estimate]) -> Estimate:
    known = [(e.value, e.low, e.high) for e in estimates if e.value is not None]
    value, low, high = (None, None, None)
    if len(known) == len(estimates):
        value, low, high = (float(x) for x in combine(*np.array(known, dtype=float).T))
    return Estimate(
        value,
        low,
        high,
        problems=sum(e.problems for e in estimates),
        worst=float(np.mean([e.worst for e in estimates])),
        best=float(np.mean([e.best for e in estimates])),
    )


def _score_metrics(scores: Summary | Average, every: bool = False) -> dict[str, float]:
    named = {"mean": scores.mean, "pass": scores.pass_at[scores.k], "maj": scores.maj}
    metrics = {"problems": float(scores.problems), "samples": float(scores.samples)}
    for name, estimate in named.items():
        if estimate is not None:
            metrics |= estimate.metrics(f"{name}_at_{scores.k}", every)
    return metrics


def granularity_ok(value: str | float, n: int, k: int) -> bool:
    """Whether a reported mean@k, in per cent, can be one over n problems.

    The share correct is a multiple of 1 / (n k), rounded to the digits given; pass a string where a
    trailing zero counts. 34.92 is no mean@8 over 30 problems.

    Returns:
        False if no number of correct samples gives that value.
    """
    reported = Decimal(str(value))
    exponent = reported.as_tuple().exponent
    if not isinstance(exponent, int) or not 0 <= reported <= 100:
        return False
    # A float printed in full is off by its own rounding, which is no digit of the report.
    half = max(Decimal(1).scaleb(exponent) / 2, Decimal("1e-9"))
    unit = Decimal(100) / (n * k)
    nearest = min(max(math.floor(reported / unit + Decimal("0.5")), 0), n * k)
    return abs(nearest * unit - reported) <= half
