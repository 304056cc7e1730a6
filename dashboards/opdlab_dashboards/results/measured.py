"""What was measured, as it lies below a folder: runs, references and models, by their own records."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opdlab.errors import DataError
from opdlab.evaluation import store
from opdlab.files import PARTS, is_there, natural, read_metrics
from opdlab.identity import (
    MEASUREMENTS,
    Execution,
    Measurement,
    digest,
    read as read_measurements,
)

SAMPLES = "samples"
REFERENCES = ("student", "teacher")


@dataclass(frozen=True, eq=False)
class Measured:
    """One model that was evaluated: a run of an experiment, its student or teacher, or any other.

    Attributes:
        folder: where `samples` lies; `others`: the same in copies, which may hold more or less.
        known: every measurement of it that was asked for, in order; none where there is a `fault`.
        execution: what a run was made with; None for what was not trained.
        metrics: one mapping a training step.
        fault: why it cannot be read; empty where it can.
    """

    folder: Path
    known: Sequence[Measurement]
    execution: Execution | None = None
    metrics: list[dict[str, float]] = field(default_factory=list)
    others: tuple[Path, ...] = ()
    fault: str = ""

    @property
    def last(self) -> Measurement:
        return self.known[-1]

    @property
    def name(self) -> str:
        """Where it was measured, below the output folder of that time."""
        return self.last.label if self.known else self.folder.name

    @property
    def role(self) -> str:
        """`student` (before training), `teacher`, `run`, or `model` for `opdlab eval`."""
        return self.last.role if self.known else "model"

    @property
    def config(self) -> Mapping[str, Any]:
        """The experiment, resolved; empty for a model."""
        return self.execution.settings if self.execution else {}

    @property
    def when(self) -> str:
        """When it was begun: trained, or first measured; ISO 8601 in UTC."""
        if self.execution:
            return self.execution.started
        return min((one.time for one in self.known), default="")

    @property
    def ids(self) -> tuple[str, ...]:
        """Of its measurements: the same for a copy."""
        return tuple(sorted({one.id for one in self.known}))

    def is_copy_of(self, other: Measured) -> bool:
        """Whether both hold a measurement of the same id."""
        return not {*self.ids}.isdisjoint(other.ids)

    @property
    def sets(self) -> list[store.SampleSet]:
        """The samples of the end of a run, by benchmark; those in the midst of training are left out.

        Raises:
            DataError: it was measured in the midst of training alone, or cannot be read.
        """
        if self.fault:
            raise DataError(self.fault)
        found: dict[str, Measurement] = {
            one.benchmark: one for one in self.known if one.step is None
        }
        if not found:
            raise DataError(f"{self.folder} holds no samples of a finished run")
        return [self._fullest(one) for one in found.values()]

    def _fullest(self, one: Measurement) -> store.SampleSet:
        """Its samples in the copy that knows of most withdrawals, then holds most answers and verdicts: one
        may be older, or have been cut short."""
        copies = [store.SampleSet(place / SAMPLES, one) for place in (self.folder, *self.others)]
        return max(copies, key=_held) if len(copies) > 1 else copies[0]

    def chosen(self, benchmarks: Sequence[str]) -> list[store.SampleSet]:
        """Those of `sets` that are of these benchmarks; all where none is named."""
        return [one for one in self.sets if not benchmarks or one.asked.benchmark in benchmarks]

    @property
    def seed(self) -> int:
        """Of training; of the sampling where nothing was trained."""
        return self.execution.seed if self.execution else self.last.seed

    @property
    def method(self) -> str:
        """Type of the training method; empty where nothing was trained."""
        return self.execution.method if self.execution else ""

    @property
    def source(self) -> str:
        """The model: where a reference or a model was loaded from, or what a run's student was."""
        return str(self.execution.student["name"]) if self.execution else self.last.subject.name

    @property
    def public(self) -> bool:
        """Whether it is a model that was not trained here, neither student nor teacher of an experiment."""
        return self.role == "model" and not self.last.subject.trained_by

    def identity(self, benchmarks: Sequence[str] = ()) -> str:
        """Equal for runs that differ in their seed alone, and for the same model measured again.

        Raises:
            DataError: it cannot be read.
        """
        if self.fault:
            raise DataError(self.fault)
        if self.execution:
            return f"run {self.execution.system}"
        chosen = [one.asked for one in self.chosen(benchmarks)]
        keys = {one.subject.key for one in chosen}
        if len(keys) == 1:
            return f"model {keys.pop()}"
        # A teacher with specialists: who answers what is part of what it is.
        return "models " + digest(sorted((one.benchmark, one.subject.key) for one in chosen))

    @property
    def teacher_tokens(self) -> float | None:
        """Tokens that the teacher read in training, candidates included; None where nothing was trained."""
        rows = [row for row in self.metrics if "teacher_tokens" in row]
        return sum(row["teacher_tokens"] for row in rows) if rows else None

    @property
    def seconds(self) -> float | None:
        """Seconds of training: rollouts, teacher and updates."""
        rows = [row for row in self.metrics if all(part in row for part in PARTS)]
        return sum(r[part] for r in rows for part in PARTS) if rows else None


