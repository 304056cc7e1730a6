"""Several training seeds a method: is the difference more than the luck of training and sampling?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from opdlab.errors import DataError, UngradedError
from opdlab.records import JUDGED, Sample
from opdlab_evaluators.statistics.intervals import ROUNDING, constant, seed_interval
from opdlab_evaluators.statistics.paired import POOLED, Pair, check_comparable, pair_up
from opdlab_evaluators.statistics.resampling import together


@dataclass(frozen=True)
class OverSeeds:
    """b - a in mean@k, over pairs of training runs that share their seed.

    The interval and p (Student's t over pairs) are about new training runs on the *same* problems;
    `compare` is about new problems for the same runs.

    Attributes:
        differences: b - a of each pair, in the order given.
        value, low, high, p: their mean, its 95 % interval, and the two-sided p of "no difference".
        p_holm: `p` corrected for all that is tested with it (Holm), as in `paired.Difference`.
        deviation: standard deviation of `differences`.
        sampling_deviation: what of it a draw of k samples a problem explains, from the spread of
            samples within problems; more samples lower it. None with one sample a problem.
        training_deviation: the rest, which only more seeds average out; 0 where the samples explain
            all.
    """

    a: str
    b: str
    benchmark: str
    problems: int
    k: int
    seeds: int
    differences: tuple[float, ...]
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    deviation: float
    sampling_deviation: float | None
    training_deviation: float | None


def paired_over_seeds(
    runs_a: Sequence[Sequence[Sample]], runs_b: Sequence[Sequence[Sample]]
) -> list[OverSeeds]:
    """The i-th runs of both sides share their training seed; each run is the samples of a checkpoint.

    One result a benchmark, then one over all if there are several, benchmarks weighing the same.

    Returns:
        Results with differences b - a as shares between -1 and 1, and intervals by Student's t over seeds.

    Raises:
        UngradedError: a sample without a verdict.
        DataError: fewer than two seeds, sides of different length, or what `compare` refuses, between the
            sides or between the seeds.
    """
    if len(runs_a) != len(runs_b) or len(runs_a) < 2:
        raise DataError(
            f"{len(runs_a)} runs against {len(runs_b)}: give the same two or more seeds on both sides"
        )
    seeds = [pair_up(a, b) for a, b in zip(runs_a, runs_b, strict=True)]
    for number, pairs in enumerate(seeds):
        _check_seed(number, pairs, seeds[0])
    benchmarks = list(zip(*seeds, strict=True))
    results = [_over_seeds(column[0].a.benchmark, [column]) for column in benchmarks]
    exact = [column for column in benchmarks if not column[0].a.grader.startswith(JUDGED)]
    if len(exact) > 1:
        results.append(_over_seeds(POOLED, exact))
    overall = [one.benchmark == POOLED for one in results]
    adjusted = together([one.p for one in results], overall)
    return [replace(one, p_holm=p) for one, p in zip(results, adjusted, strict=True)]


def _check_seed(number: int, pairs: Sequence[Pair], first: Sequence[Pair]) -> None:
    names, expected = [p.a.benchmark for p in pairs], [p.a.benchmark for p in first]
    if names != expected:
        raise DataError(
            f"seed {number} was evaluated on {names}, seed 0 on {expected}; use the same"
        )
    for pair, reference in zip(pairs, first, strict=True):
        check_comparable(pair.a, reference.a)
        if not pair.graded:
            raise UngradedError(
                f"seed {number} on {pair.a.benchmark}: some samples have no verdict (`opdlab samples` "
                "shows why). `opdlab regrade` judges again what a grader failed at; the command that "
                "measured them (train: with --resume) asks a server again for what it refused"
            )


def _over_seeds(benchmark: str, benchmarks: Sequence[Sequence[Pair]]) -> OverSeeds:
    """`benchmarks` holds, for each benchmark, one pair a seed."""
    count = len(benchmarks)
    differences = np.mean([[_gain(pair) for pair in column] for column in benchmarks], axis=0)
    noise = np.sum([[_noise(pair) for pair in column] for column in benchmarks]) / count**2
    sampling = float(noise / len(differences))
    variance = float(differences.var(ddof=1))
    low, high = seed_interval(differences)
    known = np.isfinite(sampling)
    first = [column[0] for column in benchmarks]
    p = t_test(differences)
    return OverSeeds(
        a=first[0].a.checkpoint,
        b=first[0].b.checkpoint,
        benchmark=benchmark,
        problems=sum(len(pair.a.samples) for pair in first),
        k=min(pair.k for column in benchmarks for pair in column),
        seeds=len(differences),
        differences=tuple(differences.tolist()),
        value=float(differences.mean()),
        low=float(low),
        high=float(high),
        p=p,
        p_holm=p,
        deviation=variance**0.5,
        sampling_deviation=sampling**0.5 if known else None,
        training_deviation=max(0.0, variance - sampling) ** 0.5 if known else None,
    )


def _gain(pair: Pair) -> float:
    return float(np.mean(pair.b.correct / pair.b.total - pair.a.correct / pair.a.total))


def _noise(pair: Pair) -> float:
    """Variance of `_gain` over fresh samples of the same two checkpoints; NaN if it cannot be known.

    From differences between samples of the same index: where both sides draw them with the same seed
    their luck is shared and cancels, and this counts it once.

    Returns:
        The variance, of shares between -1 and 1.
    """
    variances = []
    for problem, rows in pair.a.samples.items():
        other = pair.b.samples[problem]
        shared = [i for i in rows if i in other]
        if len(shared) < 2:
            return float("nan")
        steps = [(other[i].status == "correct") - (rows[i].status == "correct") for i in shared]
        variances.append(np.var(steps, ddof=1) / len(shared))
    return float(np.sum(variances)) / len(variances) ** 2


def t_test(differences: np.ndarray) -> float:
    """Two-sided p-value of Student's t for paired differences, one per seed."""
    if constant(differences):
        # No spread to divide by: the sign test, all of one sign.
        return 1.0 if abs(differences[0]) < ROUNDING else 2.0 ** (1 - len(differences))
    error = differences.std(ddof=1) / len(differences) ** 0.5
    return float(2 * stats.t.sf(abs(differences.mean() / error), len(differences) - 1))
