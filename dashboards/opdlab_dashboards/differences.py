"""Pairs of rows: what is shown, what is not, and how much more it would take to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opdlab_dashboards.board import AVERAGE
from opdlab_dashboards.rows import Cell, Row
from opdlab_evaluators.intervals import combine, constant, difference_interval, seed_interval
from opdlab_evaluators.needed import count_needed, smallest
from opdlab_evaluators.resampling import holm, sign_flip_p

LEVEL = 0.05


@dataclass(frozen=True)
class OverSeeds:
    """The difference over pairs of training runs with the same seed.

    Attributes:
        each: of every seed that both sides have.
        low, high: 95 % interval of their mean, Student's t over seeds: it speaks of new training runs.
        needed: seeds that find a difference of this size; None where none would, or `spread` is not known.
        spread: whether the seeds differ at all.
    """

    seeds: tuple[int, ...]
    each: tuple[float, ...]
    low: float
    high: float
    needed: int | None
    spread: bool = True

    @property
    def shown(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """b - a in mean@k on one benchmark, or averaged over all.

    Attributes:
        value, low, high: paired by problem, 95 % over problems; seeds are averaged first.
        p: sign-flip test; corrected for testing every benchmark (Holm), but over all, which is one test.
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
    """One difference a benchmark, then one over all if there are several.

    Benchmarks with samples that could not be graded are left out; over all there is then none.
    """
    names = [n for n in a.cells if not (a.cells[n].faults or b.cells[n].faults)]
    if not names:
        return []
    corrected = holm([_p(a, b, [name]) for name in names])
    level = LEVEL / len(names)
    each = [
        _difference(a, b, [name], float(p or 0), level)
        for name, p in zip(names, corrected, strict=True)
    ]
    if len(names) > 1 and len(names) == len(a.cells):
        each.append(_difference(a, b, names, _p(a, b, names), LEVEL))
    return each


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
        seeds=_over_seeds([a.cells[n] for n in names], [b.cells[n] for n in names]),
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


def _over_seeds(a: Sequence[Cell], b: Sequence[Cell]) -> OverSeeds | None:
    sides = [_by_seed(side) for side in (a, b)]
    shared = sorted(sides[0].keys() & sides[1].keys())
    trained = all(run.role == "run" for cell in (*a, *b) for run in cell.measured)
    if len(shared) < 2 or not trained:
        return None
    each = np.array([sides[1][seed] - sides[0][seed] for seed in shared])
    low, high = (float(x) for x in seed_interval(each))
    needed = count_needed(float(each.std(ddof=1)), float(each.mean()))
    spread = not bool(constant(each))
    return OverSeeds(tuple(shared), tuple(each.tolist()), low, high, needed, spread)


def _by_seed(cells: Sequence[Cell]) -> dict[int, float]:
    """mean@k of each training seed, averaged over benchmarks."""
    columns = zip(*(cell.each_seed for cell in cells), strict=True)
    return {
        run.seed: float(np.mean(values))
        for run, values in zip(cells[0].measured, columns, strict=True)
    }
