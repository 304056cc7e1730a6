"""What evaluations and comparisons find, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from opdlab.console import BOLD, DIM, END, YELLOW, Result
from opdlab.evaluation import comparison, disputes, over_seeds
from opdlab.evaluation.plotted import forest
from opdlab.records import Sample


@dataclass(frozen=True)
class Scores(Result):
    """How a model did on its benchmarks.

    Attributes:
        label: what was measured.
        samples: every answer with the verdict that counts.
        folder: where they are stored.
    """

    label: str
    samples: Sequence[Sample] = field(repr=False)
    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    def rows(self) -> list[Mapping[str, Any]]:
        """One for each benchmark, then one over all where there are several: as in `results.json`."""
        return [asdict(one) for one in comparison.summaries(self.samples)]

    def shown(self) -> Iterator[RenderableType]:
        yield comparison.own_table(self.label, self.samples)
        yield from warned(comparison.remarks({self.label: self.samples}))
        yield from disputes.told(self.label, self.samples)
        graders = ", ".join(dict.fromkeys(sample.grader for sample in self.samples))
        yield (
            f"{DIM}cut: share of answers cut at the length limit. Grader versions: {graders}{END}"
        )
        yield f"Every sample as a page: {BOLD}opdlab samples {self.folder}{END}"


@dataclass(frozen=True)
class Comparison(Result):
    """Runs, or methods over training seeds, compared with the first of them.

    Attributes:
        measured: samples of each run.
        differences: of each pair, one for each benchmark.
        over_seeds: whether they are means over training seeds; else they are paired by problem.
        notes: remarks on how to read the differences.
    """

    measured: Mapping[str, Sequence[Sample]] = field(repr=False)
    differences: Mapping[str, Sequence[Any]] = field(repr=False)
    over_seeds: bool = False
    notes: tuple[str, ...] = ()

    def rows(self) -> list[Mapping[str, Any]]:
        """One for each pair and benchmark: as in `results.json`, with the pair's name."""
        found = self.differences.items()
        return [{"pair": pair, **asdict(one)} for pair, each in found for one in each]

    def shown(self) -> Iterator[RenderableType]:
        yield comparison.score_table(self.measured)
        yield from warned(self.notes)
        if self.over_seeds:
            for name, each in self.differences.items():
                yield over_seeds.seed_table(name, each)
            yield over_seeds.READING
        else:
            yield comparison.difference_table(self.differences)
            yield comparison.READING

    def plotted(self, kind: str) -> bytes | None:
        """All differences with their intervals as a forest plot."""
        return forest(self.differences, "training seeds" if self.over_seeds else "problems", kind)


def warned(lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """What is not to be overlooked, in its colour."""
    return (f"{YELLOW}{line}{END}" for line in lines if line)
