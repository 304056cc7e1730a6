"""What all that compare answers as mathematics share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opdlab.records import Problem, Verdict
from opdlab_evaluators.answers.grading import grade_answers


class ComparedAsMathematics:
    """Holds the last box of a completion, or what it names as its answer, against `problem.gold`."""

    def own_part(self, completion: str) -> str:
        """The completion without what does not belong to it."""
        return completion

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return self.grade_all([(problem, completion)])[0]

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        pairs = [(problem.gold, self.own_part(completion)) for problem, completion in answers]
        return grade_answers(pairs, on_graded=on_graded)

    def right_answer(self, problem: Problem) -> str | None:
        return f"The answer is \\boxed{{{problem.gold}}}."
