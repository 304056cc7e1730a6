"""`aime_2026`: AIME 2026, both papers: 30 problems, integer answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab_evaluators.benchmarks.math_benchmark import Aime
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class Aime2026(Aime):
    """AIME 2026, both papers: 30 problems, integer answers."""

    source: ClassVar[Source] = Source(
        "aime_2026",
        hub="MathArena/aime_2026",
        count=30,
        split="train",
    )
