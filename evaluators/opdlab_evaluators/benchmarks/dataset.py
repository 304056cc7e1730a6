"""`dataset`: a benchmark of one's own, from files or from the hub, judged by any grader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from opdlab import plugins
from opdlab.configuration import DataSource
from opdlab.datafiles import condition, wrap
from opdlab.errors import DataError
from opdlab.plugins import DataReport, Evaluator, Grader, Trial
from opdlab.prompts import OWN_SYSTEM, Fault, Prepared, Reader, prepared_by
from opdlab.records import REQUIRED, Problem, Verdict, option
from opdlab_evaluators.benchmarks.choices import (
    LIKELIHOODS,
    WORDINGS,
    ChoiceReader,
    likeliest,
    require_varied,
)
from opdlab_evaluators.graders.choice_letter import ChoiceLetter

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$"
ID_DIGITS = 12


@dataclass(frozen=True)
class DatasetBenchmark(Evaluator):
    """A benchmark of your own: rows of files or of the hub, with answers and a grader."""

    name: str = option(
        REQUIRED,
        "Name in tables, such as `sums` or `exams/2025`; not that of an installed benchmark.",
        pattern=NAME,
        max_length=80,
    )
    path: str = option(
        REQUIRED,
        "A file, a pattern of files, a folder, or a name on the hub, as in `prompts.path`. A "
        "relative path starts at the experiment file.",
    )
    answer_column: str = option(
        REQUIRED,
        "Column of the reference answers; for `code` of the tests; a path leads into structs.",
    )
    column: str = option(
        "prompt", "Column that holds a text or a list of messages; a path leads into structs."
    )
    grader: Grader | None = option(
        None,
        "How answers are judged: `math`, `exact`, `choice`, `numeric`, `code`, `evaluate`, `judge` or "
        "another plugin of `opdlab.graders`; `choice` by default where there are `choices`.",
        one_of=plugins.GRADERS,
    )
    configuration: str | None = option(
        None, "Configuration of a data set on the hub that has several."
    )
    revision: str | None = option(None, "Commit or tag on the hub; required there.")
    split: str = option("test", "Split of the data set.")
    system: str = option("", "System prompt, instead of the experiment's and of the data's own.")
    wrap: str | None = option(
        None,
        "Text around each prompt, other columns in braces, as in `prompts.wrap`; `{choices}` stands for "
        "the listed choices.",
    )
    where: str | None = option(
        None, "Use only rows that meet a condition on columns, as in `prompts.where`."
    )
    limit: int | None = option(None, "Use only the first N remaining rows.", ge=1)
    drop: tuple[Literal["empty", "broken", "duplicate"], ...] = option(
        (), "Rows that are left out, where they would be an error: `empty`, `broken`, `duplicate`."
    )
    choices: tuple[str, ...] = option(
        (),
        "Multiple choice: the column that holds the list of choices, or the columns that hold one each.",
    )
    labels: str | None = option(
        None, "Column with the labels of the choices, by which `answer_column` names the right one."
    )
    answer_is: Literal["any", "letter", "index", "text"] = option(
        "any",
        "How `answer_column` names the right choice: by its letter, its number from 0, or its text. `any` "
        "refuses rows in which two of these name different choices.",
    )
    shuffle_seed: int | None = option(
        None,
        "Seed of the order of the choices, another one for each problem; null for the data's.",
        ge=0,
    )
    choose: Literal["letter", "likelihood", "likelihood_per_byte"] = option(
        "letter",
        "`letter`: the model writes the letter of its choice. `likelihood`: its choice is the text that it "
        "gives the highest probability; `likelihood_per_byte`: the same per byte of the text.",
    )

    def __post_init__(self) -> None:
        if self.name.partition("/")[0] in plugins.names(plugins.EVALUATORS):
            raise ValueError(f"name: {self.name!r} is that of an installed benchmark; take another")
        for key, read in (("wrap", wrap), ("where", condition)):
            if (text := getattr(self, key)) is not None:
                try:
                    read(text)
                except ValueError as error:
                    raise ValueError(f"{key}: {error}") from error
        if not self.choices:
            for key, default in (
                ("labels", None),
                ("answer_is", "any"),
                ("shuffle_seed", None),
                ("choose", "letter"),
            ):
                if getattr(self, key) != default:
                    raise ValueError(
                        f"{key}: it is for multiple choice; name the `choices` as well"
                    )
            if self.grader is None:
                known = ", ".join(plugins.names(plugins.GRADERS))
                raise ValueError(f"grader: missing; choose one of {known}")
        elif self.choose != "letter" and self.grader is not None:
            raise ValueError(
                f"grader: with `choose: {self.choose}` the model writes no answer; remove it"
            )

    @property
    def benchmark(self) -> str:
        return self.name + (f"/first-{self.limit}" if self.limit else "")

    @property
    def judge(self) -> Grader | None:
        """The grader; None where probabilities decide."""
        if self.choose != "letter":
            return None
        return self.grader or ChoiceLetter()

    @property
    def grader_version(self) -> str:
        return LIKELIHOODS[self.choose] if self.judge is None else self.judge.version

    @property
    def graded_at_once(self) -> int:
        return super().graded_at_once if self.judge is None else self.judge.graded_at_once

    def problems(self) -> Sequence[Problem]:
        """See `Evaluator.problems`; raises DataError for rows that cannot be used."""
        return _problems(self)[0]

    def data(self) -> DataReport:
        return _problems(self)[1]

    def require_grader(self) -> None:
        if self.judge is not None:
            with plugins.said_by(self.judge, "require"):
                self.judge.require()

    def grade(self, problem: Problem, completion: str) -> Verdict:
        if self.judge is None:
            return likeliest(problem, completion, per_byte=self.choose == "likelihood_per_byte")
        return self.judge.grade(problem, completion)

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        if self.judge is None:
            return super().grade_all(answers, on_graded)
        return self.judge.grade_all(answers, on_graded)

    def right_answer(self, problem: Problem) -> str | None:
        return None if self.judge is None else self.judge.right_answer(problem)

    def trials(self, problems: Sequence[Problem]) -> Iterator[Trial]:
        """See `Evaluator.trials`; a copy of a prompt may hold the answer, so it is none here."""
        for problem in problems:
            if (answer := self.right_answer(problem)) is not None:
                yield Trial("reference", problem, answer)
            yield Trial("trivial", problem, "")

    @property
    def section(self) -> str:
        """The benchmark as messages name it."""
        return f"evaluation.benchmarks[{self.name}]"

    def reader(self) -> Reader:
        """What makes problems of rows."""
        words = self.wrap or (WORDINGS[self.choose] if self.choices else None)
        source = DataSource(
            path=self.path,
            name=self.configuration,
            revision=self.revision,
            split=self.split,
            column=self.column,
            domain=self.benchmark,
            answer_column=self.answer_column,
            grader=self.judge,
            wrap=words,
            where=self.where,
        )
        if not self.choices:
            return Reader(source)
        return ChoiceReader(
            source, self.choices, self.labels, self.answer_is, self.shuffle_seed, self.choose
        )


@lru_cache(maxsize=32)
def _problems(benchmark: DatasetBenchmark) -> tuple[list[Problem], DataReport]:
    """Problems and report, read once in a process."""
    found = prepared_by(benchmark.reader(), benchmark.section, "configuration")
    _refuse(benchmark, [fault for fault in found.faults if fault.kind not in benchmark.drop])
    problems: dict[str, Problem] = {}
    first: dict[str, int] = {}
    for row in range(len(found.keys)):
        if benchmark.limit is not None and len(problems) == benchmark.limit:
            break
        problem = _problem(benchmark, found, row)
        if problem.id in problems:
            _refuse_twice(benchmark, found, first[problem.id], row)
            continue
        problems[problem.id], first[problem.id] = problem, row
    if not problems:
        raise DataError(
            f"{benchmark.section}.path: {found.path} has no rows that are kept; it has {found.read}, and "
            f"`where` leaves out {found.left_out}"
        )
    listed = list(problems.values())
    if benchmark.choices and benchmark.shuffle_seed is None:
        require_varied(listed, benchmark.section)
    return listed, _report(benchmark, found, listed)


def _problem(benchmark: DatasetBenchmark, found: Prepared, row: int) -> Problem:
    """A row as a problem; its id is a hash of what it asks and of its answer, so that rows may move."""
    prompt, messages = found.value("prompt", row), found.value("messages", row)
    gold = json.loads(found.value("gold", row))
    turns: list[Any] = (
        [{"role": "user", "content": prompt}] if messages is None else json.loads(messages)
    )
    extra: dict[str, Any] = {"row": found.place(row)}
    if benchmark.system:
        turns = [turn for turn in turns if turn["role"] not in ("system", "developer")]
        turns.insert(0, {"role": "system", "content": benchmark.system})
        extra[OWN_SYSTEM] = True
    if len(turns) > 1 or turns[0]["role"] != "user":
        extra["messages"] = turns
    if benchmark.choose != "letter":
        extra["weighed"] = gold["choices"]
    content = json.dumps([turns, gold], sort_keys=True, ensure_ascii=False)
    name = hashlib.sha256(content.encode()).hexdigest()[:ID_DIGITS]
    return Problem(benchmark.benchmark, name, prompt, gold, extra)


def _refuse(benchmark: DatasetBenchmark, faults: Sequence[Fault]) -> None:
    if faults:
        kinds = ", ".join(dict.fromkeys(fault.kind for fault in faults))
        told = "; ".join(
            f"{fault.count} rows (the first is {fault.first}) have {fault.reason}"
            for fault in faults[:3]
        )
        raise DataError(
            f"{benchmark.section}.path: {benchmark.path}: {told}. Correct them, or leave them out by "
            f"`drop: [{kinds}]`"
        )


def _refuse_twice(benchmark: DatasetBenchmark, found: Prepared, first: int, row: int) -> None:
    if "duplicate" not in benchmark.drop:
        raise DataError(
            f"{benchmark.section}.path: {benchmark.path} holds a problem twice, with the same answer: "
            f"{found.place(first)} and {found.place(row)}. Remove one, or set `drop: [duplicate]`"
        )


def _report(
    benchmark: DatasetBenchmark, found: Prepared, problems: Sequence[Problem]
) -> DataReport:
    answers = sorted(json.dumps(problem.gold, sort_keys=True) for problem in problems)
    at = f"hub:{found.path}@{found.revision}" if found.revision else found.path
    return DataReport(
        benchmark=benchmark.benchmark,
        origin=at,
        count=len(problems),
        content=hashlib.sha256("".join(sorted(p.id for p in problems)).encode()).hexdigest()[:16],
        answers=hashlib.sha256("\n".join(answers).encode()).hexdigest()[:16],
        standing="your own data",
    )
