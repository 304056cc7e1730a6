"""`aime_2025`: AIME 2025, both papers: 30 problems, integer answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab_evaluators.benchmarks.math_benchmark import Aime
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class Aime2025(Aime):
    """AIME 2025, both papers: 30 problems, integer answers."""

    source: ClassVar[Source] = Source(
        "aime_2025",
        hub="MathArena/aime_2025",
        count=30,
        split="train",
        answers="75ce726d75530b84",
        contents=("c96bae3487864f93",),
    )
