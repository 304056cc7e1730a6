"""`math`: the answer in the last box, equal to the reference answer as mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opdlab.plugins import Grader
from opdlab.records import Problem, Verdict
from opdlab_evaluators.answers import grade_answers, rules, tidy_gold
from opdlab_evaluators.graders.references import number_text, solution_answer


@dataclass(frozen=True)
class MathAnswers(Grader):
    """A number, an expression or a list, compared as mathematics."""

    @property
    def version(self) -> str:
        return rules()

    def gold(self, value: Any) -> str:
        """The reference answer: a number, LaTeX, or a solution that ends in `#### 18` or a box."""
        text = solution_answer(number_text(value))
        if not text.strip().strip("$").strip():
            raise ValueError("it is empty")
        return tidy_gold(text)

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return self.grade_all([(problem, completion)])[0]

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        pairs = [(problem.gold, completion) for problem, completion in answers]
        return grade_answers(pairs, on_graded=on_graded)

    def right_answer(self, problem: Problem) -> str | None:
        return f"The answer is \\boxed{{{problem.gold}}}."
