"""`hmmt_feb_2026`: HMMT February 2026: 33 problems, answers in LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab_evaluators.benchmarks.math_benchmark import MathBenchmark
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class HmmtFeb2026(MathBenchmark):
    """HMMT February 2026: 33 problems, answers in LaTeX."""

    source: ClassVar[Source] = Source(
        "hmmt_feb_2026",
        hub="MathArena/hmmt_feb_2026",
        count=33,
        split="train",
    )
