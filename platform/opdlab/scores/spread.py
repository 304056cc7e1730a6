"""Distributions over a whole vocabulary, from the tokens of it that are known."""

from __future__ import annotations

import torch

from opdlab.shapes import Float, Int, Tensor

NEVER = -87.0
"""Log-probability of a token that was not drawn: as probability it is as good as 0, and still a number."""


def dense_top(
    ids: Int[Tensor, "C K"], log_prob: Float[Tensor, "C K"], entries: int
) -> Float[Tensor, "C V"]:
    """The likeliest tokens as they are; of the last column, of all others together, each has as much."""
    known, tail = ids[:, :-1], log_prob[:, -1:]
    others = max(1, entries - known.shape[-1])
    filler = tail - torch.tensor(float(others)).log()
    return filler.expand(-1, entries).scatter(-1, known, log_prob[:, :-1])


def dense_draws(
    ids: Int[Tensor, "C N"], log_share: Float[Tensor, "C N"], entries: int
) -> Float[Tensor, "C V"]:
    """Each token's share of the draws, which on average is its probability."""
    shares = log_share.new_zeros(len(ids), entries)
    shares.scatter_add_(-1, ids, log_share.exp())
    return shares.log().clamp(min=NEVER)
