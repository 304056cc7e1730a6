"""What was measured, as it lies below a folder: runs, references and models, by their own records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opdlab import store
from opdlab.errors import DataError
from opdlab.identity import EXECUTION, MEASUREMENTS, Execution, Measurement, digest
from opdlab.identity import read as read_measurements
from opdlab.natural_order import natural
from opdlab.tracking import PARTS, read_metrics

SAMPLES = "samples"
ORIGIN = "origin.json"
"""Of a copy from MLflow: which run it is."""
REFERENCES = ("student", "teacher")


@dataclass(frozen=True, eq=False)
class Measured:
    """One model that was evaluated: a run of an experiment, its student or teacher, or any other.

    Attributes:
        folder: where `samples` lies.
        known: every measurement of it that was asked for, in order.
        execution: what a run was made with; None for what was not trained.
        metrics: one mapping a training step.
        place: where a person finds the samples: the folder, or the run in MLflow.
    """

    folder: Path
    known: Sequence[Measurement]
    execution: Execution | None = None
    metrics: list[dict[str, float]] = field(default_factory=list)
    place: str = ""

    @property
    def last(self) -> Measurement:
        return self.known[-1]

    @property
    def name(self) -> str:
        """Where it was measured, below the output folder of that time."""
        return self.last.label

    @property
    def role(self) -> str:
        """`student` (before training), `teacher`, `run`, or `model` for `opdlab eval`."""
        return self.last.role

    @property
    def config(self) -> Mapping[str, Any]:
        """The experiment, resolved; empty for a model."""
        return self.execution.settings if self.execution else {}

    @property
    def when(self) -> str:
        """When it was begun: trained, or first measured; ISO 8601 in UTC."""
        return self.execution.started if self.execution else min(one.time for one in self.known)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of its measurements: the same for a copy."""
        return tuple(sorted({one.id for one in self.known}))

    @property
    def sets(self) -> list[store.SampleSet]:
        """The samples of the end of a run, by benchmark; those in the midst of training are left out.

        Raises:
            DataError: it was measured in the midst of training alone.
        """
        found: dict[str, Measurement] = {
            one.benchmark: one for one in self.known if one.step is None
        }
        if not found:
            raise DataError(f"{self.folder} holds no samples of a finished run")
        return [store.SampleSet(self.folder / SAMPLES, one) for one in found.values()]

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
        """Equal for runs that differ in their seed alone, and for the same model measured again."""
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
        rows = [row for row in self.metrics if "response_tokens" in row]
        return self._scaled(sum(r["response_tokens"] + r["leaves"] for r in rows)) if rows else None

    @property
    def seconds(self) -> float | None:
        """Seconds of training: rollouts, teacher and updates."""
        rows = [row for row in self.metrics if all(part in row for part in PARTS)]
        return self._scaled(sum(r[part] for r in rows for part in PARTS)) if rows else None

    def _scaled(self, total: float) -> float:
        """Metrics are means over the micro-batches of a step."""
        return total * self.config.get("training", {}).get("accumulate", 1)


def find(source: Path) -> list[Measured]:
    """All that was measured below a folder, in order of time; a copy of what is there counts once.

    Raises:
        DataError: there is no such folder, nothing in it was measured, or a record is damaged.
    """
    if not source.is_dir():
        raise DataError(f"{source} is neither a folder of runs nor the address of an MLflow store")
    found = [one for folder in sorted(_folders(source), key=natural) for one in _read(folder)]
    if not found:
        raise DataError(
            f"nothing below {source} was measured: `opdlab train` or `opdlab eval` something first, or "
            "name the folder that holds its runs"
        )
    return sorted(without_copies(found), key=lambda one: (one.when, one.name))


def without_copies(found: Sequence[Measured]) -> list[Measured]:
    """Of several copies of the same measurements, the one that was asked for most often."""
    kept: dict[tuple[str, ...], Measured] = {}
    for one in found:
        other = kept.get(one.ids)
        if other is None or other.last.number < one.last.number:
            kept[one.ids] = one
    return list(kept.values())


def _folders(source: Path) -> Iterator[Path]:
    seen = set()
    for path, names, _ in os.walk(source, followlinks=True):
        here = Path(path)
        real = here.resolve()
        if real in seen:
            names.clear()
        elif (here / SAMPLES / MEASUREMENTS).exists():
            yield here
            names.clear()
        elif next((here / SAMPLES).glob("*/*/*/asked.json"), None):
            store.sample_sets(here / SAMPLES)  # raises, with words about its version
        seen.add(real)


def _read(folder: Path) -> Iterator[Measured]:
    """The models that were measured into a folder."""
    # As it was given: a page that is published need not tell where its maker lives.
    place = str(folder / SAMPLES)
    if (folder / ORIGIN).exists():
        place = read_json(folder / ORIGIN)["place"]
    models: dict[tuple[str, ...], list[Measurement]] = {}
    for one in read_measurements(folder / SAMPLES):
        # What belongs to no execution is known by who answered.
        whose = (one.execution, one.model) if one.execution else (one.subject.key,)
        models.setdefault((one.role, *whose), []).append(one)
    for known in models.values():
        if known[-1].role != "run":
            yield Measured(folder, known, place=place)
            continue
        execution = Execution.read(folder)
        if execution.id != known[-1].execution:
            raise DataError(
                f"{folder}: {EXECUTION} is of another training (id {execution.id}) than the samples (id "
                f"{known[-1].execution}); restore it from a copy"
            )
        yield Measured(folder, known, execution, read_metrics(folder), place)


def read_json(path: Path) -> dict[str, Any]:
    """Raises DataError where there is no sound file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error})") from error
