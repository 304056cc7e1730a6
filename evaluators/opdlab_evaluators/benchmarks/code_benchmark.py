"""Benchmarks whose answer is a program."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opdlab.plugins import Trial
from opdlab.records import Problem
from opdlab_evaluators.benchmarks.benchmark import Benchmark
from opdlab_evaluators.programs import RunsPrograms

GRADER = "programs-11"


@dataclass(frozen=True)
class CodeBenchmark(RunsPrograms, Benchmark):
    """Problems that are solved by a program."""

    @property
    def grader_version(self) -> str:
        return self.version_of(GRADER)

    @abstractmethod
    def asked_names(self, problem: Problem) -> Sequence[str]:
        """The functions and classes that the tests call; none if the program is run as a whole."""

    def trials(self, problems: Sequence[Problem]) -> Iterator[Trial]:
        """See `Evaluator.trials`; a neighbour is the next problem that asks for other functions."""
        yield from super().trials(problems)
        for number, problem in enumerate(problems):
            names = self.asked_names(problem)
            for program in (*(_defined(names, body) for body in BODIES), *TRIVIAL):
                yield Trial("trivial", problem, fenced(program))
            after = (*problems[number + 1 :], *problems[:number])
            other = next((p for p in after if not {*names} & {*self.asked_names(p)}), None)
            answer = None if other is None else self.right_answer(other)
            if answer is not None:
                yield Trial("neighbour", problem, answer)

    def require_grader(self) -> None:
        """See `Evaluator.require_grader`; raises SandboxMissingError."""
        self.require_sandbox()


BODIES = ("pass", "return True")
TRIVIAL = ("x = 1", "import sys\nsys.exit(0)")
"""Programs that solve nothing: functions that return a constant, print nothing, and end at once."""


def _defined(names: Sequence[str], body: str) -> str:
    return "\n".join(f"def {name}(*given, **named):\n    {body}" for name in names)


def fenced(program: str) -> str:
    """A program as models answer with it."""
    return f"```python\n{program}\n```"
