"""What a training leaves behind, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from opdlab.console import BOLD, END, Result
from opdlab.errors import DataError
from opdlab.evaluation import STYLE, Scores, comparison
from opdlab.files import is_there, read_metrics
from opdlab.records import Sample
from opdlab.training.group import STATE, state_of

LOSS = "loss"


@dataclass(frozen=True)
class Run(Result):
    """One training: its steps, its model and its scores.

    Attributes:
        name: within its experiment.
        folder: checkpoints, records, samples and model.
    """

    name: str
    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def model(self) -> Path:
        """Folder of the trained model, in the form of Hugging Face.

        Raises:
            DataError: nothing was trained here (a reference model), or the training has not finished.
        """
        folder = self.folder / "model"
        if not folder.is_dir():
            raise DataError(
                f"{self.folder} holds no trained model: it is a reference, which the experiment names, "
                "or its training has not ended"
            )
        return folder

    def rows(self) -> list[Mapping[str, Any]]:
        """Metrics of each step: as in `metrics.jsonl`."""
        return [row for row in read_metrics(self.folder) if "step" in row]

    @property
    def samples(self) -> Sequence[Sample]:
        """Every answer of its last evaluation with the verdict that counts; none without benchmarks."""
        return comparison.read_run(self.folder) if is_there(self.folder / "samples") else []

    @property
    def scores(self) -> Scores:
        """How the trained model did on the experiment's benchmarks.

        Raises:
            DataError: it was not evaluated.
        """
        return Scores(self.name, comparison.read_run(self.folder), self.folder)

    def shown(self) -> Iterator[RenderableType]:
        rows = [row for row in self.rows() if LOSS in row]
        last = f"{len(rows)} steps, loss {rows[-1][LOSS]:.4g} at the last" if rows else "no steps"
        yield f"{BOLD}{self.name}{END}: {last}; {self.folder}"
        if self.samples:
            yield from self.scores.shown()


@dataclass(frozen=True)
class Trained(Result, Mapping[str, Run]):
    """The runs of an experiment by name, and how they compare.

    Attributes:
        folder: of this execution.
        names: of runs, in their order.
        references: models that were measured beside them (`student`, `teacher`).
    """

    folder: Path
    names: tuple[str, ...]
    references: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Trained:
        """What an execution in a folder left behind.

        Returns:
            Its runs by name.

        Raises:
            DataError: there is none, or its record is damaged.
        """
        if not is_there(folder / STATE):
            raise DataError(f"{folder} is not a folder of a training: it holds no {STATE}")
        runs = state_of(folder)["runs"]
        names = tuple(name for name, one in runs.items() if "repeats" in one)
        return cls(folder, names, tuple(name for name in runs if name not in names))

    def __getitem__(self, name: str) -> Run:
        if name not in (*self.names, *self.references):
            raise KeyError(f"{name}; there are {', '.join((*self.names, *self.references))}")
        return Run(name, self.folder / name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def measured(self) -> dict[str, Sequence[Sample]]:
        """Samples of references and runs that were evaluated."""
        found = {name: self[name].samples for name in (*self.references, *self.names)}
        return {name: samples for name, samples in found.items() if samples}

    def rows(self) -> list[Mapping[str, Any]]:
        """Scores of references and runs, one row for each and a benchmark."""
        return [
            {"run": name, **row}
            for name, samples in self.measured.items()
            for row in Scores(name, samples, self.folder / name).rows()
        ]

    def shown(self) -> Iterator[RenderableType]:
        table = Table(title=str(self.folder), **STYLE)
        for column in ("run", "steps", LOSS):
            table.add_column(column, justify="left" if column == "run" else "right")
        for name in self:
            rows = [row for row in self[name].rows() if LOSS in row]
            table.add_row(name, str(len(rows)), f"{rows[-1][LOSS]:.4g}" if rows else "")
        yield table
        if self.measured:
            yield comparison.score_table(self.measured)
