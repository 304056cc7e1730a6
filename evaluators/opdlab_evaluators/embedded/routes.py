"""`routes`: a positive control for lookahead, with two routes that a teacher finds equally likely.

A trace begins with the token of its route. On `>` the steps follow in order and right. On `:` they
come in random order, with results and answer that are mostly random digits. A teacher that learnt from both
is indifferent between the two tokens, has mastered only the first route, and shows it one step
later: it knows the next label on `>` and cannot know it on `:`. Reverse KL has no reason to choose a route;
a reward for the teacher's confidence one step ahead has.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.embedded.chain import Chain, judge
from opdlab_evaluators.embedded.family import Family, identity

MASTERED, UNMASTERED = ">", ":"


@dataclass(frozen=True)
class Routes(Family):
    """Chains as in `math` with a choice of two routes, one of which no one can learn to walk."""

    longest: int = option(5, "Most steps of a problem.", ge=2, le=10)

    @property
    def benchmark(self) -> str:
        return "routes"

    @property
    def grader_version(self) -> str:
        return "1"

    def draw(self, rng: Random) -> Problem:
        chain = Chain.draw(rng, rng.randint(2, self.longest))
        prompt = f"R{chain.content}"
        return Problem(self.benchmark, identity(prompt), prompt, gold=chain.steps())

    def trace(self, problem: Problem, rng: Random) -> str:
        """Half of the traces take each route; those on `:` are wrong on purpose."""
        if rng.random() < 0.5:
            return MASTERED + ";".join(problem.gold) + "#" + problem.gold[-1][-1]
        steps = [
            step if rng.random() < 0.5 else step[:-1] + rng.choice("0123456789")
            for step in rng.sample(problem.gold, len(problem.gold))
        ]
        return UNMASTERED + ";".join(steps) + "#" + rng.choice("0123456789")

    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Correct if every step and the final digit are; on `:` the steps may come in any order."""
        route, solution = completion[:1], completion[1:]
        if route not in (MASTERED, UNMASTERED):
            return Verdict("no_answer", reason=f"begins with {route!r}, which is no route")
        return judge(solution, problem.gold, in_order=route == MASTERED)

    def right_answer(self, problem: Problem) -> str | None:
        return MASTERED + ";".join(problem.gold) + "#" + problem.gold[-1][-1]
