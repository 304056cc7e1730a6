"""`routes`: a positive control for lookahead, with two routes that a teacher finds equally likely.

A trace begins with the token of its route. On `>` the steps follow in order and right. On `:` they
come in random order, with results and answer that are mostly random digits. A teacher that learnt from both
is indifferent between the two tokens, has mastered only the first route, and shows it one step
later: it knows the next label on `>` and cannot know it on `:`. Reverse KL has no reason to choose a route;
a reward for the teacher's confidence one step ahead has.

Two options map the limits of that. With `mastery` the routes get alike: this share of the traces on `:` is
walked as on `>`. With `delay` the same certain tokens follow either route token, so that the teacher is as
sure one step after the one as after the other, and the difference shows so many tokens later.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.embedded.chain import Chain, judge
from opdlab_evaluators.embedded.family import Family, identity

MASTERED, UNMASTERED = ">", ":"
OF_TWO_STEPS = 573
"""Test problems of two steps; of three steps there are more than `limit` allows."""

PASSAGE = "pqrs(),"
"""What stands between route and steps, as far as `delay` goes; each token says which one follows."""


@dataclass(frozen=True)
class Routes(Family):
    """Chains as in `math` with a choice of two routes; by default the second one cannot be learned."""

    longest: int = option(5, "Most steps of a problem.", ge=2, le=10)
    mastery: float = option(
        0.0,
        "Share of the traces on `:` that are solved as on `>`; at 1 the routes are equal.",
        ge=0,
        le=1,
    )
    delay: int = option(
        0, "Tokens after the route token, the same on both, before the routes differ.", ge=0, le=7
    )

    def __post_init__(self) -> None:
        if self.longest == 2 and self.limit > OF_TWO_STEPS:
            raise ValueError(
                f"limit ({self.limit}) is more than the {OF_TWO_STEPS} test problems that two steps make; "
                f"set {OF_TWO_STEPS} or less, or longest to 3 or more"
            )

    @property
    def benchmark(self) -> str:
        return f"routes/delay-{self.delay}" if self.delay else "routes"

    @property
    def grader_version(self) -> str:
        return f"1, delay {self.delay}" if self.delay else "1"

    @property
    def passage(self) -> str:
        """What follows either route token."""
        return PASSAGE[: self.delay]

    def draw(self, rng: Random) -> Problem:
        chain = Chain.draw(rng, rng.randint(2, self.longest))
        prompt = f"R{chain.content}"
        return Problem(self.benchmark, identity(prompt), prompt, gold=chain.steps())

    def trace(self, problem: Problem, rng: Random) -> str:
        """Half of the traces take each route; those on `:` are wrong on purpose, but for `mastery`."""
        if rng.random() < 0.5:
            return MASTERED + self.passage + right(problem)
        # No draw without `mastery`: the shipped models were trained on these very traces.
        if self.mastery and rng.random() < self.mastery:
            return UNMASTERED + self.passage + right(problem)
        steps = [
            step if rng.random() < 0.5 else step[:-1] + rng.choice("0123456789")
            for step in rng.sample(problem.gold, len(problem.gold))
        ]
        return UNMASTERED + self.passage + ";".join(steps) + "#" + rng.choice("0123456789")

    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Correct if every step and the final digit are; on `:` the steps may come in any order."""
        route, rest = completion[:1], completion[1:]
        if route not in (MASTERED, UNMASTERED):
            return Verdict("no_answer", reason=f"begins with {route!r}, which is no route")
        if not rest.startswith(self.passage):
            return Verdict("no_answer", reason=f"no {self.passage!r} after the route")
        return judge(rest[self.delay :], problem.gold, in_order=route == MASTERED)

    def right_answer(self, problem: Problem) -> str | None:
        return MASTERED + self.passage + right(problem)


def right(problem: Problem) -> str:
    """The steps in order, and the answer."""
    return ";".join(problem.gold) + "#" + problem.gold[-1][-1]
