"""A report as tables: LaTeX and Markdown for a paper, CSV and JSON for another program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from opdlab.console import Result
from opdlab_dashboards.pages import tables
from opdlab_dashboards.pages.forest import Pairing, points
from opdlab_dashboards.pages.swept_page import SweptPage, percent
from opdlab_dashboards.results import Board, Row

PAGE = (".html", ".htm", "")
"""Endings of a file that is written as the page."""
ENDS = (".tex", ".md", ".csv", ".json")


@dataclass(frozen=True)
class Told(Result):
    """What the page tells, without its figures.

    Attributes:
        standings: the place of each row on the board, by its name.
        found, open: sentences on what is shown, and on what cannot be concluded.
        settings: keys in which the runs `names` differ, with the value of each.
        sweep: where the report is about one, with all of its trials.
    """

    title: str
    board: Board
    rows_shown: Sequence[Row]
    standings: Mapping[str, str]
    pairs: Sequence[Pairing]
    found: Sequence[str]
    open: Sequence[str]
    names: Sequence[str]
    settings: Sequence[tuple[str, Sequence[str]]]
    sweep: SweptPage | None

    @override
    def rows(self) -> list[Mapping[str, Any]]:
        """One a trial where it is about a sweep; else one a difference, pair by pair."""
        if self.sweep:
            return list(self.sweep.records())
        return [
            {"run": pair.b.name, "minus": pair.a.name, **asdict(one), "shown": one.shown}
            for pair in self.pairs
            for one in pair.differences
        ]

    @override
    def shown(self) -> Iterator[RenderableType]:
        yield Text(self.title)
        if self.sweep:
            yield self._trials(self.sweep)
        yield self._scores()
        if self.pairs:
            yield self._differences()
        if self.settings:
            yield _table("Settings that differ", ["key", *self.names], self._set(), len(self.names))
        for one in (*self.found, *self.open, tables.READING):
            yield Text(one)

    def _trials(self, sweep: SweptPage) -> Table:
        lines = ([cell.text for cell in line["cells"]] for line in sweep.table())
        return _table("Trials", [name for _, name, _ in sweep.columns], lines)

    def _scores(self) -> Table:
        k, names = self.board.k, list(self.board.cells)
        several = len(names) > 1
        heads = ["model", "rank", "seeds", *(["average"] if several else []), *names]
        lines = (
            [
                row.name,
                self.standings[row.name],
                tables.seeds(row),
                *([percent(row.mean)] if several else []),
                *(percent(row.cells[name].mean) for name in names),
                percent(row.pass_at),
            ]
            for row in self.rows_shown
        )
        return _table(f"mean@{k} in %, 95 % intervals over problems", [*heads, f"pass@{k}"], lines)

    def _differences(self) -> Table:
        heads = ["difference", "benchmark", "problems", "points", "p"]
        lines = (
            [pair.title, d.benchmark, str(d.problems), points(d), f"{d.p:.2g}"]
            for pair in self.pairs
            for d in pair.differences
        )
        title = f"Differences of mean@{self.board.k}, paired by problem; p Holm-corrected over all"
        return _table(title, heads, lines, left=2)

    def _set(self) -> Iterator[list[str]]:
        for key, values in self.settings:
            yield [key, *values]


def _table(title: str, heads: Sequence[str], lines: Iterator[list[str]], left: int = 1) -> Table:
    """The first columns to the left, the others, numbers mostly, to the right."""
    table = Table(title=title)
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < left else "right")
    for line in lines:
        table.add_row(*line)
    return table
