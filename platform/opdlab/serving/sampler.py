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
"""Tokens that are looked at, of a rollout."""
REMEMBERED = 64 * TOKENS
"""Tokens after which what was seen is forgotten where it never suffices: the student is another by then."""
Chance = tuple[int, int]
"""Hash of a prompt, with its seed: asked again, they are the same chance again."""
NEVER = 1e-9
"""Chance by which a server that draws as it should is refused."""
LEAST = 0.2
"""What is told at least: how far the temperature is off, as a share.

A server whose numbers are rounded otherwise is off as well, by some hundredths, and whatever is off for
ever is seen at last.
"""
COLDEST = 2.5e-3
"""Stands for temperature 0: tokens a quarter of a nat below the likeliest one are then none of its."""
FEW = 3
"""Tokens beyond the settings that are allowed however few there are."""
SHARE, COLD_SHARE = 0.005, 0.02
"""Share of the tokens that rounding may leave beyond the settings: at the edge of a nucleus, and where two
tokens are nearly as likely at temperature 0."""


@final
@dataclass(frozen=True)
class Draws:
    """Response tokens under the distribution that they should come from.

    Attributes:
        tokens: how many.
        above: sum of what their clipped log-probabilities are above their expectations, nats.
        variance: of that sum.
        outside: tokens that are none of that distribution's.
        cold: whether at temperature 0, where nothing but `outside` tells.
    """

    tokens: int
    above: float
    variance: float
    outside: int
    cold: bool = False

    def __add__(self, other: Draws) -> Draws:
        """Of both: what one rollout is too short to show, several do."""
        return Draws(
            self.tokens + other.tokens,
            self.above + other.above,
            self.variance + other.variance,
            self.outside + other.outside,
            self.cold or other.cold,
        )

    @property
    def bound(self) -> float:
        """What `above` is within, by Freedman's inequality for martingales, whatever was drawn."""
        level = math.log(2 / NEVER)
        half = level * CLIPPED / 3
        return half + math.sqrt(half**2 + 2 * level * self.variance)

    @property
    def suffices(self) -> bool:
        """Whether a server that draws otherwise would have shown by now."""
        if self.tokens * (COLD_SHARE if self.cold else SHARE) < FEW:
            return False
        return self.cold or self.bound <= LEAST * self.variance

    @property
    def fault(self) -> str:
        """What shows that they were drawn otherwise, in words; empty where nothing does."""
        if self.outside > max(FEW, (COLD_SHARE if self.cold else SHARE) * self.tokens):
            return f"{self.outside} of {self.tokens} tokens are none that these settings can give"
        # The expectation of a log-probability grows by its variance with the inverse temperature.
        if self.cold or abs(self.above) <= max(self.bound, LEAST * self.variance):
            return ""
        side = "likelier" if self.above > 0 else "less likely"
        return (
            f"{self.tokens} tokens are {side} by {abs(self.above) / self.tokens:.2g} nats each than those "
            f"that are drawn so; chance explains {self.bound / self.tokens:.2g}"
        )


def chances(prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[Chance]:
    """What each prompt with its seed is known by."""
    return [(hash(tuple(prompt)), seed) for prompt, seed in zip(prompts, seeds, strict=True)]


def draws(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    temperature: float,
    top_p: float,
    known: set[Chance],
) -> Draws:
    """Look at some responses, at most `TOKENS` of their tokens, in one forward.

    Args:
        known: those that were looked at, which are added here.
    """
    asked, answers, left = list[Sequence[int]](), list[Tensor](), TOKENS
    for prompt, response, key in zip(prompts, responses, chances(prompts, seeds), strict=True):
        if left and key not in known:
            known.add(key)
            asked.append(prompt)
            # Cut, and not passed over: answers that end soon would be taken more often.
            answers.append(response[:left])
            left -= len(answers[-1])
    if not asked:
        return Draws(0, 0.0, 0.0, 0)
    found = surprises(model, asked, answers, vocabulary, max(temperature, COLDEST), top_p)
    above, variance, outside = found.double().sum(0).tolist()
    return Draws(len(found), above, variance, int(outside), temperature == 0)
