"""`math`: chains of arithmetic modulo 10 in which every labelled step is verified."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.embedded.chain import Chain, judge
from opdlab_evaluators.embedded.family import Family, identity

STEPS = {"short": (2, 6), "long": (8, 10)}


@dataclass(frozen=True)
class Arithmetic(Family):
    """Chains of arithmetic modulo 10: `M2a*3b-2=` is solved by `a2*3=6;b6-2=4#4`.

    The last digit alone would be right by luck in one of ten answers, so every step counts.
    """

    level: Literal["short", "long"] = option("short", "Steps: 2 to 6 (short) or 8 to 10 (long).")

    @property
    def benchmark(self) -> str:
        return f"math/{self.level}"

    @property
    def grader_version(self) -> str:
        return "1"

    def draw(self, rng: Random) -> Problem:
        chain = Chain.draw(rng, rng.randint(*STEPS[self.level]))
        prompt = f"M{chain.content}"
        return Problem(self.benchmark, identity(prompt), prompt, gold=chain.steps())

    def trace(self, problem: Problem, rng: Random) -> str:
        return ";".join(problem.gold) + "#" + problem.gold[-1][-1]

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return judge(completion, problem.gold)

    def right_answer(self, problem: Problem) -> str | None:
        return ";".join(problem.gold) + "#" + problem.gold[-1][-1]
