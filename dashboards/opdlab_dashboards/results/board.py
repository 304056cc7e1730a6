"""The leaderboard as data: rows that were measured in one way, and their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from opdlab.configuration import close
from opdlab.errors import DataError
from opdlab.records import JUDGED
from opdlab_dashboards.results.measured import REFERENCES, Measured
from opdlab_dashboards.results.rows import Cell, Reading, Row, gathered
from opdlab_evaluators.statistics import Standing, rank

AVERAGE = "average"
MARK = 4
"""Digits of an identity that are shown, at least."""


@dataclass(frozen=True, eq=False)
class Board:
    """Rows that were measured in one way, best first: only these are ranked against each other.

    Attributes:
        standings: by benchmark and for the average; one a row, None where a sample was not graded.
    """

    protocol: str
    rows: list[Row]
    standings: dict[str, list[Standing | None]]

    @property
    def cells(self) -> dict[str, Cell]:
        """Those of the first row: what all rows share is read from them."""
        return self.rows[0].cells

    @property
    def k(self) -> str:
        return "/".join(str(k) for k in sorted({cell.k for cell in self.cells.values()}))


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """All boards, the one with most rows first, and what was left out and why."""

    boards: list[Board]
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def until(self) -> str:
        """When the last of what is shown was measured: the same for copies, unlike the time of reading."""
        rows = [row for board in self.boards for row in board.rows]
        last = max(one.time for row in rows for run in row.runs for one in run.known)
        return f"{last[:16].replace('T', ' ')} UTC"


def build(
    found: Sequence[Measured],
    benchmarks: Sequence[str] = (),
    on_read: Callable[[], None] = lambda: None,
) -> Leaderboard:
    """Read the samples of what was found, gather seeds into rows and rows into boards.

    Args:
        benchmarks: only these; by default all that each was measured on.
        on_read: called after each.

    Raises:
        DataError: nothing can be shown, or nothing was measured on one of the benchmarks.
    """
    _require(benchmarks, sorted(set(_benchmarks(found))))
    left_out: list[tuple[str, str]] = []
    readings: list[Reading] = []
    kept = _newest(found, benchmarks, left_out)
    for one in found:
        on_read()
        if one not in kept:
            continue
        try:
            readings += [Reading.of(one, names) for names in _apart(one, benchmarks)]
        except DataError as error:
            left_out.append((one.name, str(error)))
    groups: dict[tuple[str, str], list[Reading]] = {}
    for reading in readings:
        identity = reading.measured.identity(list(reading.cells))
        groups.setdefault((reading.protocol, identity), []).append(reading)
    rows = [gathered(group) for group in groups.values()]
    if not rows:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out[:3])
        raise DataError(f"none of {len(left_out)} measured models can be shown. {reasons}")
    boards: dict[str, list[Row]] = {}
    for row in _distinct(rows, benchmarks):
        boards.setdefault(row.protocol, []).append(row)
    made = [board_of(protocol, rows) for protocol, rows in boards.items()]
    order = sorted(made, key=lambda board: (-len(board.rows), board.protocol))
    return Leaderboard(order, left_out)


def _apart(one: Measured, benchmarks: Sequence[str]) -> list[list[str]]:
    """Names of benchmarks that may share a board: a model's opinions stand beside no exact verdicts."""
    found: dict[bool, list[str]] = {False: [], True: []}
    for kept in one.chosen(benchmarks):
        found[kept.asked.grader.startswith(JUDGED)].append(kept.asked.benchmark)
    return [names for names in found.values() if names] or [list(benchmarks)]


def _require(benchmarks: Sequence[str], known: Sequence[str]) -> None:
    for name in benchmarks:
        if name not in known:
            raise DataError(
                f"nothing was measured on {name!r}.{close(name, known)} "
                f"There are {', '.join(known) or 'no finished measurements'}"
            )


def _benchmarks(found: Sequence[Measured]) -> Iterator[str]:
    """Those of finished measurements; of the others it is told why they are left out."""
    for one in found:
        with suppress(DataError):
            yield from (samples.asked.benchmark for samples in one.sets)


def _newest(
    found: Sequence[Measured], benchmarks: Sequence[str], left_out: list[tuple[str, str]]
) -> list[Measured]:
    """One measurement a system and seed: of several executions the last."""
    kept: dict[tuple[Any, ...], Measured] = {}
    for one in found:
        try:
            protocols = tuple(sorted(s.asked.protocol for s in one.chosen(benchmarks)))
            key = (one.identity(benchmarks), one.seed, protocols)
        except DataError as error:
            left_out.append((one.name, str(error)))
            continue
        if (other := kept.pop(key, None)) is not None:
            # Of equal models the reference of an experiment is what a reader looks for.
            older, one = sorted((other, one), key=lambda m: (m.role in REFERENCES, m.when, m.ids))
            left_out.append((older.name, f"measured again with the same seed: {one.name}"))
        kept[key] = one
    return list(kept.values())


def _distinct(rows: Sequence[Row], benchmarks: Sequence[str]) -> list[Row]:
    """Rows whose names differ within a board, by the beginning of what tells them apart."""
    named: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        named.setdefault((row.protocol, row.name), []).append(row)
    return [one for same in named.values() for one in _marked(same, benchmarks)]


def _marked(rows: Sequence[Row], benchmarks: Sequence[str]) -> list[Row]:
    """Rows of one name, each with as much of its identity as tells it from the others."""
    if len(rows) == 1:
        return list(rows)
    marks = [row.runs[0].identity(benchmarks).split()[-1] for row in rows]
    length = next(n for n in range(MARK, 99) if len({mark[:n] for mark in marks}) == len(marks))
    return [
        replace(row, name=f"{row.name} ({mark[:length]})")
        for row, mark in zip(rows, marks, strict=True)
    ]


def board_of(protocol: str, rows: Sequence[Row]) -> Board:
    """Rows of one protocol in order of their average, with their places.

    Raises:
        DataError: rows of one protocol have different problems.
    """
    ordered = sorted(rows, key=lambda row: (-row.mean.worst, row.name))
    names = list(ordered[0].cells)
    for row in ordered[1:]:
        for name in names:
            if row.cells[name].problems != ordered[0].cells[name].problems:
                raise DataError(
                    f"{row.name} and {ordered[0].name} have the same protocol on {name} and other "
                    "problems: a file of samples was changed; evaluate again"
                )
    standings = {name: _standings(ordered, [name]) for name in names}
    if len(names) > 1:
        standings[AVERAGE] = _standings(ordered, names)
    return Board(protocol, ordered, standings)


def _standings(rows: Sequence[Row], benchmarks: Sequence[str]) -> list[Standing | None]:
    """Places among the rows that were graded whole."""
    whole = [i for i, row in enumerate(rows) if not any(row.cells[b].faults for b in benchmarks)]
    if not whole:
        return [None] * len(rows)
    found = rank([np.stack([rows[i].cells[b].correct for i in whole]) for b in benchmarks])
    placed: list[Standing | None] = [None] * len(rows)
    for i, standing in zip(whole, found, strict=True):
        placed[i] = Standing(
            standing.first,
            standing.last,
            frozenset(whole[j] for j in standing.better),
            frozenset(whole[j] for j in standing.worse),
        )
    return placed
