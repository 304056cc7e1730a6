"""Chains of arithmetic modulo 10 with a label on each step: the content of two families."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from random import Random

from opdlab.records import Verdict

LABELS = "abcdefghij"
OPERATIONS = {
    "+": "123456789",
    "-": "123456789",
    # Invertible modulo 10: an error made before a multiplication is never washed out by it.
    "*": "379",
}


@dataclass(frozen=True)
class Chain:
    """A starting digit and operations on it, as `2a*3b-2` for 2, times 3 (step a), minus 2 (step b)."""

    start: int
    operations: tuple[tuple[str, int], ...]

    @classmethod
    def draw(cls, rng: Random, steps: int) -> Chain:
        """A random chain of so many steps."""
        chosen = [rng.choice("+-*") for _ in range(steps)]
        return cls(rng.randrange(10), tuple((o, int(rng.choice(OPERATIONS[o]))) for o in chosen))

    @property
    def content(self) -> str:
        """The question, as `2a*3b-2=`."""
        steps = zip(LABELS, self.operations, strict=False)
        return f"{self.start}" + "".join(f"{label}{o}{n}" for label, (o, n) in steps) + "="

    def steps(self) -> list[str]:
        """Every labelled step worked out, as `a2*3=6`."""
        value, lines = self.start, []
        for label, (operation, operand) in zip(LABELS, self.operations, strict=False):
            result = apply(operation, value, operand)
            lines.append(f"{label}{value}{operation}{operand}={result}")
            value = result
        return lines


def apply(operation: str, left: int, right: int) -> int:
    """One operation modulo 10."""
    return {"+": left + right, "-": left - right, "*": left * right}[operation] % 10


def judge(completion: str, expected: list[str], *, in_order: bool = True) -> Verdict:
    """Compare every step and the final digit; the reason names the first wrong step."""
    text, _, answer = completion.partition("#")
    if len(answer) != 1 or answer not in "0123456789":
        return Verdict("no_answer", reason="no single digit after '#'")
    steps = text.split(";") if in_order else sorted(text.split(";"))
    for number, (got, wanted) in enumerate(zip_longest(steps, expected), start=1):
        if wanted is None:
            return Verdict("wrong", answer, f"step {number}, {got[:20]!r}, is one too many")
        if got != wanted:
            said = "missing" if got is None else repr(got[:20])
            return Verdict("wrong", answer, f"step {number} is {said}, not {wanted!r}")
    if answer != expected[-1][-1]:
        return Verdict("wrong", answer, f"the answer is {answer}, not {expected[-1][-1]}")
    return Verdict("correct", answer)
