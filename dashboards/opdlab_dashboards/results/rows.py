"""Rows of a leaderboard and their cells: what the samples of each system come to, seeds taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opdlab.errors import DataError
from opdlab.evaluation import store
from opdlab.identity import Execution, Measurement
from opdlab_dashboards.results.measured import REFERENCES, Measured
from opdlab_evaluators.statistics import (
    Sheet,
    combine,
    joint_protocol,
    mean_interval,
    pass_at_every_k,
    sheets,
)

ROLES = ("student", "teacher", "model", "run")


@dataclass(frozen=True)
class Score:
    """A score between 0 and 1 with its 95 % interval over problems.

    Where a sample could not be graded there is no value: `worst` and `best` are what it could be.
    """

    value: float | None
    low: float | None
    high: float | None
    worst: float
    best: float


@dataclass(frozen=True, eq=False)
class Cell:
    """One row on one benchmark, averaged over its seeds problem by problem.

    Attributes:
        problems: their ids, in the order of `correct` and `passed`: mean@k and pass@k of each.
        each_seed: mean@k of each seed, or its bounds.
        tokens: mean length of a response; `truncated`: share cut at the limit; of those that were answered.
        faults: samples that could not be graded, or that a server refused.
        measured: where the samples lie, one a seed.
    """

    benchmark: str
    protocol: str
    asked: Measurement
    problems: tuple[str, ...]
    k: int
    samples: int
    correct: np.ndarray
    passed: np.ndarray
    mean: Score
    pass_at: Score
    each_seed: tuple[Score, ...]
    tokens: float
    truncated: float
    seconds: float
    faults: int
    measured: tuple[Measured, ...]

    @property
    def ids(self) -> list[str]:
        """Of the measurements, one a seed."""
        sets = [one.asked for run in self.measured for one in run.sets]
        return [one.id for one in sets if one.benchmark == self.benchmark]


@dataclass(frozen=True, eq=False)
class Row:
    """A system: the runs that differ in their seed alone, or one model.

    Attributes:
        runs: the measured runs, by seed.
        cells: by benchmark.
        teacher_tokens, seconds: of training, mean over seeds; None where nothing was trained.
    """

    name: str
    role: str
    runs: tuple[Measured, ...]
    cells: dict[str, Cell]

    @cached_property
    def protocol(self) -> str:
        """Hash over all benchmarks and how each was measured."""
        return joint_protocol(list(self.cells.values()))  # type: ignore[arg-type]

    @property
    def mean(self) -> Score:
        """mean@k, averaged over benchmarks."""
        return average([cell.mean for cell in self.cells.values()])

    @property
    def pass_at(self) -> Score:
        """pass@k, averaged over benchmarks."""
        return average([cell.pass_at for cell in self.cells.values()])

    @property
    def method(self) -> str:
        return self.runs[0].method

    @property
    def public(self) -> bool:
        return all(run.public for run in self.runs)

    @property
    def teacher_tokens(self) -> float | None:
        return _mean_or_none([run.teacher_tokens for run in self.runs])

    @property
    def seconds(self) -> float | None:
        return _mean_or_none([run.seconds for run in self.runs])

    def average_of(self, quantity: str) -> float:
        """Mean of a number over the benchmarks, such as `tokens`."""
        return float(np.mean([getattr(cell, quantity) for cell in self.cells.values()]))


@dataclass(frozen=True, eq=False)
class Reading:
    """One measured model with the numbers of its samples; the samples themselves are let go."""

    measured: Measured
    cells: dict[str, Cell]

    @property
    def protocol(self) -> str:
        return joint_protocol(list(self.cells.values()))  # type: ignore[arg-type]

    @classmethod
    def of(cls, measured: Measured, benchmarks: Sequence[str]) -> Reading:
        """Raises DataError if samples are missing or damaged, or none is of these benchmarks."""
        sets = measured.chosen(benchmarks)
        if not sets:
            raise DataError(f"not measured on {', '.join(benchmarks)}")
        cells = {one.asked.benchmark: _cell(measured, one) for one in sets}
        return cls(measured, dict(sorted(cells.items())))


def _cell(measured: Measured, one: store.SampleSet) -> Cell:
    samples = one.samples()
    (sheet,) = sheets(samples)
    answered = [s for s in samples if s.answered]
    count = max(len(answered), 1)
    worst, passed_worst = _per_problem(sheet, sheet.correct)
    best, passed_best = _per_problem(sheet, sheet.correct + sheet.faults)
    mean = _score(worst, best)
    return Cell(
        benchmark=one.asked.benchmark,
        protocol=sheet.protocol,
        asked=one.asked,
        problems=tuple(sheet.samples),
        k=sheet.k,
        samples=len(samples),
        correct=worst,
        passed=passed_worst,
        mean=mean,
        pass_at=_score(passed_worst, passed_best),
        each_seed=(mean,),
        tokens=sum(s.tokens for s in answered) / count,
        truncated=sum(s.stop == "length" for s in answered) / count,
        seconds=sum(s.seconds for s in answered) / count,
        faults=int(sheet.faults.sum()),
        measured=(measured,),
    )


def _per_problem(sheet: Sheet, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return correct / sheet.total, pass_at_every_k(correct, sheet.total)[:, -1]


def _score(worst: np.ndarray, best: np.ndarray) -> Score:
    low, high = (float(x) for x in mean_interval(worst))
    bounds = float(worst.mean()), float(best.mean())
    if bounds[0] != bounds[1]:
        return Score(None, None, None, *bounds)
    return Score(bounds[0], low, high, *bounds)


def average(scores: Sequence[Score]) -> Score:
    """Plain mean over benchmarks with its interval; no value where one has none."""
    bounds = (
        float(np.mean([s.worst for s in scores])),
        float(np.mean([s.best for s in scores])),
    )
    known = [(s.value, s.low, s.high) for s in scores if s.value is not None]
    if len(known) < len(scores):
        return Score(None, None, None, *bounds)
    value, low, high = (float(x) for x in combine(*np.array(known, dtype=float).T))
    return Score(value, low, high, *bounds)


def gathered(group: Sequence[Reading]) -> Row:
    """Readings of one system under its seeds as a row."""
    ordered = sorted(group, key=lambda reading: reading.measured.seed)
    runs = tuple(reading.measured for reading in ordered)
    role = min((run.role for run in runs), key=ROLES.index)
    cells = {
        name: _merged([reading.cells[name] for reading in ordered]) for name in ordered[0].cells
    }
    return Row(_name(runs), role, runs, cells)


def _merged(cells: Sequence[Cell]) -> Cell:
    """The same benchmark under several seeds; each problem's scores are their means over seeds."""
    if len(cells) == 1:
        return cells[0]
    first = cells[0]
    worst, passed = (
        np.mean([getattr(c, name) for c in cells], axis=0) for name in ("correct", "passed")
    )
    faulty = any(cell.faults for cell in cells)
    extra = [float(np.mean([getattr(c, n).best for c in cells])) for n in ("mean", "pass_at")]
    scores = [
        Score(None, None, None, float(values.mean()), best) if faulty else _score(values, values)
        for values, best in zip((worst, passed), extra, strict=True)
    ]
    return Cell(
        benchmark=first.benchmark,
        protocol=first.protocol,
        asked=first.asked,
        problems=first.problems,
        k=min(cell.k for cell in cells),
        samples=sum(cell.samples for cell in cells),
        correct=worst,
        passed=passed,
        mean=scores[0],
        pass_at=scores[1],
        each_seed=tuple(cell.each_seed[0] for cell in cells),
        tokens=float(np.mean([cell.tokens for cell in cells])),
        truncated=float(np.mean([cell.truncated for cell in cells])),
        seconds=float(np.mean([cell.seconds for cell in cells])),
        faults=sum(cell.faults for cell in cells),
        measured=tuple(run for cell in cells for run in cell.measured),
    )


def _name(runs: Sequence[Measured]) -> str:
    first = runs[0]
    if first.execution is None:
        references = [run for run in runs if run.role in REFERENCES]
        return (
            _short(references[0].source) if references else first.name.removeprefix("evaluations/")
        )
    if trial := first.execution.trial:
        # A trial is known by its number, and its runs differ in their seeds alone.
        return f"{first.execution.experiment}/trial-{trial['number']:04d}"
    if len(runs) == 1:
        return first.name
    experiments = dict.fromkeys(run.execution.experiment for run in runs if run.execution)
    stems = dict.fromkeys(_without_seed(run.execution) for run in runs if run.execution)
    return f"{' and '.join(experiments)}/{' and '.join(stems)}"


def _without_seed(execution: Execution) -> str:
    """A run's name without the seed at its end, as in `opd-3`."""
    stem = execution.run.removesuffix(str(execution.seed)).rstrip("-_.")
    return stem or execution.run


def _short(source: str) -> str:
    """A model's name: as on the hub, or the last folder of a path."""
    return source.rstrip("/").rpartition("/")[2] if source.startswith(("/", ".")) else source


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
