"""Benchmarks whose answer is a number, an expression, or a list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.answers.equality import rules
from opdlab_evaluators.answers.extraction import after_thinking
from opdlab_evaluators.answers.golds import tidy_gold
from opdlab_evaluators.answers.grading import grade_answers
from opdlab_evaluators.benchmark import Benchmark, Fields, pick
from opdlab_evaluators.wordings import ask


@dataclass(frozen=True)
class MathBenchmark(Benchmark):
    """Questions with a gold answer in LaTeX."""

    wording: Literal["matharena", "step_by_step", "question_answer", "plain"] = option(
        "matharena",
        "`matharena` (2026), `step_by_step` (the older one), `question_answer` (for base models) or "
        "`plain` (the question alone).",
    )

    hint: ClassVar[str] = ""
    """What the wordings say of the answer's form."""

    @property
    def grader_version(self) -> str:
        return rules()

    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        name = self.source.name
        question = pick(row, ("problem", "question"), name, number)
        return {
            "id": str(number),
            "question": str(question).strip(),
            "gold": self.gold(pick(row, ("answer", "expected_answer"), name, number)),
        }

    def gold(self, value: Any) -> str:
        r"""The gold answer in one form: `073`, `$73$` and 73 are all `73`, `336^\circ` is `336`."""
        return tidy_gold(str(value))

    def problem(self, fields: Fields) -> Problem:
        prompt = ask(fields["question"], self.wording, self.hint)
        return Problem(self.benchmark, fields["id"], prompt, fields["gold"])

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return self.grade_all([(problem, completion)])[0]

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        pairs = [(problem.gold, self.own_part(completion)) for problem, completion in answers]
        return grade_answers(pairs, on_graded=on_graded)

    def own_part(self, completion: str) -> str:
        """The completion without what a base model makes up after it: the next question."""
        if self.wording != "question_answer":
            return completion
        return after_thinking(completion).split("Question:")[0]

    def right_answer(self, problem: Problem) -> str | None:
        return f"The answer is \\boxed{{{problem.gold}}}."


INTEGER_HINT = "The answer is an integer between 0 and 999 inclusive."


@dataclass(frozen=True)
class Aime(MathBenchmark):
    """Both papers of one year: 30 integers between 0 and 999."""

    hint: ClassVar[str] = INTEGER_HINT
