"""`math`: the answer in the last box, equal to the reference answer as mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opdlab.plugins import Grader
from opdlab_evaluators.answers import ComparedAsMathematics, rules, tidy_gold
from opdlab_evaluators.graders.references import number_text, solution_answer


@dataclass(frozen=True)
class MathAnswers(ComparedAsMathematics, Grader):
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
