"""`gsm8k`: GSM8K's test set: 1,319 word problems, integer answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from opdlab.records import option
from opdlab_evaluators.benchmarks.math_benchmark import MathBenchmark
from opdlab_evaluators.data import Source


@dataclass(frozen=True)
class Gsm8k(MathBenchmark):
    """GSM8K's test set: 1,319 word problems, integer answers."""

    wording: Literal["matharena", "step_by_step", "question_answer", "plain"] = option(
        "step_by_step",
        "`step_by_step`, `matharena`, `question_answer` (for base models) or `plain`.",
    )

    source: ClassVar[Source] = Source(
        "gsm8k",
        hub="openai/gsm8k",
        count=1319,
        config="main",
        files="main/*",
        aliases=("gsm8k_test",),
        answers="40e66fecf4e589f8",
        contents=("8f54396e57cb8462",),
    )

    def gold(self, text: str) -> str:
        """The number after `####`, which ends the worked solution."""
        _, mark, answer = text.rpartition("####")
        if not mark:
            raise ValueError("its worked solution has no #### before a number")
        gold = super().gold(answer.replace(",", ""))
        if not re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", gold):
            raise ValueError("what follows #### is no number")
        return gold

    def worked_solution(self, row: Mapping[str, Any]) -> str | None:
        """The column of the answer holds it whole, up to `#### 18`."""
        answer = row.get("answer")
        return answer if isinstance(answer, str) else None
