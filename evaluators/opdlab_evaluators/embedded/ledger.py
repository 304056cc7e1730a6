"""`ledger`: long walks through a table, as a testbed on which supervision decays.

The prompt holds a book: for every account the one that it pays, in random order, all of them in one ring
with the till `@`. A trace passes the ring round by round, `@0`, `@1` and so on, so every payment stands in
the book once and in the trace once a round. Slips come in company, as in text that people write: a trace
that has gone wrong goes wrong again, ever more often. Few of a teacher's traces do and all of a
student's, so the student leads its teacher to where the teacher has learnt that anything may follow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Literal

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.embedded.family import Family, identity

TILL = "@"
ACCOUNTS = "abcdefghijklmnopqrstuvwxyz"
FEWEST, MOST = 12, 16
NUMBERS = "0123456789ABCDEF"
ROUNDS = {"short": 2, "long": len(NUMBERS)}
LETTER = {"short": "B", "long": "L"}
USUAL_SLIP = 0.4
"""Most common place of the first slip, as a share of the trace."""
RATE_PER_SLIP, HIGHEST_RATE = 0.15, 0.5
"""Chance of another slip at each payment: so much for every slip before it, at most so much."""
LONGEST = 400
PAID = 0.8
"""Share of all payments that an answer must make in turn: slips leave a few out, filler nearly all."""


@dataclass(frozen=True)
class Ledger(Family):
    """Books of who pays whom: `Lca,@-c,ab,b@:` is passed as `@0cab@1cab@...#`; `B` asks for two rounds.

    All rounds must be walked in turn, with four fifths of all payments right; of them only the last must be
    right throughout, so an early mistake can be corrected later.
    """

    level: Literal["short", "long"] = option(
        "long", "Rounds: 2 (short, about 30 tokens) or 16 (long, about 260 tokens)."
    )
    smallest: int = option(
        FEWEST, "Accounts of the smallest book; small ones are learned first.", ge=2, le=MOST
    )
    flawed: float = option(0.0, "Share of training traces that go wrong on the way.", ge=0, le=1)

    @property
    def benchmark(self) -> str:
        return f"ledger/{self.level}"

    @property
    def grader_version(self) -> str:
        return "3"

    def draw(self, rng: Random) -> Problem:
        ring = rng.sample(ACCOUNTS, rng.randint(self.smallest, MOST))
        payments = [f"{TILL}-{ring[0]}", *map("".join, zip(ring, [*ring[1:], TILL], strict=True))]
        rng.shuffle(payments)
        prompt = LETTER[self.level] + ",".join(payments) + ":"
        return Problem(self.benchmark, identity(prompt), prompt, gold="".join(ring))

    def trace(self, problem: Problem, rng: Random) -> str:
        """The rounds; after a wrong payment the walk goes on from the account that was named."""
        if rng.random() >= self.flawed:
            return self.right_answer(problem)
        while len(text := self._flawed(problem.gold, rng)) > LONGEST:
            pass
        return text

    def _flawed(self, ring: str, rng: Random) -> str:
        pays = dict(zip(TILL + ring, ring + TILL, strict=True))
        payments = len(pays) * ROUNDS[self.level]
        first = rng.triangular(0, payments, USUAL_SLIP * payments)
        text, at, rounds, paid, slips = TILL + NUMBERS[0], TILL, 0, 0, 0
        while True:
            rate = float(paid >= first) if not slips else min(slips * RATE_PER_SLIP, HIGHEST_RATE)
            wrong = rng.random() < rate
            right, slips, paid = pays[at], slips + wrong, paid + 1
            at = rng.choice([one for one in pays if one not in (at, right)]) if wrong else right
            text += at
            if at != TILL:
                continue
            rounds += 1
            if rounds == ROUNDS[self.level]:
                return text + "#"
            text += NUMBERS[rounds]

    def grade(self, problem: Problem, completion: str) -> Verdict:
        """Correct if no round is skipped and the last one passes all accounts in the book's order."""
        last = NUMBERS[ROUNDS[self.level] - 1]
        found = re.search(rf"{TILL}{last}([^{TILL}]*){TILL}#\Z", completion)
        if found is None:
            return Verdict("no_answer", reason=f"does not end with round {last}, '{TILL}' and '#'")
        answer = found[1]
        if answer != problem.gold:
            return Verdict(
                "wrong", answer, f"round {last} is {answer[:30]!r}, not {problem.gold!r}"
            )
        if why := self._skipped(problem, completion[: found.start()].split(TILL)):
            return Verdict("wrong", answer, why)
        return Verdict("correct", answer)

    def _skipped(self, problem: Problem, pieces: list[str]) -> str:
        """Why the rounds before the last one do not lead to it; empty where they do.

        Args:
            pieces: text before the first till, then of each round: its number and the accounts.
        """
        rounds, payments = ROUNDS[self.level], len(problem.gold) + 1
        if pieces[0]:
            return f"begins with {pieces[0][:30]!r} and not with round {NUMBERS[0]}"
        if (passed := 1 + sum(len(one) > 1 for one in pieces[1:])) < rounds:
            return f"passes {passed} of {rounds} rounds"
        if len(pieces) > rounds:
            return f"passes {len(pieces)} rounds, not {rounds}"
        numbered = zip(NUMBERS, pieces[1:], strict=False)
        made = payments + sum(_made(problem.gold, one, number) for number, one in numbered)
        if made < PAID * rounds * payments:
            return f"makes {made} of {rounds * payments} payments in their rounds, by the book"
        return ""

    def right_answer(self, problem: Problem) -> str:
        rounds = NUMBERS[: ROUNDS[self.level]]
        return "".join(f"{TILL}{number}{problem.gold}" for number in rounds) + TILL + "#"


def _made(ring: str, piece: str, number: str) -> int:
    """Payments of the book that a round makes, each once; none where its number is another's."""
    if piece[:1] != number:
        return 0
    book = set(pairwise(TILL + ring + TILL))
    return len(book & set(pairwise(TILL + piece[1:] + TILL)))
