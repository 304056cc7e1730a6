"""The interface of an evaluator: problems, prompts, and a grader."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Literal

from opdlab.plugins.grader import one_by_one
from opdlab.records import Covered, Problem, Verdict


@dataclass(frozen=True)
class DataReport:
    """The data of a benchmark as they were found and checked.

    Attributes:
        origin: where they were read: a file, a folder, or `hub:REPOSITORY@COMMIT`.
        count: problems, of the whole copy.
        content: hash of all that the problems hold, in whatever order.
        answers: hash of the gold answers alone; None where there are none to compare.
        standing: what the hashes were compared with.
    """

    benchmark: str
    origin: str
    count: int
    content: str
    answers: str | None
    standing: str


RIGHT_TRIALS, WRONG_TRIALS = ("reference", "solution", "rewritten"), ("neighbour", "trivial")
"""Kinds of trials that must be judged correct, and those that must not be."""


@dataclass(frozen=True)
class Trial:
    """A completion whose verdict is known before it is graded.

    Attributes:
        kind: `reference` (made from the reference answer), `solution` (the authors' own worked solution),
            `rewritten` (the reference answer in another form); `neighbour` (another problem's reference
            answer), `trivial` (what solves no problem).
    """

    kind: Literal["reference", "solution", "rewritten", "neighbour", "trivial"]
    problem: Problem
    completion: str

    @property
    def right(self) -> bool:
        """Whether it must be judged correct."""
        return self.kind in RIGHT_TRIALS


@dataclass(frozen=True)
class Evaluator(Covered, ABC):
    """A benchmark: where its problems come from and how an answer is judged.

    An evaluator is a frozen dataclass whose fields are its options (see `opdlab.records.option`). Register
    it under the entry point `opdlab.evaluators`. It does not sample: opdlab samples k completions per
    problem and passes them to `grade`.

    Attributes:
        renamed: former names of options with the present ones: an experiment with a former name gets an
            error that tells the present one, and old records stay readable.
    """

    renamed: ClassVar[Mapping[str, str]] = {}

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

    def require_grader(self) -> None:
        """Called before anything is sampled: make sure that answers can be graded here.

        Raises:
            OpdlabError: they cannot, such as programs where there is no sandbox.
        """

    @abstractmethod
    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion; never raises for anything a model may write."""

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        """Judge many completions, in the given order; a benchmark may use several processes.

        Args:
            answers: problems with a completion each.
            on_graded: called with the number of verdicts reached since the last call.

        Returns:
            One verdict per answer.
        """
        return one_by_one(self.grade, answers, on_graded)

    @property
    def graded_at_once(self) -> int:
        """Answers after which verdicts are stored; a kill loses no more. Small if grading is slow."""
        return 512

    def data(self) -> DataReport | None:
        """What the problems were read from, checked; None where they are generated.

        Returns:
            Source, hash and number of problems; None if the problems are generated.

        Raises:
            DataError: the data are missing, malformed, or not those that are known.
        """
        return None

    def right_answer(self, problem: Problem) -> str | None:
        """A completion that must be judged correct, made from the gold; None where none can be."""
        return None

    def trials(self, problems: Sequence[Problem]) -> Iterator[Trial]:
        """Completions whose verdict is known, to test the grader on these data (`data check --grade`).

        A benchmark adds those of its own kind to these: the reference answer, nothing at all, a copy of the
        prompt.

        Yields:
            Completions with the verdict that they must get.
        """
        for problem in problems:
            if (answer := self.right_answer(problem)) is not None:
                yield Trial("reference", problem, answer)
            yield Trial("trivial", problem, "")
            yield Trial("trivial", problem, problem.prompt)

    def known_fault(self, problem: Problem) -> str | None:
        """What is known to be wrong with the data of a problem; its answers are judged `grader_error`."""
        del problem
        return None

    @classmethod
    def trains(cls) -> bool:
        """Whether it has training problems."""
        return cls.training_problem is not Evaluator.training_problem

    @classmethod
    def explains(cls) -> bool:
        """Whether it has training problems with worked solutions."""
        return cls.trains() and cls.training_trace is not Evaluator.training_trace

    def training_problem(self, seed: int, index: int) -> Problem:
        """Problem `index` of an endless stream, none of which is a test problem.

        A function of `seed` and `index` alone, so a place in the stream is one integer. Another thread
        makes the next step's problems during training: draw from a generator of your own (`random.Random`),
        never from a shared one.

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
