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

from opdlab.errors import DataError
from opdlab.plugins import Evaluator
from opdlab.records import Problem, option

CONTENT = "content"
"""Key of a problem's `extra` that holds what decides its side, where that is not its prompt."""
TEST_SHARE = 8
"""One in so many problems is a test problem."""
FEWEST_DRAWS = 10_000
PATIENCE = 20 * TEST_SHARE
"""Draws for each test problem found so far that may bring no new one. Of problems that are equally likely
the last one is missed with a chance of exp(-20)."""


@dataclass(frozen=True)
class Family(Evaluator):
    """A family of generated problems. A prompt is one letter for the family, then the content; of one in
    words, the content is in `extra`."""

    renamed = {"count": "limit"}
    limit: int = option(
        64, "Number of test problems; training problems are unlimited.", ge=1, le=4096
    )
    seed: int = option(0, "Seed of the test problems.", ge=0)

    @abstractmethod
    def draw(self, rng: Random) -> Problem:
        """A random problem of either side."""

    @abstractmethod
    def trace(self, problem: Problem, rng: Random) -> str:
        """A worked solution to learn from."""

    def problems(self) -> Sequence[Problem]:
        """The first `limit` different test problems of the seed's stream; DataError where fewer exist."""
        rng = Random(f"{self.benchmark} test {self.seed}")
        found: dict[str, Problem] = {}
        in_vain = 0
        while len(found) < self.limit:
            problem = self.draw(rng)
            in_vain += 1
            if is_test(problem) and problem.id not in found:
                found[problem.id] = problem
                in_vain = 0
            if in_vain > max(FEWEST_DRAWS, PATIENCE * len(found)):
                raise DataError(
                    f"{self.benchmark} with these options has {len(found)} test problems, not "
                    f"{self.limit}; set limit to {len(found)} or less, or allow longer problems"
                )
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
    content = problem.extra.get(CONTENT, problem.prompt[1:])
    return hashlib.sha256(content.encode()).digest()[0] % TEST_SHARE == 0
