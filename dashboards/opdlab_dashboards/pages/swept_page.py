"""What a report shows of a sweep: a summary, one table of all trials, figures, one forest plot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

from opdlab_dashboards.pages import tables
from opdlab_dashboards.pages.forest import MOST, Line, Pairing, forest, points
from opdlab_dashboards.pages.trial_figures import figures, in_figure
from opdlab_dashboards.results import (
    Board,
    Difference,
    Row,
    Score,
    Swept,
    pairs,
    short,
    swept,
    with_interval,
)
from opdlab_dashboards.results.swept import Trial

STATES = {"complete": "complete", "pruned": "pruned", "fail": "failed"}
REASON = 300
"""Characters of the reason why a trial failed; its log has all."""
NAMED = 12
"""Trials that a sentence lists."""


@dataclass(frozen=True)
class Cell:
    """Of the table: what it shows, what it is sorted by, and all digits."""

    text: str
    by: float | str | None = None
    title: str = ""


@dataclass(frozen=True, eq=False)
class SweptPage:
    """A sweep with what was measured of its trials.

    Attributes:
        rows: by the trial's number; of the others the references.
        standings: the place of each row on the board, by its name.
        words: what the states of the table are called.
    """

    words: ClassVar[Mapping[str, str]] = {**STATES, "reference": "references"}
    sweep: Swept
    board: Board
    standings: Mapping[str, str]

    @cached_property
    def rows(self) -> dict[int, Row]:
        found = ((swept.number_of(row.runs[0]), row) for row in self.board.rows)
        return {number: row for number, row in found if number is not None}

    @cached_property
    def student(self) -> Row | None:
        return next((row for row in self.board.rows if row.role == "student"), None)

    @cached_property
    def here(self) -> list[int]:
        """Trials whose samples lie here and can be read, the best first."""
        return [number for number in self.sweep.best if number in self.rows]

    @property
    def best(self) -> int:
        """The best of them."""
        return self.here[0]

    @cached_property
    def differences(self) -> dict[int, list[Difference]]:
        """What each other trial has more than the best one, and the best than the student, at its number.

        All are claimed together, and corrected together.
        """
        others = self.here[1:]
        best = self.rows[self.best]
        sides = [(best, self.rows[n]) for n in others]
        if self.student:
            return dict(
                zip([*others, self.best], pairs([*sides, (self.student, best)]), strict=True)
            )
        return dict(zip(others, pairs(sides), strict=True)) if sides else {}

    def facts(self) -> Iterator[tuple[str, str]]:
        """What stands first on the page."""
        sweep, best = self.sweep, self.rows[self.best]
        states = Counter(trial.state for trial in sweep.trials)
        told = [f"{states[name]} {word}" for name, word in STATES.items() if states[name]]
        yield "trials", f"{len(sweep.trials)}: {', '.join(told)}"
        yield "objective", ", ".join(f"{way} {metric}" for metric, way in sweep.objectives)
        yield f"trial {self.best}, the best", f"{percent(best.mean)} % mean@{self.board.k}"
        if self.student:
            yield "student before", f"{percent(self.student.mean)} %"
        chosen = next(trial for trial in sweep.trials if trial.number == self.best).params
        yield (
            "its settings",
            ", ".join(f"{sweep.named(k)} {in_figure(v)}" for k, v in chosen.items()) or "–",
        )
        for metric, key, share in sweep.shares:
            if metric == sweep.metric:
                yield "matters most", f"{sweep.named(key)}: {share}"
                break

    def pairs_of(self, some: Sequence[Row]) -> Iterator[Pairing]:
        """The best against the student, and some of the others against the best."""
        best = self.rows[self.best]
        if self.student and self.best in self.differences:
            yield Pairing(self.student, best, self.differences[self.best])
        for number, found in self.differences.items():
            if number != self.best and self.rows[number] in some:
                yield Pairing(best, self.rows[number], found)

    @cached_property
    def apart(self) -> dict[int, Difference]:
        """What each other trial has more than the best one over all benchmarks."""
        return {n: d[-1] for n, d in self.differences.items() if d and n != self.best}

    def shown(self) -> Iterator[str]:
        """Which trials are told apart from the best."""
        for word, sign in (("Worse", -1), ("Better", 1)):
            some = [n for n, d in self.apart.items() if d.shown and sign * d.value > 0]
            if some:
                where = f"{word} than trial {self.best} in mean@{self.board.k}"
                yield f"{where}: {len(some)} of {len(self.apart)} others, {_listed(some)}."

    def not_shown(self) -> Iterator[str]:
        """Which trials are not."""
        same = [n for n, d in self.apart.items() if not d.shown]
        if same:
            told = f"Not told apart from trial {self.best}: {len(same)} of {len(self.apart)} others"
            yield f"{told}, {_listed(same)}."

    def unfinished(self) -> Iterator[str]:
        """Why trials failed or were pruned, each reason once."""
        found: dict[tuple[str, str], list[int]] = {}
        for trial in self.sweep.trials:
            if trial.state != "complete" and trial.reason:
                found.setdefault((STATES.get(trial.state, trial.state), trial.reason), []).append(
                    trial.number
                )
        for (state, reason), numbers in found.items():
            yield f"{_listed(numbers).capitalize()} {state}: {reason[:REASON]}"

    @cached_property
    def columns(self) -> list[tuple[str, str, str]]:
        """Key, name and a title of each column of the table."""
        others = [metric for metric, _ in self.sweep.objectives if metric != "mean_at_k"]
        keys = self.sweep.keys
        return [
            ("rank", "rank", "places that a paired test does not rule out"),
            ("trial", "trial", ""),
            ("state", "state", ""),
            ("mean", f"mean@{self.board.k}, %", "over all benchmarks, with its 95 % interval"),
            ("difference", f"minus trial {self.best}", "points, paired by problem, 95 % interval"),
            *((metric, metric, "objective") for metric in others),
            *((key, self.sweep.named(key), key) for key in keys),
            ("truncated", "cut, %", "answers cut at the length limit"),
            ("tokens", "tokens", "mean length of an answer"),
            ("seconds", "seconds", "of training"),
        ]

    def table(self) -> Iterator[dict[str, Any]]:
        """One line a trial, the best first, then those that did not end; references last."""
        for trial in self.sweep.trials:
            row = self.rows.get(trial.number)
            yield {
                "number": trial.number,
                "state": trial.state,
                "best": trial.number == self.best,
                "cells": self._cells(trial, row),
            }
        for row in self.board.rows:
            if row.role != "run":
                cells = self._measured(row)
                blank = [Cell("–")] * (len(self.columns) - 8)
                name = tables.ROLE_NAMES[row.role]
                yield {
                    "number": None,
                    "state": "reference",
                    "best": False,
                    "cells": [
                        cells[0],
                        Cell(row.name, row.name),
                        Cell(name, name),
                        cells[1],
                        Cell("–"),
                        *blank,
                        *cells[2:],
                    ],
                }

    def records(self) -> Iterator[dict[str, Any]]:
        """One mapping a trial, with all digits; what was not measured is None."""
        for trial in self.sweep.trials:
            row, apart = self.rows.get(trial.number), self.apart.get(trial.number)
            mean = row.mean if row else None
            yield {
                "trial": trial.number,
                "state": trial.state,
                "reason": trial.reason,
                **{key: trial.params.get(key) for key in self.sweep.keys},
                **{metric: None for metric, _ in self.sweep.objectives},
                **self.sweep.outcome(trial),
                "constraints": dict(trial.constraints),
                f"mean@{self.board.k}": asdict(mean) if mean else None,
                f"minus_{self.best}": apart.value if apart else None,
                f"minus_{self.best}_low": apart.low if apart else None,
                f"minus_{self.best}_high": apart.high if apart else None,
                "truncated": row.average_of("truncated") if row else None,
                "tokens": row.average_of("tokens") if row else None,
                "seconds": row.seconds if row else None,
            }

    def _cells(self, trial: Trial, row: Row | None) -> list[Cell]:
        measured = self._measured(row) if row else [Cell("–")] * 5
        found = self.differences.get(trial.number) if trial.number != self.best else None
        apart = Cell(points(found[-1]), 100 * found[-1].value) if found else Cell("–")
        values = self.sweep.outcome(trial)
        if not row and "mean_at_k" in values:
            measured[1] = Cell(f"{100 * values['mean_at_k']:.3g}", 100 * values["mean_at_k"])
        state = STATES.get(trial.state, trial.state)
        if not trial.feasible:
            state += ", beyond a limit"
        return [
            measured[0],
            Cell(str(trial.number), trial.number),
            Cell(state, state, trial.reason),
            measured[1],
            apart,
            *(_number(values.get(m)) for m, _ in self.sweep.objectives if m != "mean_at_k"),
            *(_number(trial.params.get(key)) for key in self.sweep.keys),
            *measured[2:],
        ]

    def _measured(self, row: Row) -> list[Cell]:
        """Rank, mean@k, and what it took."""
        standing, cut = self.standings[row.name], 100 * row.average_of("truncated")
        tokens, seconds = row.average_of("tokens"), row.seconds
        return [
            Cell(standing, float(self.board.rows.index(row))),
            Cell(percent(row.mean), 100 * row.mean.worst),
            Cell(f"{cut:.0f}", cut),
            Cell(f"{tokens:.0f}", tokens),
            Cell(tables.big(seconds), seconds),
        ]

    def figures(self) -> Iterator[dict[str, Any]]:
        """Of the trials, then the one of differences."""
        yield from figures(self.sweep, self.rows)
        if apart := self.apart:
            some = f"the best {MOST} of {len(apart)} others" if len(apart) > MOST else "all others"
            lines = [Line(f"trial {n}", d) for n, d in apart.items()]
            title = (
                f"Trials minus trial {self.best}, the best, points of mean@{self.board.k}: {some}"
            )
            yield forest(lines, title)


def percent(score: Score) -> str:
    """A score in % with its interval, in as many digits as that leaves; bounds where some are unknown."""
    if score.value is None or score.low is None or score.high is None:
        return f"{100 * score.worst:.0f} to {100 * score.best:.0f}?"
    return with_interval(100 * score.value, 100 * score.low, 100 * score.high)


def _number(value: Any) -> Cell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = in_figure(value)
        return Cell(
            text, None if value is None else str(value), "" if text == str(value) else str(value)
        )
    if not math.isfinite(value):
        return Cell(str(value))
    return Cell(short(value), value, str(value) if isinstance(value, float) else "")


def _listed(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"trial {numbers[0]}"
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"trials {', '.join(map(str, numbers[:NAMED]))}{more}"
