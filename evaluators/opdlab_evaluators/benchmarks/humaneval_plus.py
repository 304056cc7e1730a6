"""`humaneval_plus`: HumanEval with about 80 times as many tests, by EvalPlus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab.records import Problem
from opdlab_evaluators.benchmarks.benchmark import Fields
from opdlab_evaluators.benchmarks.humaneval import HumanEval
from opdlab_evaluators.data import Source, known


@dataclass(frozen=True)
class HumanEvalPlus(HumanEval):
    """HumanEval+: the functions of HumanEval with about 80 times as many tests."""

    source: ClassVar[Source] = Source(
        "humaneval_plus",
        hub="evalplus/humanevalplus",
        count=164,
        aliases=("HumanEvalPlus", "humanevalplus"),
        extends="humaneval",
    )

    def judged_by(self, fields: Fields) -> str:
        return fields["tests"]

    def known_fault(self, problem: Problem) -> str | None:
        """See `Evaluator.known_fault`: told by contents."""
        return FAULTY.get(known.pair("", problem.gold["tests"]).answer)


FAULTY = {
    "679746fc3783": "the tests of HumanEval/32 take the root that is returned for a list: "
    "no program passes them"
}
"""Hashes of tests as they were released."""
