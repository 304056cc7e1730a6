"""The candidate tree: which leaves hang on the trunk of a rollout, and where. Pure bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opdlab.records import Questions, Rollout
from opdlab.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Leaves:
    """Candidates that need a forward pass of their own, sorted by row, then by column.

    A leaf at column c attends to columns 0 .. c-1 of its row and to itself; its position id is c.

    Attributes:
        row: row of `Rollout.tokens`. `Int[N]`
        column: where in that row the candidate would stand in place of the sampled token. `Int[N]`
        token: the candidate. `Int[N]`
        index: leaf that answers for each candidate, -1 where none does: no candidate was asked, or it
            is the sampled token, whose answer comes from the trunk. `Int[T K]`
    """

    row: Int[Tensor, "N"]
    column: Int[Tensor, "N"]
    token: Int[Tensor, "N"]
    index: Int[Tensor, "T K"]

    def __len__(self) -> int:
        return len(self.token)


def leaves(rollout: Rollout, candidates: Int[Tensor, "T K"]) -> Leaves:
    """The leaves of a rollout; equal candidates of a position share one."""
    wanted = (candidates >= 0) & (candidates != rollout.token[:, None])
    place, slot = wanted.nonzero(as_tuple=True)
    token = candidates[place, slot]
    span = int(token.max()) + 1 if len(token) else 1
    key, leaf = torch.unique(place * span + token, return_inverse=True)
    index = torch.full_like(candidates, -1)
    index[place, slot] = leaf
    place = key // span
    return Leaves(rollout.row[place], rollout.column[place], key % span, index)


@dataclass(frozen=True, eq=False)
class Draws:
    """Uniform numbers for the `sampled_prob` measure; they depend on nothing but the seed and the shape.

    Attributes:
        trunk: one for each response token. `Float[T]`
        candidate: one for each candidate. `Float[T K]`
    """

    trunk: Float[Tensor, "T"]
    candidate: Float[Tensor, "T K"]


def draws(rollout: Rollout, questions: Questions) -> Draws:
    """Equal tokens at one position share one draw, so that it does not matter who computes them."""
    generator = torch.Generator().manual_seed(questions.seed)
    T, K = questions.candidates.shape
    trunk = torch.rand(T, generator=generator).to(rollout.tokens.device)
    candidate = torch.rand(T, K, generator=generator).to(rollout.tokens.device)
    same = questions.candidates[:, :, None] == questions.candidates[:, None, :]
    first = same.int().argmax(-1)
    candidate = candidate.gather(1, first)
    is_sampled = questions.candidates == rollout.token[:, None]
    return Draws(trunk, torch.where(is_sampled, trunk[:, None], candidate))
