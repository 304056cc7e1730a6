"""Lookahead past one step: each leaf grows into a chain of the teacher's likeliest tokens.

A chain's tokens are leaves, too: each sees what its first leaf sees of the trunk, the tokens of the chain
before it, and itself. So a step costs a token for each chain, and nothing of the trunk is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log

import torch
from transformers import PreTrainedModel

from opdlab.modelling import learned_positions, likeliest
from opdlab.records import Lookahead, Questions, Rollout, is_one_of
from opdlab.scoring.leaf_attention import Chain
from opdlab.shapes import Bool, Float, Int, Tensor
from opdlab.transfers import to_device, to_host


def with_sampled(rollout: Rollout, questions: Questions) -> Questions:
    """The same questions with the sampled token as one candidate more wherever a candidate is asked about.

    The trunk goes on with the student's next token, so beyond one step it knows nothing of this one.
    """
    asked = (questions.candidates >= 0).any(1) & ~rollout.is_eos
    sampled = rollout.token.where(asked, -1)
    return replace(questions, candidates=torch.cat([questions.candidates, sampled[:, None]], 1))


@dataclass(frozen=True, eq=False)
class Branch:
    """Leaves of some rows, on the host, sorted by row, then by column; see `Leaves`."""

    row: Int[Tensor, "n"]
    column: Int[Tensor, "n"]
    token: Int[Tensor, "n"]


@dataclass(frozen=True)
class Following:
    """How leaves are followed.

    Attributes:
        lookahead: how far.
        ends: tokens that end a chain.
        positions: tokens that a text may have; None for any number.
    """

    lookahead: Lookahead
    ends: tuple[int, ...]
    positions: int | None

    @classmethod
    def of(cls, model: PreTrainedModel, lookahead: Lookahead, ends: tuple[int, ...]) -> Following:
        """By a model: where it has no position for another token, a chain ends."""
        return cls(lookahead, ends, learned_positions(model))

    def goes_on(
        self, log_prob: Float[Tensor, "n"], token: Int[Tensor, "n"], length: Int[Tensor, "n"]
    ) -> Bool[Tensor, "n"]:
        """Which chains get another token.

        Args:
            log_prob: of the likeliest token, nats.
            token: the likeliest.
            length: tokens of the text so far.
        """
        going = ~is_one_of(token, self.ends)
        if self.lookahead.certain_above > 0:
            going &= log_prob > log(self.lookahead.certain_above)
        return going if self.positions is None else going & (length < self.positions)

    def joined(
        self, found: Float[Tensor, "n steps"], looked: Int[Tensor, "n"]
    ) -> Float[Tensor, "n"]:
        """What a chain's confidences come to; NaN where one of them is.

        Args:
            found: logarithms of its largest probabilities, 0 after its end.
            looked: how many there are.
        """
        if self.lookahead.over == "geometric_mean":
            return (found.sum(1) / looked).exp()
        if self.lookahead.over == "minimum":
            return found.amin(1).exp()
        return found.gather(1, looked[:, None] - 1)[:, 0].exp()


def follow(
    model: PreTrainedModel,
    following: Following,
    leaves: Branch,
    states_of: Callable[[Branch, Chain], Float[Tensor, "n H"]],
    vocabulary: int | None,
    head_chunk: int | None,
) -> Float[Tensor, "N"]:
    """The confidence of each leaf, on the host, by the chain that grows from it.

    Args:
        states_of: last hidden states of leaves, which join the chain that stands before them.
    """
    steps, device = following.lookahead.steps, model.device
    found = torch.zeros(len(leaves.token), steps)
    looked = torch.zeros(len(found), dtype=torch.long)
    alive, chain = torch.arange(len(found)), Chain()
    for step in range(steps):
        states = states_of(leaves, chain)
        chain.column.append(to_device(leaves.column, device))
        log_prob, token = to_host([*likeliest(model, states, vocabulary, head_chunk)])
        found[alive, step], looked[alive] = log_prob, step + 1
        going = following.goes_on(log_prob, token, leaves.column + 1).nonzero()[:, 0]
        if step + 1 == steps or not len(going):
            break
        alive, chain = alive[going], chain.of(to_device(going, device))
        leaves = Branch(leaves.row[going], leaves.column[going] + 1, token[going])
    return following.joined(found, looked)
