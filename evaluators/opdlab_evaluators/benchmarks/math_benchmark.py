"""Benchmarks whose answer is a number, an expression, or a list of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from opdlab.errors import DataError
from opdlab.plugins import Trial
from opdlab.records import Problem, option
from opdlab_evaluators.answers import (
    MISSING,
    ComparedAsMathematics,
    after_thinking,
    rules,
    tidy_gold,
    written,
)
from opdlab_evaluators.benchmarks.benchmark import Benchmark, Fields, pick, question_id
from opdlab_evaluators.data import ask


@dataclass(frozen=True)
class MathBenchmark(ComparedAsMathematics, Benchmark):
    """Questions with a gold answer in LaTeX."""

    wording: Literal["matharena", "step_by_step", "question_answer", "plain"] = option(
        "matharena",
        "`matharena` (2026), `step_by_step` (the older one), `question_answer` (for base models) or "
        "`plain` (only the question).",
    )

    hint: ClassVar[str] = ""
    """What the wordings say of the answer's form."""

    @property
    def grader_version(self) -> str:
        return rules()

    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        name = self.source.name
        question = pick(row, ("problem", "question"), name, number)
        if not isinstance(question, str):
            raise DataError(f"{name}: row {number} has no text as its question: {question!r:.80}")
        value = pick(row, ("answer", "expected_answer"), name, number)
        try:
            gold = self.gold(written(value))
        except ValueError as error:
            raise DataError(
                f"{name}: row {number} has no reference answer, but {value!r:.80} ({error}); take "
                "another copy"
            ) from error
        found = {"id": question_id(question), "question": question.strip(), "gold": gold}
        solution = self.worked_solution(row)
        return found if solution is None else {**found, "_solution": solution}

    def worked_solution(self, row: Mapping[str, Any]) -> str | None:
        """The authors' solution, if the data set has one that gives its answer as a model must."""
        del row
        return None

    def gold(self, text: str) -> str:
        r"""The gold answer in one form: `073`, `$73$` and 73 are all `73`, `336^\circ` is `336`.

        Raises:
            ValueError: the text is no answer.
        """
        bare = _FRAME.sub("", text).strip()
        if not bare or bare.casefold() in MISSING:
            raise ValueError("it is empty" if not bare else f"{bare!r} stands for none")
        return tidy_gold(text)

    def problem(self, fields: Fields) -> Problem:
        prompt = ask(fields["question"], self.wording, self.hint)
        solution = fields.get("_solution")
        extra = {} if solution is None else {"solution": solution}
        return Problem(self.benchmark, fields["id"], prompt, fields["gold"], extra)

    def own_part(self, completion: str) -> str:
        """The completion without what a base model makes up after it: the next question."""
        if self.wording != "question_answer":
            return completion
        return after_thinking(completion).split("Question:")[0]

    def trials(self, problems: Sequence[Problem]) -> Iterator[Trial]:
        """See `Evaluator.trials`; a neighbour is the next problem whose answer reads otherwise."""
        yield from super().trials(problems)
        for number, problem in enumerate(problems):
            for form in REWRITTEN:
                yield Trial("rewritten", problem, form.format(problem.gold))
            if "solution" in problem.extra:
                yield Trial("solution", problem, problem.extra["solution"])
            after = (*problems[number + 1 :], *problems[:number])
            other = next((one for one in after if _value(one.gold) != _value(problem.gold)), None)
            if other is not None:
                yield Trial("neighbour", problem, f"\\boxed{{{other.gold}}}")


REWRITTEN = (
    "\\boxed{{{}}}",
    "So it is $\\boxed{{{}}}$, as was asked.",
    "Thus\n\\[\n\\boxed{{ {} }}.\n\\]\n",
    "<think>\nIs it $\\boxed{{-1}}$?\n</think>\n\n**Answer:** $$\\boxed{{{}}}$$",
    "The final answer is ${}$.",
)
"""Forms in which models give an answer."""


def _value(gold: str) -> str:
    """What tells two answers apart at sight: `x = 5` is 5."""
    return "".join(gold.rpartition("=")[2].split())


_FRAME = re.compile(
    r"\\(?:boxed|fbox|text|mbox|mathrm|mathbf|quad|qquad|left|right|displaystyle)(?![a-zA-Z])|\\[,;:! ]"
    r"|(?<!\\)[{}$.]|[\s\u200b-\u200f\u2060\ufeff]+"
)
"""What holds an answer and is none."""
LARGEST_ANSWER = 999
INTEGER_HINT = "The answer is an integer between 0 and 999 inclusive."


@dataclass(frozen=True)
class Aime(MathBenchmark):
    """Both papers of one year: 30 integers between 0 and 999."""

    hint: ClassVar[str] = INTEGER_HINT

    def gold(self, text: str) -> str:
        """A whole number of 0 to 999."""
        gold = super().gold(text)
        if not (gold.isascii() and gold.isdecimal() and int(gold) <= LARGEST_ANSWER):
            raise ValueError(f"AIME's answers are whole numbers of 0 to {LARGEST_ANSWER}")
        return gold
