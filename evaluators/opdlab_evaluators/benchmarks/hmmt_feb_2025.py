"""`hmmt_feb_2025`: HMMT February 2025: 30 problems, answers in LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab_evaluators.benchmarks.math_benchmark import MathBenchmark
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class HmmtFeb2025(MathBenchmark):
    """HMMT February 2025: 30 problems, answers in LaTeX."""

    source: ClassVar[Source] = Source(
        "hmmt_feb_2025",
        hub="MathArena/hmmt_feb_2025",
        count=30,
        split="train",
        contents=("afa9e5ecd4943f93",),
    )
