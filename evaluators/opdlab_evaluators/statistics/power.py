"""How large a difference must be to be seen, before a run: from assumptions or from earlier samples.

The paired difference of a problem varies for two reasons. Its k samples are drawn anew, which more samples
mend; and the true difference is not the same for every problem, which only more problems mend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opdlab.errors import DataError
from opdlab.records import Sample
from opdlab_evaluators.statistics.answer_sheets import Sheet, sheets
from opdlab_evaluators.statistics.intervals import ROUNDING
from opdlab_evaluators.statistics.needed import factor
from opdlab_evaluators.statistics.paired import Pair, pair_up

LIKENESS = 0.6
EFFECT_SPREAD = 0.12


@dataclass(frozen=True)
class Spread:
    """What decides the standard error of a paired difference on one benchmark.

    Attributes:
        sampling: variance of one sample within a problem, averaged over problems and summed over
            both sides.
        effect: variance over problems of the true difference; None where samples of a single problem
            do not tell.
        origin: where the two come from.
    """

    sampling: float
    effect: float | None
    origin: str


@dataclass(frozen=True)
class Detectable:
    """The smallest true difference that is found with the asked power.

    Attributes:
        standard_error: of the difference, between 0 and 1; None where the spread is not known.
        difference: the smallest one detected; None also where there is one problem only, which shows no
            spread.
        floor: what it would be with endless samples a problem; None where earlier samples vary no more than
            their luck explains, so that what would be left is not known.
    """

    problems: int
    samples: int
    standard_error: float | None
    difference: float | None
    floor: float | None


def assumed(accuracy: float, effect_spread: float = EFFECT_SPREAD) -> Spread:
    """Variances assumed where there are no earlier samples.

    Two samples of one problem have an intraclass correlation of 0.6, and the true
    difference varies over problems with a standard deviation of 12 points; with 30 problems of which 45 %
    are solved and k = 8 this gives a paired standard error of 3.6 points.

    Args:
        accuracy: expected share of correct samples, on both sides.
        effect_spread: standard deviation of the true difference over problems.

    Returns:
        The assumed variances, of shares between 0 and 1.
    """
    within = accuracy * (1 - accuracy) * (1 - LIKENESS)
    return Spread(2 * within, effect_spread**2, f"assumed, accuracy {accuracy:g}")


def spreads(
    benchmarks: Sequence[str], runs: Sequence[Sequence[Sample]], accuracy: float
) -> dict[str, Spread]:
    """By benchmark: from one or two runs (see `from_samples`), without any by assumption.

    Returns:
        Variances per benchmark, of shares between 0 and 1.

    Raises:
        DataError: the runs have no samples of a benchmark, or what `from_samples` refuses.
    """
    if not runs:
        return {name: assumed(accuracy) for name in benchmarks}
    known = from_samples(*runs)
    missing = sorted(set(benchmarks) - known.keys())
    if missing:
        raise DataError(
            f"the runs given have no samples of {', '.join(missing)}; they have {', '.join(known)}"
        )
    return {name: known[name] for name in benchmarks}


def from_samples(a: Sequence[Sample], b: Sequence[Sample] | None = None) -> dict[str, Spread]:
    """By benchmark, from the samples of one checkpoint, or of two whose difference is like the planned one.

    Samples without a verdict are left out, which `origin` says, and problems with fewer than two others.

    Returns:
        Variances per benchmark, of shares between 0 and 1.

    Raises:
        DataError: no problem has two samples with a verdict, or what `pair_up` refuses.
    """
    if b is None:
        return {sheet.benchmark: _of_one(sheet) for sheet in sheets(a)}
    return {pair.a.benchmark: _of_pair(pair) for pair in pair_up(a, b)}


def _of_one(sheet: Sheet) -> Spread:
    luck = _within(sheet)[_told([sheet])]
    origin = f"samples of {sheet.checkpoint}{_without_verdict([sheet])}"
    return Spread(2 * float(luck.mean()), EFFECT_SPREAD**2, origin)


def _of_pair(pair: Pair) -> Spread:
    sides = [pair.a, pair.b]
    told = _told(sides)
    luck_a, luck_b = (_within(side)[told] for side in sides)
    (share_a, count_a), (share_b, count_b) = (
        (_share(side)[told], _graded(side)[told]) for side in sides
    )
    luck = float(np.mean(luck_a / count_a + luck_b / count_b))
    differences = share_b - share_a
    several = len(differences) > 1
    effect = max(0.0, float(differences.var(ddof=1)) - luck) if several else None
    origin = f"{pair.b.checkpoint} against {pair.a.checkpoint}{_without_verdict(sides)}"
    return Spread(float(np.mean(luck_a + luck_b)), effect, origin)


def _graded(sheet: Sheet) -> np.ndarray:
    """Samples of each problem that have a verdict on their answer."""
    return sheet.total - sheet.faults


def _share(sheet: Sheet) -> np.ndarray:
    """Correct ones of those; 0 where there are none."""
    return sheet.correct / np.maximum(_graded(sheet), 1)


def _within(sheet: Sheet) -> np.ndarray:
    """Unbiased p (1 - p) of each problem, where it has two samples with a verdict."""
    share, graded = _share(sheet), _graded(sheet)
    return share * (1 - share) * graded / np.maximum(graded - 1, 1)


def _told(sides: Sequence[Sheet]) -> np.ndarray:
    """Which problems have two samples with a verdict on each side; raises DataError where none has."""
    told = np.all([_graded(sheet) > 1 for sheet in sides], axis=0)
    if not told.any():
        names = " and ".join(sheet.checkpoint for sheet in sides)
        raise DataError(
            f"{names} on {sides[0].benchmark}: no problem has more than one sample with a verdict, which "
            "does not tell the luck of sampling from the difficulty of problems: take a run with two or "
            "more"
        )
    return told


def _without_verdict(sides: Sequence[Sheet]) -> str:
    """How many samples are left out, in words."""
    count = sum(int(sheet.faults.sum()) for sheet in sides)
    return f" ({count} samples without a verdict left out)" if count else ""


def smallest_difference(
    spreads: Sequence[Spread],
    problems: Sequence[int],
    samples: int,
    power: float = 0.8,
    level: float = 0.05,
) -> Detectable:
    """The smallest difference that can be shown on one benchmark, or in the mean over several.

    Student's t over problems, two-sided, by the noncentral t. What is not known is None.

    Args:
        spreads: one per benchmark.
        problems: number of problems of each benchmark.
        samples: k, on both sides.
        power: probability to show a difference of that size.
        level: of the test; divide by the number of tests to correct for several.

    Returns:
        The difference and its standard error, as shares between 0 and 1.
    """
    (error, difference), (_, floor) = (
        _found(
            [_error(one, n, luck) for one, n in zip(spreads, problems, strict=True)],
            problems,
            power,
            level,
        )
        for luck in (1 / samples, 0.0)
    )
    return Detectable(sum(problems), samples, error, difference, floor)


def _found(
    errors: Sequence[float | None], problems: Sequence[int], power: float, level: float
) -> tuple[float | None, float | None]:
    """Standard error of the mean over benchmarks, and the smallest difference that is found.

    Degrees of freedom by Welch and Satterthwaite: a small benchmark that varies most leaves few.

    Returns:
        Both as shares between 0 and 1; None for what is not known.
    """
    known = np.array([error for error in errors if error is not None])
    if len(known) < len(errors):
        return None, None
    total = float((known**2).sum())
    error = total**0.5 / len(known)
    if min(problems) < 2:
        return error, None
    freedom = total**2 / float((known**4 / (np.array(problems) - 1)).sum())
    return error, factor(freedom, power, level) * error


def _error(spread: Spread, problems: int, luck: float) -> float | None:
    """Standard error of one benchmark; None where nothing is known to vary."""
    if spread.effect is None:
        return None
    variance = spread.sampling * luck + spread.effect
    return None if variance < ROUNDING else (variance / problems) ** 0.5
