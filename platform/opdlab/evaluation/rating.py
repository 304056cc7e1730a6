"""`opdlab rate`: how often the student answers each training prompt rightly, as a column of a file."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, final

from rich.markup import escape
from rich.progress import TaskID

from opdlab.configuration import DatasetPrompts, Experiment, loader
from opdlab.console import BOLD, END, YELLOW, Stopped, StopRequest, console, progress_bar, quieten
from opdlab.datafiles import Placed, iter_rows, json_line, placed
from opdlab.errors import ConfigError, DataError
from opdlab.evaluation import store
from opdlab.evaluation.measured import all_answers, asked_of, draw_missing, grade_missing
from opdlab.evaluation.measuring import open_subject
from opdlab.evaluation.subjects import Measured
from opdlab.files import claimed, write_whole
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.plugins import Evaluator, Grader, declared, said_by
from opdlab.prompts import DatasetSource, open_dataset, prepared
from opdlab.records import Problem, Sample, Verdict

COLUMN = "pass_rate"
NAME = "prompts"


@final
@dataclass(frozen=True, eq=False)
class Rated(Evaluator):
    """The training prompts of one data set, graded by its grader."""

    asked: Sequence[Problem] = field(metadata={"description": "The prompts."})
    grader: Grader = field(metadata={"description": "Who judges."})

    @property
    def benchmark(self) -> str:
        return NAME

    @property
    def grader_version(self) -> str:
        return self.grader.version

    @property
    def graded_at_once(self) -> int:
        return self.grader.graded_at_once

    def problems(self) -> Sequence[Problem]:
        return self.asked

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return self.grader.grade(problem, completion)

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        return self.grader.grade_all(answers, on_graded)


def rate(name: str, overrides: list[str], to: str, count: int) -> None:
    """Measure the student on an experiment's prompts and write them with their pass rates.

    Answers are kept in a folder beside the file, so that the same call goes on where it was stopped, and
    draws nothing again that this model has answered.

    Args:
        to: JSON Lines file to write: the rows as they are, with `pass_rate`.
        count: answers to each prompt.

    Raises:
        ConfigError: the prompts are no single data set with a grader.
        ResumeError: another process answers them into the same folder.
    """
    quieten()
    config = loader.load_experiment(name, overrides)
    prompts, target = _single(config.prompts), Path(to)
    _require_free(target)
    models.use_threads(config.training.threads)
    student = config.student
    if student.drop_layers:
        raise ConfigError(
            "student.drop_layers: `rate` samples the model as saved; write the pruned one by `opdlab "
            "prune MODEL FOLDER --drop NUMBERS` and set student.path to that folder"
        )
    path = f"{student.path}@{student.revision}" if student.revision else student.path
    subject, label = open_subject(config, path, path, None)
    opened = open_dataset(prompts, subject.tokenizer, config.seed, config.evaluation.benchmarks)
    source = opened.source
    grader = source.parts[0].grader
    assert grader is not None  # `_single` has seen to it
    with said_by(grader, "require"):
        grader.require()
    if target.resolve() in [file.resolve() for file in source.parts[0].data.files]:
        raise ConfigError(f"--to {target}: these are the prompts themselves; give a new name")
    files = _files(prompts)
    _require_lines(files)
    asked = Rated([replace(one, benchmark=NAME) for one in source.problems], grader)
    declared.evaluator(asked)
    kept = target.with_suffix(".samples")
    kept.mkdir(parents=True, exist_ok=True)
    try:
        with claimed(kept):
            samples = _measured(
                config, asked, subject, Owner(label, label=str(target)), kept, count
            )
            rates = rates_of(samples)
            _require_same(prompts, source)
            _write(files, source, rates, target)
    except Stopped as stopped:
        words = ["opdlab", "rate", name, "--to", to, "--samples", str(count), *overrides]
        console.print(
            f"{YELLOW}{stopped}; `{shlex.join(words)}` continues from here.", soft_wrap=True
        )
        raise SystemExit(stopped.exit_code) from stopped
    _tell(rates, len(asked.asked), target)


def _require_free(target: Path) -> None:
    """Refuse to write over a file that is none of these.

    Raises:
        ConfigError: naming it.
    """
    if target.suffix != ".jsonl":
        raise ConfigError(
            f"--to {target}: the file is JSON Lines; give it a name that ends in .jsonl"
        )
    if target.exists() and any(COLUMN not in row for row in islice(iter_rows(target), 1)):
        raise ConfigError(
            f"--to {target}: there is another file, without {COLUMN}; give a new name"
        )


def _measured(
    config: Experiment, asked: Rated, subject: Measured, owner: Owner, folder: Path, count: int
) -> list[Sample]:
    """Answers drawn as in training, graded and stored; those that are there are not drawn again."""
    engine = config.rollout
    drawn = {
        "samples": count,
        "temperature": engine.temperature,
        "top_p": engine.top_p,
        "max_new_tokens": engine.max_new_tokens,
    }
    settings = config.evaluation.model_copy(update=drawn)
    described = {"type": NAME}
    wanted = asked_of(asked, subject, settings, owner, subject.identity(), described)
    kept = store.ask(folder, wanted)
    total = len(asked.asked) * count
    with StopRequest() as stop, progress_bar() as progress:
        tasks = [progress.add_task(f"{what} prompts", total=total) for what in ("sample", "grade")]

        def advance(task: TaskID, rows: int) -> None:
            progress.advance(task, rows)
            stop.check()

        sampled, graded = (partial(advance, task) for task in tasks)
        draw_missing(kept, subject, settings, all_answers(asked, settings), sampled)
        grade_missing(kept, asked, graded)
    return kept.samples()


def _single(prompts: Any) -> DatasetPrompts:
    if not isinstance(prompts, DatasetPrompts) or not prompts.graded:
        raise ConfigError(
            "prompts: pass rates need a data set with prompts.answer_column and prompts.grader"
        )
    if len(prompts.resolved()) > 1:
        raise ConfigError("prompts.sources: rate one source at a time; name it as prompts.path")
    return prompts


def rates_of(samples: Sequence[Sample]) -> dict[str, float]:
    """Share of right answers by problem; a problem none of whose answers could be graded has none."""
    right: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for sample in samples:
        if sample.status not in Verdict.FAULTS:
            known[sample.problem] += 1
            right[sample.problem] += sample.status == "correct"
    return {problem: right[problem] / count for problem, count in known.items()}


def _files(prompts: DatasetPrompts) -> Placed:
    (one,) = prompts.resolved()
    return placed(one.path, one.split or "train", one.name, one.revision)


def _require_lines(files: Placed) -> None:
    """Refuse rows that JSON Lines cannot hold, before anything is sampled.

    Raises:
        DataError: naming the row and the column.
    """
    for file, number, row in files.rows():
        try:
            json_line(row)
        except ValueError as error:
            raise DataError(
                f"{file}: row {number}: {error}; write the data without that column"
            ) from error


def _require_same(prompts: DatasetPrompts, source: DatasetSource) -> None:
    """Refuse to write rates beside rows that are no longer those that were answered.

    Raises:
        DataError: the data have changed.
    """
    (one,) = prompts.resolved()
    if not prepared(one).table.equals(source.parts[0].data.table):
        raise DataError(
            f"prompts.path: {one.path} changed while its prompts were answered, and nothing was written. "
            "The answers are kept: restore the file, or run the command again to rate the new rows"
        )


def _write(files: Placed, source: DatasetSource, rates: Mapping[str, float], target: Path) -> None:
    """The rows that have a rate, as they stand in the data set."""
    data = source.parts[0].data
    number_of = {file: number for number, file in enumerate(data.files)}
    places = zip(
        data.table.column("file").to_pylist(), data.table.column("row").to_pylist(), strict=True
    )
    named = {place: data.place(row).removeprefix("row ") for row, place in enumerate(places)}
    lines = []
    for file, number, row in files.rows():
        rate = rates.get(named.get((number_of[file], number), ""))
        if rate is not None:
            lines.append(json_line({**row, COLUMN: rate}))
    write_whole(target, "".join(lines))


def _tell(rates: Mapping[str, float], asked: int, target: Path) -> None:
    values = list(rates.values())
    never, always = values.count(0.0), values.count(1.0)
    console.print(
        f"{len(values)} prompts: {never} never answered correctly, {always} always, "
        f"{len(values) - never - always} in between; mean {sum(values) / max(1, len(values)):.3f}"
    )
    if len(values) < asked:
        console.print(
            f"{YELLOW}{asked - len(values)} prompts could not be graded and are left out{END}"
        )
    console.print(
        f"Train on some of them: {BOLD}prompts.path={escape(str(target))} "
        f"'prompts.where={COLUMN} > 0.1 and {COLUMN} < 0.9'{END}",
        soft_wrap=True,
    )
