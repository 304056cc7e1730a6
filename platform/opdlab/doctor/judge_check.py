"""`opdlab judge check`: how far a model as a judge agrees with people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from opdlab import plugins
from opdlab.configuration import Experiment, loader
from opdlab.console import BOLD, DIM, END, YELLOW, console, progress_bar, quieten
from opdlab.datafiles import MISSING, chat, iter_rows, json_line, value_at
from opdlab.errors import ConfigError, DataError
from opdlab.files import write_whole
from opdlab.plugins import Grader, verdicts_on
from opdlab.prompts import plain_text
from opdlab.records import JUDGED, Problem, Verdict

RIGHT, WRONG = ("correct", "right", "true", "yes", "1"), ("wrong", "incorrect", "false", "no", "0")
COLUMNS = ("prompt", "answer", "reference", "label")
SHOWN = 5


@dataclass(frozen=True)
class Agreement:
    """Verdicts of a judge beside labels of people.

    Attributes:
        table: answers by label and verdict, right first: `table[0][1]` are right to people, and wrong to
            the judge.
        failed: answers on which the judge gave no verdict.
    """

    table: tuple[tuple[int, int], tuple[int, int]]
    failed: int

    @property
    def count(self) -> int:
        """Answers that have both."""
        return sum(map(sum, self.table))

    @property
    def share(self) -> float:
        """Of answers on which both say the same."""
        return (self.table[0][0] + self.table[1][1]) / self.count

    @property
    def kappa(self) -> float:
        """Agreement beyond chance; NaN where one side says the same of all.

        Source: J. Cohen, Educational and Psychological Measurement 20, 1960.
        """
        (a, b), (c, d) = self.table
        n = self.count
        chance = ((a + b) * (a + c) + (c + d) * (b + d)) / n**2
        return float("nan") if chance == 1 else (self.share - chance) / (1 - chance)


def check_judge(name: str, labels: str, overrides: Sequence[str], to: str | None) -> None:
    """Ask the judge of an experiment about answers that people have labelled, and print the agreement.

    Args:
        labels: file with the columns prompt, answer, reference and label (`correct` or `wrong`).
        to: JSON Lines file for the rows with the judge's verdict and words.

    Raises:
        ConfigError: the experiment has no judge, or several.
        DataError: a row lacks a column, or its label is none.
    """
    quieten()
    judge = _judge_of(loader.load_experiment(name, list(overrides)))
    rows = list(iter_rows(Path(labels)))
    problems, answers, right = _read(labels, rows, judge)
    judge.require()
    with progress_bar() as progress:
        task = progress.add_task("judge", total=len(rows))
        asked = list(zip(problems, answers, strict=True))
        verdicts = verdicts_on(judge, asked, lambda count: progress.advance(task, count))
    if to is not None:
        told = [
            {**row, "verdict": one.status, "reply": one.reason}
            for row, one in zip(rows, verdicts, strict=True)
        ]
        write_whole(Path(to), "".join(map(json_line, told)))
    _show(judge, agreement(right, verdicts), right, verdicts)


def agreement(right: Sequence[bool], verdicts: Sequence[Verdict]) -> Agreement:
    """Count labels and verdicts; an empty answer, which a judge never reads, is wrong."""
    table = [[0, 0], [0, 0]]
    failed = 0
    for label, verdict in zip(right, verdicts, strict=True):
        if verdict.status in Verdict.FAULTS:
            failed += 1
        else:
            table[not label][verdict.status != "correct"] += 1
    (a, b), (c, d) = table
    return Agreement(((a, b), (c, d)), failed)


def _judge_of(config: Experiment) -> Grader:
    held: list[Any] = list(config.evaluation.benchmarks)
    graders = [getattr(one, f.name) for one in held for f in fields(one)]
    if config.prompts.type == "dataset":
        graders += [source.grader for source in config.prompts.resolved()]
    found = [one for one in graders if isinstance(one, Grader) and one.version.startswith(JUDGED)]
    judges = list(dict.fromkeys(found))
    if len(judges) != 1:
        what = "has no grader that is a judge" if not judges else f"has {len(judges)} judges"
        raise ConfigError(
            f"{config.name}: it {what}; one benchmark, or the prompts, must have "
            "`grader: {judge: {url: ..., model: ...}}`"
        )
    return judges[0]


def _read(
    file: str, rows: Sequence[Mapping[str, Any]], judge: Grader
) -> tuple[list[Problem], list[str], list[bool]]:
    problems, answers, right = [], [], []
    for number, row in enumerate(rows, start=1):
        values = {name: value_at(row, name) for name in COLUMNS}
        for name, value in values.items():
            if value is None or value is MISSING:
                raise DataError(
                    f"{file}: row {number} has nothing in column {name!r}; wanted are {', '.join(COLUMNS)}"
                )
        label = str(values["label"]).strip().lower().removesuffix(".0")
        if label not in RIGHT + WRONG:
            raise DataError(
                f"{file}: row {number} has the label {values['label']!r}; write correct or wrong"
            )
        try:
            gold = judge.gold(values["reference"])
        except ValueError as error:
            raise DataError(f"{file}: row {number} has no reference ({error})") from error
        problems.append(Problem("labels", str(number), _asked(values["prompt"]), gold))
        answers.append(str(values["answer"]))
        right.append(label in RIGHT)
    if not rows:
        raise DataError(f"{file} has no rows")
    return problems, answers, right


def _asked(prompt: Any) -> str:
    """A prompt as the judge of an evaluation reads it: messages as one text."""
    return plain_text(chat(prompt, "prompt").messages) if isinstance(prompt, list) else str(prompt)


def _show(
    judge: Grader, found: Agreement, right: Sequence[bool], verdicts: Sequence[Verdict]
) -> None:
    if not found.count:
        raise DataError(f"the judge gave no verdict on any answer: {verdicts[0].reason}")
    same = [
        float(label == (one.status == "correct"))
        for label, one in zip(right, verdicts, strict=True)
        if one.status not in Verdict.FAULTS
    ]
    low, high = plugins.load(plugins.STATISTICS, "mean_interval")(np.array([same]).reshape(-1))
    console.print(
        f"{BOLD}agreement{END} {100 * found.share:.1f} % [{100 * float(low):.0f},{100 * float(high):.0f}] "
        f"of {found.count} answers, kappa {found.kappa:.2f}",
        highlight=False,
    )
    (a, b), (c, d) = found.table
    console.print(f"right to people: the judge says correct {a}, wrong {b}", highlight=False)
    console.print(f"wrong to people: the judge says correct {c}, wrong {d}", highlight=False)
    if found.failed:
        console.print(f"{YELLOW}{found.failed} answers got no verdict{END}")
    apart = [
        (number, label, one)
        for number, (label, one) in enumerate(zip(right, verdicts, strict=True), start=1)
        if one.status not in Verdict.FAULTS and label != (one.status == "correct")
    ]
    for number, label, one in apart[:SHOWN]:
        said = escape(" ".join(one.reason.split())[:160])
        people = "correct" if label else "wrong"
        console.print(f"row {number}: people {people}, judge {one.status}: {said}", highlight=False)
    console.print(f"{DIM}{judge.version}{END}")
