"""Benchmarks whose answer is a program."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from opdlab.plugins import Trial
from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.benchmarks.benchmark import Benchmark
from opdlab_evaluators.programs import ProgramPool, Worker, grade_programs, shared_pool
from opdlab_evaluators.sandbox import Limits

GRADER = "programs-8"


@dataclass(frozen=True)
class CodeBenchmark(Benchmark):
    """Problems that are solved by a program, which is run in a sandbox.

    A subclass says which program a completion holds (`program`) and how it is judged (`judge`).
    """

    cpu_limit_s: float = option(10.0, "Processor time of a program, in seconds.", gt=0, le=3600)
    unsafe_run_on_this_machine: bool = option(
        False, "Run programs without a sandbox, with your own rights; the result is marked."
    )

    @property
    def grader_version(self) -> str:
        marked = "+unsafe_run_on_this_machine" if self.unsafe_run_on_this_machine else ""
        # Programs are read by the Python that runs opdlab: 3.11 refuses what 3.12 takes.
        python = "python-{}.{}".format(*sys.version_info)
        return f"{GRADER}+{python}-{self.cpu_limit_s:g}s{marked}"

    @property
    def limits(self) -> Limits:
        """Limits of one run of a program."""
        return Limits(cpu_s=self.cpu_limit_s, wall_s=5 * self.cpu_limit_s + 5)

    @abstractmethod
    def program(self, problem: Problem, completion: str) -> str | None:
        """The program that a completion holds; None if it holds none."""

    @abstractmethod
    def judge(self, problem: Problem, program: str, worker: Worker) -> Verdict:
        """Run and judge a program; raises SandboxDiedError and UnsettledError, which are tried again."""

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
        self.pool.workers[0].start()

    @property
    def pool(self) -> ProgramPool:
        """Where programs run."""
        return shared_pool(not self.unsafe_run_on_this_machine)

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return self.grade_all([(problem, completion)])[0]

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        return grade_programs(self.pool, answers, self.program, self.judge, on_graded)


BODIES = ("pass", "return True")
TRIVIAL = ("x = 1", "import sys\nsys.exit(0)")
"""Programs that solve nothing: functions that return a constant, print nothing, and end at once."""


def _defined(names: Sequence[str], body: str) -> str:
    return "\n".join(f"def {name}(*given, **named):\n    {body}" for name in names)


def fenced(program: str) -> str:
    """A program as models answer with it."""
    return f"```python\n{program}\n```"
