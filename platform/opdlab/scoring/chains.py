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
from opdlab.shapes import Float, Int, Tensor
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


def follow(
    model: PreTrainedModel,
    ahead: Lookahead,
    ends: tuple[int, ...],
    leaves: Branch,
    states_of: Callable[[Branch, Chain], Float[Tensor, "n H"]],
    vocabulary: int | None,
    head_chunk: int | None,
) -> Float[Tensor, "N"]:
    """The confidence of each leaf, on the host, by the chain that grows from it.

    Args:
        ends: tokens that end a chain; so does a text for whose next token the model has no position.
        states_of: last hidden states of leaves, which join the chain that stands before them.
    """
    positions = learned_positions(model)
    found = torch.zeros(len(leaves.token), ahead.steps)
    looked = torch.zeros(len(found), dtype=torch.long)
    alive, chain = torch.arange(len(found)), Chain()
    for step in range(ahead.steps):
        states = states_of(leaves, chain)
        chain.column.append(to_device(leaves.column, model.device))
        log_prob, token = to_host([*likeliest(model, states, vocabulary, head_chunk)])
        found[alive, step], looked[alive] = log_prob, step + 1
        going = ~is_one_of(token, ends)
        if ahead.certain_above > 0:
            going &= log_prob > log(ahead.certain_above)
        if positions is not None:
            going &= leaves.column + 1 < positions
        (place,) = going.nonzero(as_tuple=True)
        if step == ahead.beyond or not len(place):
            break
        alive = alive[place]
        chain.restrict(to_device(place, model.device))
        leaves = Branch(leaves.row[place], leaves.column[place] + 1, token[place])
    return _joined(found, looked, ahead.over)


def _joined(
    found: Float[Tensor, "n steps"], looked: Int[Tensor, "n"], over: str
) -> Float[Tensor, "n"]:
    """What a chain's confidences come to; NaN where one of them is.

    Args:
        found: logarithms of its largest probabilities, 0 after its end.
        looked: how many there are.
    """
    if over == "geometric_mean":
        return (found.sum(1) / looked).exp()
    if over == "minimum":
        return found.amin(1).exp()
    return found.gather(1, looked[:, None] - 1)[:, 0].exp()
