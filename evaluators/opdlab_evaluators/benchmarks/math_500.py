"""`math_500`: MATH-500: 500 problems of the MATH test set, answers in LaTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from opdlab_evaluators.benchmarks.math_benchmark import MathBenchmark
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class Math500(MathBenchmark):
    """MATH-500: 500 problems of the MATH test set, answers in LaTeX."""

    source: ClassVar[Source] = Source(
        "math_500",
        hub="HuggingFaceH4/MATH-500",
        count=500,
        split="test",
        aliases=("math500", "MATH-500"),
        contents=("09654f347fd3e017",),
    )

    def worked_solution(self, row: Mapping[str, Any]) -> str | None:
        """Its solutions end in a box."""
        solution = row.get("solution")
        return solution if isinstance(solution, str) and "\\boxed" in solution else None
