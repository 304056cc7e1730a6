"""Whether a server draws by the settings it was sent, not by a temperature of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from transformers import PreTrainedModel

from opdlab.sampling import CLIPPED, surprises
from opdlab.shapes import Int, Tensor

TOKENS = 4096
"""Tokens that are looked at, of a rollout, or those of one answer."""
NEVER = 1e-9
"""Chance by which a server that draws as it should is refused."""
COLDEST = 2.5e-3
"""Stands for temperature 0: tokens a quarter of a nat below the likeliest one are then none of its."""
FEW, SHARE = 3, 0.002
"""Tokens beyond the settings that rounding at the edge of a nucleus may leave, and their share."""


@final
@dataclass(frozen=True)
class Draws:
    """Response tokens under the distribution that they should come from.

    Attributes:
        tokens: how many.
        above: sum of what their clipped log-probabilities are above their expectations, nats.
        variance: of that sum.
        outside: tokens that are none of that distribution's.
    """

    tokens: int
    above: float
    variance: float
    outside: int

    def __add__(self, other: Draws) -> Draws:
        """Of both: what one rollout is too short to show, several do."""
        return Draws(
            self.tokens + other.tokens,
            self.above + other.above,
            self.variance + other.variance,
            self.outside + other.outside,
        )

    @property
    def bound(self) -> float:
        """What `above` is within, by Freedman's inequality for martingales, whatever was drawn."""
        level = math.log(2 / NEVER)
        half = level * CLIPPED / 3
        return half + math.sqrt(half**2 + 2 * level * self.variance)

    @property
    def fault(self) -> str:
        """What shows that they were drawn otherwise, in words; empty where nothing does."""
        if self.outside > max(FEW, SHARE * self.tokens):
            return f"{self.outside} of {self.tokens} tokens are none that these settings can give"
        if abs(self.above) <= self.bound:
            return ""
        side = "likelier" if self.above > 0 else "less likely"
        return (
            f"{self.tokens} tokens are {side} by {abs(self.above) / self.tokens:.2g} nats each than those "
            f"that are drawn so; chance explains {self.bound / self.tokens:.2g}"
        )


def draws(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    temperature: float,
    top_p: float,
) -> Draws:
    """Look at some responses; one forward over at most `TOKENS` of them."""
    rows: list[int] = []
    # The same prompt with the same seed is the same answer again, and no other chance.
    known: set[tuple[tuple[int, ...], int]] = set()
    size = 0
    for row, key in enumerate(zip(map(tuple, prompts), seeds, strict=True)):
        if key not in known and (not rows or size + len(responses[row]) <= TOKENS):
            known.add(key)
            rows.append(row)
            size += len(responses[row])
    some = [prompts[row] for row in rows], [responses[row] for row in rows]
    found = surprises(model, *some, vocabulary, max(temperature, COLDEST), top_p)
    above, variance, outside = found.double().sum(0).tolist()
    return Draws(len(found), above, variance, int(outside))
