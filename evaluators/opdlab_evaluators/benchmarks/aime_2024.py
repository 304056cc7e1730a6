"""`aime_2024`: AIME 2024, both papers: 30 problems, integer answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opdlab_evaluators.benchmarks.math_benchmark import Aime
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class Aime2024(Aime):
    """AIME 2024, both papers: 30 problems, integer answers."""

    source: ClassVar[Source] = Source(
        "aime_2024",
        hub="HuggingFaceH4/aime_2024",
        count=30,
        split="train",
        answers="53698f14a14fd943",
        contents=("42fbf16c3f889e77",),
    )
