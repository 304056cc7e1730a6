"""Pairs of rows: what is shown, what is not, and how much more it would take to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opdlab_dashboards.results.board import AVERAGE
from opdlab_dashboards.results.rows import Cell, Row
from opdlab_evaluators.statistics import (
    combine,
    constant,
    count_needed,
    difference_interval,
    holm,
    seed_interval,
    shares,
    sign_flip_p,
    smallest,
    t_test,
    together,
)

LEVEL = 0.05


@dataclass(frozen=True)
class OverSeeds:
    """The difference over pairs of training runs with the same seed.

    Attributes:
        each: of every seed that both sides have.
        low, high: 95 % interval of their mean, Student's t over seeds: it speaks of new training runs.
        p: of "no difference" for new training runs, corrected like that over problems.
        needed: seeds that find a difference of this size; None where none would, or `spread` is not known.
        spread: whether the seeds differ at all.
    """

    seeds: tuple[int, ...]
    each: tuple[float, ...]
    low: float
    high: float
    p: float
    needed: int | None
    spread: bool = True

    @property
    def shown(self) -> bool:
        """Whether the methods are told apart, and not only these trainings of them."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Difference:
    """b - a in mean@k on one benchmark, or averaged over all.

    Attributes:
        value, low, high: paired by problem, 95 % over problems; seeds are averaged first.
        p: sign-flip test, corrected for all that is claimed with it (Holm).
        problems, fewest: over all benchmarks, and of the one that has fewest.
        smallest: the smallest true difference that these problems find in 80 % of cases; None where no
            spread was seen, so that it is not known.
        needed: problems that find one of the size seen (of each benchmark, where there are several); None
            where it is not known, or none would.
        seeds: the same over training seeds; None without two seeds on both sides.
    """

    benchmark: str
    a: float
    b: float
    value: float
    low: float
    high: float
    p: float
    problems: int
    fewest: int
    smallest: float | None
    needed: int | None
    seeds: OverSeeds | None

    @property
    def shown(self) -> bool:
        """Whether the two are told apart, on these problems and with these training runs."""
        return self.p < LEVEL


def pair(a: Row, b: Row) -> list[Difference]:
    """What b has more than a, where nothing else is claimed beside it; see `pairs`."""
    return pairs([(a, b)])[0]


def pairs(sides: Sequence[tuple[Row, Row]]) -> list[list[Difference]]:
    """Of each pair (a, b) one difference a benchmark, then one over all if there are several.

    All are claimed together, so all are corrected together, over problems and over seeds, by Holm's method
    with half of the weight on the differences over all benchmarks. Benchmarks with samples that could not
    be graded are left out; over all there is then none.
    """
    asked = [(number, names) for number, side in enumerate(sides) for names in _families(*side)]
    weights = shares([len(names) > 1 for _, names in asked])
    p_values = holm([_p(*sides[number], names) for number, names in asked], weights)
    found: list[list[Difference]] = [[] for _ in sides]
    for (number, names), p, weight in zip(asked, p_values, weights, strict=True):
        found[number].append(_difference(*sides[number], names, float(p or 0), LEVEL * weight))
    return _over_seeds_together(found)


def _families(a: Row, b: Row) -> list[list[str]]:
    """What is compared: each benchmark that is graded on both sides, then all of them."""
    names = [n for n in a.cells if not (a.cells[n].faults or b.cells[n].faults)]
    each = [[name] for name in names]
    return [*each, names] if len(names) > 1 and len(names) == len(a.cells) else each


def _over_seeds_together(found: Sequence[Sequence[Difference]]) -> list[list[Difference]]:
    """The differences over seeds, corrected over all that there are."""
    asked = [one for each in found for one in each if one.seeds is not None]
    overall = [one.benchmark == AVERAGE for one in asked]
    p_values = iter(together([one.seeds.p for one in asked if one.seeds], overall))
    return [
        [
            replace(one, seeds=replace(one.seeds, p=float(next(p_values) or 0)))
            if one.seeds
            else one
            for one in each
        ]
        for each in found
    ]


def _values(a: Row, b: Row, names: Sequence[str]) -> list[np.ndarray]:
    return [b.cells[name].correct - a.cells[name].correct for name in names]


def _p(a: Row, b: Row, names: Sequence[str]) -> float:
    return sign_flip_p(np.concatenate([d / len(d) for d in _values(a, b, names)]))


def _difference(a: Row, b: Row, names: Sequence[str], p: float, level: float) -> Difference:
    values = _values(a, b, names)
    intervals = [(d.mean(), *difference_interval(d)) for d in values]
    value, low, high = (float(x) for x in combine(*np.array(intervals).T))
    deviation, fewest = _deviation(values), min(len(d) for d in values)
    return Difference(
        benchmark=names[0] if len(names) == 1 else AVERAGE,
        a=float(np.mean([a.cells[name].correct.mean() for name in names])),
        b=float(np.mean([b.cells[name].correct.mean() for name in names])),
        value=value,
        low=low,
        high=high,
        p=p,
        problems=sum(len(d) for d in values),
        fewest=fewest,
        smallest=smallest(deviation, fewest, level=level),
        needed=count_needed(deviation, value, level=level),
        seeds=_over_seeds([a.cells[n] for n in names], [b.cells[n] for n in names], level),
    )


def _deviation(values: Sequence[np.ndarray]) -> float | None:
    """Of one problem; of several benchmarks as if each had as many problems as the smallest.

    None where a benchmark has one problem, which shows no spread.
    """
    fewest = min(len(d) for d in values)
    if fewest < 2:
        return None
    error = np.sqrt(np.sum([d.var(ddof=1) / len(d) for d in values])) / len(values)
    return float(error * fewest**0.5)


def _over_seeds(a: Sequence[Cell], b: Sequence[Cell], level: float) -> OverSeeds | None:
    """Of cells whose samples were all graded."""
    sides = [_by_seed(side) for side in (a, b)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    trained = all(run.role == "run" for cell in (*a, *b) for run in cell.measured)
    if len(shared) < 2 or not trained:
        return None
    each = np.array([sides[1][seed] - sides[0][seed] for seed in shared])
    low, high = (float(x) for x in seed_interval(each))
    needed = count_needed(float(each.std(ddof=1)), float(each.mean()), level=level)
    spread = not bool(constant(each))
    return OverSeeds(tuple(shared), tuple(each.tolist()), low, high, t_test(each), needed, spread)


def _by_seed(cells: Sequence[Cell]) -> dict[int, float]:
    """mean@k of each training seed, averaged over benchmarks."""
    columns = zip(*([one.worst for one in cell.each_seed] for cell in cells), strict=True)
    return {
        run.seed: float(np.mean(values))
        for run, values in zip(cells[0].measured, columns, strict=True)
    }
