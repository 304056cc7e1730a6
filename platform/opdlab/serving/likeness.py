"""How far a server's log-probabilities are from the student's: whether it serves the student at all.

Tokens that are certain to any model agree whatever the weights are, so only the others count. What the same
weights may differ by is measured, not guessed: by the student itself in bfloat16, over the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from transformers import PreTrainedModel

from opdlab.sampling import scored
from opdlab.shapes import Float, Int, Tensor

UNCERTAIN = 0.02
"""A token counts that either of the two holds for less likely than exp(-0.02), 98 %."""
BLOCK = 256
"""Tokens that count, of answers that came one after another, which must be the student's by themselves: a
server that is started again in between answers the rest with other weights."""
EXACT = 1e-3
"""What engines of the same weights in float32 differ by is less, in nats."""
ROUNDINGS = 3.0
"""Another engine in bfloat16 differs by less than so many times what bfloat16 does here."""
IN_HALF = 0.1
"""The same where the student's own weights have no more digits to compare with."""
ONE_TOKEN = 0.5
"""What rounding may do to one token, in nats, half as much again as was seen. Few tokens may be
off by their share of it, for the same rounding hits some and misses others."""
HIGH = 0.99


@final
@dataclass(frozen=True)
class Likeness:
    """Differences, server minus student, over the tokens that count; all are 0 for equal models.

    Attributes:
        gap: root mean square, nats.
        worst: the same of the block where it is largest.
        kl: mean over all tokens, nats: what the server's distribution diverges by from the student's.
        high: the absolute difference that one in a hundred exceeds, nats.
        tokens: how many count, of a block at most.
    """

    gap: float
    worst: float
    kl: float
    high: float
    tokens: int

    def within(self, limit: float) -> bool:
        """Whether the same weights may differ by so much; never where something is not a number."""
        return self.worst <= limit and math.isfinite(self.gap)

    def figures(self) -> dict[str, float]:
        """For the record of a step."""
        return {"server_gap": self.gap, "server_kl": self.kl, "server_gap_high": self.high}


def likeness(
    theirs: Float[Tensor, "T"],
    ours: Float[Tensor, "T"],
    lengths: Sequence[int],
    came: Sequence[int],
) -> Likeness:
    """Compare log-probabilities of the same tokens, rows end to end.

    Args:
        lengths: tokens of each row.
        came: rows in the order in which they were answered.
    """
    theirs, ours = theirs.double().cpu(), ours.double().cpu()
    difference = theirs - ours
    # NaN counts as well.
    counts = ~(torch.minimum(theirs, ours) >= -UNCERTAIN)
    if not counts.any():
        counts = torch.ones_like(counts)
    squares = difference.square()
    total = squares[counts].mean().sqrt().item()
    high = difference[counts].abs().quantile(HIGH).item()
    rows = [torch.arange(len(ours)).split(list(lengths))[row] for row in came]
    order = torch.cat(rows)
    ordered = squares[order][counts[order]]
    count = min(len(ordered), BLOCK)
    return Likeness(total, _worst(ordered), difference.mean().item(), high, count)


def _worst(squares: Float[Tensor, "T"]) -> float:
    """Of the root mean squares of blocks, the last of which overlaps the one before, the largest."""
    if len(squares) <= BLOCK:
        return squares.mean().sqrt().item()
    whole = squares[: len(squares) // BLOCK * BLOCK].view(-1, BLOCK).mean(1)
    return torch.cat([whole, squares[-BLOCK:].mean()[None]]).max().sqrt().item()


def rounding(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    ours: Float[Tensor, "T"],
) -> Likeness:
    """What bfloat16 does to a model in float32 on these tokens, or the other way round; one forward.

    Args:
        ours: the model's log-probabilities of the responses, as recorded.
    """
    kind, lengths = model.device.type, [len(response) for response in responses]
    rounded = not torch.is_autocast_enabled(kind)
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=rounded):
        other = scored(model, prompts, responses, vocabulary, 0).log_prob
    return likeness(other, ours, lengths, range(len(lengths)))


def allowed(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    ours: Float[Tensor, "T"],
) -> float:
    """What another engine with the same weights may differ by on these tokens, in nats; one more forward.

    Args:
        ours: the model's log-probabilities of the responses, as recorded.
    """
    if next(model.parameters()).dtype != torch.float32:
        lengths = [len(response) for response in responses]
        count = likeness(ours, ours, lengths, range(len(lengths))).tokens
        return max(IN_HALF, ONE_TOKEN / math.sqrt(count))
    found = rounding(model, prompts, responses, vocabulary, ours)
    return max(EXACT, ROUNDINGS * found.worst, ONE_TOKEN / math.sqrt(found.tokens))
