"""The interface of an evaluator: problems, prompts, and a grader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from opdlab.records import Problem, Verdict


@dataclass(frozen=True)
class Evaluator(ABC):
    """A benchmark: where its problems come from and how an answer is judged.

    An evaluator is a frozen dataclass whose fields are its options (see `opdlab.records.option`).
    Register it under the entry point `opdlab.evaluators`. Sampling is not its business: the platform
    samples k completions a problem and hands them to `grade`.
    """

    @property
    @abstractmethod
    def benchmark(self) -> str:
        """Name in tables and metrics, options that change the problems included (`math/short`)."""

    @property
    @abstractmethod
    def grader_version(self) -> str:
        """Changes whenever `grade` could judge any completion differently."""

    @abstractmethod
    def problems(self) -> Sequence[Problem]:
        """The test problems, in a fixed order."""

    @abstractmethod
    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion; never raises for anything a model may write."""

    def training_problem(self, seed: int, index: int) -> Problem:
        """Problem `index` of an endless stream, none of which is a test problem.

        A function of `seed` and `index` alone, so a place in the stream is one integer.

        Raises:
            NotImplementedError: the benchmark has test problems only.
        """
        raise NotImplementedError(f"{self.benchmark} has no training problems")

    def training_problems(self, seed: int) -> Iterator[Problem]:
        """The stream of `training_problem` from its beginning; raises what that raises."""
        return (self.training_problem(seed, index) for index in count())

    def training_trace(self, problem: Problem, seed: int) -> str:
        """A completion of a training problem to learn from in supervised training.

        A function of the problem and `seed` alone.

        Raises:
            NotImplementedError: the benchmark has no worked solutions.
        """
        raise NotImplementedError(f"{self.benchmark} has no traces to train on")
