"""Distributions over a whole vocabulary, from the tokens of it that are known."""

from __future__ import annotations

import math

import torch

from opdlab.modelling import NEVER
from opdlab.shapes import Float, Int, Tensor


def counted(ids: Int[Tensor, "T N"]) -> tuple[Int[Tensor, "T N"], Float[Tensor, "T N"]]:
    """Each token that was drawn once, -1 after the last, and the logarithm of its share of the draws."""
    drawn = ids.sort(-1).values
    another = torch.ones_like(drawn, dtype=torch.bool)
    another[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    number = another.cumsum(-1) - 1
    count = torch.zeros_like(drawn).scatter_add_(-1, number, torch.ones_like(drawn))
    tokens = torch.full_like(drawn, -1).scatter_(-1, number, drawn)
    return tokens, (count / max(1, ids.shape[-1])).log()


def dense_top(
    ids: Int[Tensor, "C K"], log_prob: Float[Tensor, "C K"], entries: int
) -> Float[Tensor, "C V"]:
    """The likeliest tokens as they are; of the last column, of all others together, each has as much."""
    known, tail = ids[:, :-1], log_prob[:, -1:]
    others = max(1, entries - known.shape[-1])
    filler = tail - math.log(others)
    return filler.expand(-1, entries).scatter(-1, known, log_prob[:, :-1])


def dense_draws(
    ids: Int[Tensor, "C N"], log_share: Float[Tensor, "C N"], entries: int
) -> Float[Tensor, "C V"]:
    """Each token's share of the draws, which on average is its probability."""
    shares = log_share.new_zeros(len(ids), entries)
    shares.scatter_add_(-1, ids, log_share.exp())
    return shares.log().clamp(min=NEVER)