def _held(copy: store.SampleSet) -> tuple[int, ...]:
    """Withdrawals, answers, verdicts that count and refusals that a copy holds; least of a damaged one."""
    try:
        found = copy.generations(), copy.grades(copy.asked.grader), copy.refusals()
        return copy.withdrawals, *map(len, found)
    except DataError:
        return (-1,)


def find(source: Path) -> list[Measured]:
    """All that was measured below a folder, in order of time; a copy of what is there counts once.

    What cannot be read is among it, with its `fault`.

    Raises:
        DataError: there is no such folder, or nothing in it was measured or can be read.
    """
    if not source.is_dir():
        raise DataError(f"{source} is neither a folder of runs nor the address of an MLflow store")
    found = [one for folder in sorted(_folders(source), key=natural) for one in _read(folder)]
    if not found:
        raise DataError(
            f"nothing below {source} was measured: `opdlab train` or `opdlab eval` something first, or "
            "name the folder that holds its runs"
        )
    if all(one.fault for one in found):
        raise DataError("; ".join(one.fault for one in found))
    return in_order(found)


def in_order(found: Sequence[Measured]) -> list[Measured]:
    """Copies taken together, by time: the same list wherever and in whatever order they lie."""
    return sorted(without_copies(found), key=lambda one: (one.when, one.name, one.ids))


def without_copies(found: Sequence[Measured]) -> list[Measured]:
    """Copies taken together: what one of them was asked for, and the samples that one of them holds.

    A copy is known by a measurement that both hold; each keeps the place of the first.
    """
    groups: list[list[Measured]] = []
    for one in found:
        same = [group for group in groups if any(one.is_copy_of(other) for other in group)]
        if not same:
            groups.append([one])
            continue
        first, *more = same
        for other in more:
            first += other
            groups.remove(other)
        first.append(one)
    return [_together(group) for group in groups]


def _together(copies: Sequence[Measured]) -> Measured:
    """One of what several copies hold."""
    first = copies[0]
    if len(copies) == 1:
        return first
    known = {(one.number, one.time): one for copy in copies for one in copy.known}
    return replace(
        first,
        known=[known[key] for key in sorted(known)],
        metrics=max((copy.metrics for copy in copies), key=len),
        others=tuple(place for copy in copies[1:] for place in (copy.folder, *copy.others)),
    )


def _folders(source: Path) -> Iterator[Path]:
    seen = set()
    for path, names, _ in os.walk(source, followlinks=True):
        here = Path(path)
        real = here.resolve()
        if real in seen:
            names.clear()
        elif is_there(here / SAMPLES / MEASUREMENTS) or store.holds_samples(here / SAMPLES):
            yield here
            names.clear()
        elif next((here / SAMPLES).glob("*/*/*/asked.json"), None):
            yield here  # of an earlier version, which is told
        seen.add(real)


def _read(folder: Path) -> Iterator[Measured]:
    """The models that were measured into a folder, or why they cannot be read."""
    try:
        yield from _models(folder)
    except DataError as error:
        yield Measured(folder, (), fault=str(error))


def _models(folder: Path) -> Iterator[Measured]:
    store.sample_sets(folder / SAMPLES)  # raises where nothing of this version is there
    models: dict[tuple[str, ...], list[Measurement]] = {}
    for one in read_measurements(folder / SAMPLES):
        # What belongs to no execution is known by who answered.
        whose = (one.execution, one.model) if one.execution else (one.subject.key,)
        models.setdefault((one.role, *whose), []).append(one)
    for known in models.values():
        if known[-1].role != "run":
            yield Measured(folder, known)
            continue
        execution = Execution.behind(folder, known[-1].execution)
        yield Measured(folder, known, execution, read_metrics(folder, execution.id))
