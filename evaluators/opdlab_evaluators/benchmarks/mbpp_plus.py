"""`mbpp_plus`: 378 tasks of MBPP, revised, with about 35 times as many tests, by EvalPlus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from opdlab.records import option
from opdlab_evaluators.benchmarks.benchmark import Fields, pick, texts
from opdlab_evaluators.benchmarks.mbpp import Mbpp
from opdlab_evaluators.data import Source
from opdlab_evaluators.programs import read_tests


@dataclass(frozen=True)
class MbppPlus(Mbpp):
    """MBPP+: 378 tasks of MBPP, revised, with about 35 times as many tests."""

    cpu_limit_s: float = option(
        60.0,
        "Processor time of a program, in seconds: its own solution 599 takes 40.",
        gt=0,
        le=3600,
    )

    source: ClassVar[Source] = Source(
        "mbpp_plus",
        hub="evalplus/mbppplus",
        count=378,
        files="data/*",
        aliases=("MbppPlus", "mbppplus"),
        extends="mbpp",
    )

    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        name = self.source.name
        value = pick(row, ("test",), name, number)
        # A list is what MBPP itself has, which is refused by its name.
        tests = value if isinstance(value, str) else "\n".join(texts(value))
        return {**super().normalise(row, number), **read_tests(tests, name, number)}

    def judged_by(self, fields: Fields) -> str:
        return fields["tests"]
