"""What the embedded families share: problems by seed, and training and test problems that never meet.

A hash of a problem's content says on which side it stands. Every draw, for whatever seed, level or
family, rejects problems of the other side, so the two sets are disjoint by construction.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from opdlab.evaluator import Evaluator
from opdlab.records import Problem, option

TEST_SHARE = 8
"""One in so many problems is a test problem."""


@dataclass(frozen=True)
class Family(Evaluator):
    """A family of generated problems. A prompt is one letter for the family, then the content."""

    count: int = option(64, "Test problems.", ge=1, le=4096)
    seed: int = option(0, "Of the draw of the test problems.", ge=0)

    @abstractmethod
    def draw(self, rng: Random) -> Problem:
        """A random problem of either side."""

    @abstractmethod
    def trace(self, problem: Problem, rng: Random) -> str:
        """A worked solution to learn from."""

    def problems(self) -> Sequence[Problem]:
        """The first `count` different test problems of the seed's stream."""
        rng = Random(f"{self.benchmark} test {self.seed}")
        found: dict[str, Problem] = {}
        while len(found) < self.count:
            problem = self.draw(rng)
            if is_test(problem):
                found.setdefault(problem.id, problem)
        return list(found.values())

    def training_problem(self, seed: int, index: int) -> Problem:
        """Training problem `index` of the stream of `seed`, found without the ones before it."""
        rng = Random(f"{self.benchmark} training {seed} {index}")
        while is_test(problem := self.draw(rng)):
            pass
        return problem

    def training_trace(self, problem: Problem, seed: int) -> str:
        """A trace of the problem; the same seed gives the same trace."""
        return self.trace(problem, Random(f"{problem.id} {seed}"))


def identity(prompt: str) -> str:
    """Stable id of a problem: a hash of its prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def is_test(problem: Problem) -> bool:
    """Side of a problem. The family's letter is left out: families that share their content share
    its side, so one of them never trains on what another is tested with."""
    return hashlib.sha256(problem.prompt[1:].encode()).digest()[0] % TEST_SHARE == 0
