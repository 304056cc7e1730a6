"""The interface of a grader: it judges answers to problems of anybody's data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opdlab.records import Covered, Problem, Verdict


def one_by_one(
    grade: Callable[[Problem, str], Verdict],
    answers: Sequence[tuple[Problem, str]],
    on_graded: Callable[[int], None] | None,
) -> list[Verdict]:
    """Verdicts on many completions, each judged alone; see `Evaluator.grade_all`."""
    verdicts = []
    for problem, completion in answers:
        verdicts.append(grade(problem, completion))
        if on_graded is not None:
            on_graded(1)
    return verdicts


@dataclass(frozen=True)
class Grader(Covered, ABC):
    """How answers are compared with the reference answers of a data set.

    A grader is a frozen dataclass whose fields are its options (see `opdlab.records.option`). Register it
    under the entry point `opdlab.graders`.
    """

    @property
    @abstractmethod
    def version(self) -> str:
        """Changes whenever `grade` could judge any completion differently."""

    @abstractmethod
    def gold(self, value: Any) -> Any:
        """What an answer is compared with, made from a value of the data; JSON values only.

        Raises:
            ValueError: the value is no reference answer; the message says what is missing.
        """

    @abstractmethod
    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion against `problem.gold`; never raises for anything a model may write."""

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        """Judge many completions, in the order given; see `Evaluator.grade_all`."""
        return one_by_one(self.grade, answers, on_graded)

    @property
    def graded_at_once(self) -> int:
        """Answers after which verdicts are stored: a kill loses no more. Small if grading is slow."""
        return 512

    def require(self) -> None:
        """Called before anything is sampled; raises OpdlabError where answers cannot be graded here."""

    def right_answer(self, problem: Problem) -> str | None:
        """A completion that must be judged correct, made from the gold; None where none can be."""
        del problem
        return None
