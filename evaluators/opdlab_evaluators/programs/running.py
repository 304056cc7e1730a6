"""What all that judge programs share: where programs run, how long, and under which name."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.programs import rules
from opdlab_evaluators.programs.extraction import bound, defines
from opdlab_evaluators.programs.graded import grade_programs
from opdlab_evaluators.programs.judging import Answered, Worker, answer_call
from opdlab_evaluators.programs.pool import ProgramPool, shared_pool
from opdlab_evaluators.sandbox import Limits


@dataclass(frozen=True)
class RunsPrograms(ABC):
    """Judges completions by the programs that they hold, which are run in a sandbox.

    A subclass says which program a completion holds (`program`) and how it is judged (`judge`).
    """

    cpu_limit_s: float = option(10.0, "Processor time of a program, in seconds.", gt=0, le=3600)
    unsafe_run_on_this_machine: bool = option(
        False, "Run programs without a sandbox, with your own rights; the result is marked."
    )

    def version_of(self, rules: str) -> str:
        """The grader's version: its rules' own, and what else decides a verdict."""
        marked = "+unsafe_run_on_this_machine" if self.unsafe_run_on_this_machine else ""
        # Programs are read by the Python that runs opdlab: 3.11 refuses what 3.12 takes.
        python = "python-{}.{}".format(*sys.version_info)
        return f"{rules}+{python}-{self.cpu_limit_s:g}s{marked}"

    @property
    def limits(self) -> Limits:
        """Limits of one run of a program."""
        return Limits(cpu_s=self.cpu_limit_s, wall_s=5 * self.cpu_limit_s + 5)

    @property
    def pool(self) -> ProgramPool:
        """Where programs run."""
        return shared_pool(not self.unsafe_run_on_this_machine)

    def require_sandbox(self) -> None:
        """Make sure that programs can be run here; raises SandboxMissingError."""
        self.pool.workers[0].start()

    @abstractmethod
    def program(self, problem: Problem, completion: str) -> str | None:
        """The program that a completion holds; None if it holds none."""

    @abstractmethod
    def judge(self, problem: Problem, program: str, worker: Worker) -> Verdict:
        """Run and judge a program; raises SandboxDiedError and UnsettledError, which are tried again."""

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return self.grade_all([(problem, completion)])[0]

    def grade_all(
        self,
        answers: Sequence[tuple[Problem, str]],
        on_graded: Callable[[int], None] | None = None,
    ) -> list[Verdict]:
        return grade_programs(self.pool, answers, self.program, self.judge, on_graded)


def answer_named(
    worker: Worker, program: str, function: str, given: list[Any], limits: Limits
) -> Answered:
    """What a program's function says, or the method of this name of its class `Solution`."""
    if defines(program, "Solution"):
        return answer_call(worker, program, f"Solution().{function}", given, limits, rules.PREAMBLE)
    if not {function, "*"} & {*bound(program)}:
        # The preamble's own functions, such as `add`, are no answer.
        return Answered(error=f"the program defines no {function}")
    return answer_call(worker, program, function, given, limits, rules.PREAMBLE)
