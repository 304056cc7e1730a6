"""The student's forward over a rollout in groups of like length, so that little filler is computed."""

from __future__ import annotations

from itertools import pairwise

import torch
from transformers import PreTrainedModel

from opdlab.head import hidden_states
from opdlab.records import Rollout
from opdlab.shapes import Float, Int, Tensor
from opdlab.teacher import picks_by_length

# Tokens that one more forward costs, with its share of launching kernels and of the backward pass.
_COST_OF_A_FORWARD = 256
# Places at which rows in order of length may be cut.
_CUTS = 16


def length_groups(lengths: Int[Tensor, "B"]) -> list[Int[Tensor, "b"]]:
    """Rows in groups that are padded together, longest first; which cuts pay is found exactly.

    A group costs its rows times its longest, and one forward's overhead.
    """
    order = lengths.argsort(descending=True, stable=True)
    B = len(order)
    edges = sorted({round(B * i / _CUTS) for i in range(_CUTS + 1)})
    longest = lengths[order].tolist()
    best: dict[int, tuple[int, int]] = {0: (0, 0)}
    for stop in edges[1:]:
        best[stop] = min(
            (best[start][0] + (stop - start) * longest[start] + _COST_OF_A_FORWARD, start)
            for start in edges
            if start < stop
        )
    cuts = [B]
    while cuts[0]:
        cuts.insert(0, best[cuts[0]][1])
    return [order[start:stop] for start, stop in pairwise(cuts)]


def states_before_tokens(
    model: PreTrainedModel, rollout: Rollout, grouped: bool = True
) -> Float[Tensor, "T H"]:
    """The model's hidden state before each response token, with a gradient where enabled.

    Args:
        grouped: whether rows of unlike length may take forwards of their own. Without, there is exactly
            one forward: what sharded models need, whose ranks must make equally many.
    """
    lengths = rollout.prompt_lengths + rollout.response_lengths
    groups = length_groups(lengths) if grouped and not picks_by_length(model) else [lengths]
    if len(groups) == 1:
        return hidden_states(model, rollout.tokens)[rollout.row, rollout.column - 1]
    group_of, place_in = torch.empty_like(lengths), torch.empty_like(lengths)
    for number, rows in enumerate(groups):
        group_of[rows] = number
        place_in[rows] = torch.arange(len(rows), device=rows.device)
    found, where = [], []
    for number, rows in enumerate(groups):
        tokens = rollout.tokens[rows, : int(lengths[rows].max())]
        mine = (group_of[rollout.row] == number).nonzero().squeeze(1)
        states = hidden_states(model, tokens)
        found.append(states[place_in[rollout.row[mine]], rollout.column[mine] - 1])
        where.append(mine)
    return torch.cat(found)[torch.cat(where).argsort()]
