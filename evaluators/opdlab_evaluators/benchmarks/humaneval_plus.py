"""`humaneval_plus`: HumanEval with about 80 times as many tests, by EvalPlus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab_evaluators.benchmarks.humaneval import HumanEval
from opdlab_evaluators.source import Source


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
