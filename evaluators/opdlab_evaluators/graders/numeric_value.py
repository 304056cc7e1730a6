"""`numeric`: a number, equal to the reference within a tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from opdlab.plugins import Grader
from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.graders.plain_numbers import last_number
from opdlab_evaluators.graders.references import number_text, said, solution_answer


@dataclass(frozen=True)
class NumericValue(Grader):
    """A number, compared with a tolerance."""

    relative: float = option(1e-6, "Difference allowed, as a share of the reference.", ge=0, le=1)
    absolute: float = option(0.0, "Difference allowed in any case.", ge=0)

    @property
    def version(self) -> str:
        return f"numeric-3-{float(self.relative)!r}-{float(self.absolute)!r}"

    def gold(self, value: Any) -> str:
        """The reference number, or a text that ends in it."""
        found = last_number(solution_answer(number_text(value)))
        if found is None:
            raise ValueError("it names no number")
        return str(found)

    def grade(self, problem: Problem, completion: str) -> Verdict:
        found = last_number(said(completion))
        if found is None:
            return Verdict("no_answer", reason="no number is named as the answer")
        gold = Decimal(problem.gold)
        allowed = max(Decimal(str(self.absolute)), Decimal(str(self.relative)) * abs(gold))
        right = abs(found - gold) <= allowed
        return Verdict("correct" if right else "wrong", str(found))

    def right_answer(self, problem: Problem) -> str | None:
        return f"The answer is {problem.gold}."
