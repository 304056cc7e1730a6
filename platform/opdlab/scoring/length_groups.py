"""The student's forward over a rollout in groups of like length, so that little filler is computed."""

from __future__ import annotations

from itertools import pairwise

import torch
from transformers import PreTrainedModel

from opdlab.errors import ModelError
from opdlab.modelling import Stretch, check_prefixes, hidden_states, stretches
from opdlab.records import Rollout
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device

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
            one forward: what sharded models need, whose processes go backward together.

    Raises:
        ModelError: one forward is not enough for this model's rotary frequencies; or, of a model that is
            not sharded, `check_prefixes` refuses rows so long.
    """
    host = rollout.host
    lengths = host.prompt_lengths + host.response_lengths
    return prefix_states(model, rollout.tokens, lengths, host.row, host.column, grouped)


def prefix_states(
    model: PreTrainedModel,
    tokens: Int[Tensor, "B S"],
    lengths: Int[Tensor, "B"],
    row: Int[Tensor, "T"],
    prefix: Int[Tensor, "T"],
    grouped: bool = True,
) -> Float[Tensor, "T H"]:
    """The model's hidden state after the first `prefix` tokens of a row, whatever the other rows are.

    Args:
        tokens: rows padded on the right.
        lengths: tokens of each row.
        row, prefix: which states; at least one token each. These three had best be on the host: a device
            would be waited for.
        grouped: as `states_before_tokens` takes it.

    Raises: as `states_before_tokens`.
    """
    # The last token of a row need not be read where that would change what is said before it.
    longest = int(lengths.max())
    if grouped:
        check_prefixes(model, longest)
    spans = stretches(model, longest)
    if len(spans) > 1:
        longest = int(prefix.max())
        spans = stretches(model, longest)
    if len(spans) > 1 and not grouped:
        raise ModelError(
            f"the rotary frequencies of {type(model).__name__} change beyond {spans[0].last} positions, so "
            f"a row of {longest} tokens takes {len(spans)} forwards, but devices that share a model must "
            "make equally many: lower rollout.max_new_tokens, or train on one device"
        )
    groups = [
        (rows, span)
        for span in spans
        for rows in _groups(torch.minimum(lengths, lengths.new_tensor(span.last)), span, grouped)
    ]
    found, where = [], []
    for rows, span in groups:
        place_in = torch.full_like(lengths, -1)
        place_in[rows] = torch.arange(len(rows), device=rows.device)
        asked = (place_in[row] >= 0) & (prefix >= span.first) & (prefix <= span.last)
        mine = asked.nonzero().squeeze(1)
        if len(mine) == 0 and len(groups) > 1:
            continue
        width = min(int(lengths[rows].max()), span.last)
        states = hidden_states(model, tokens[to_device(rows, tokens.device), :width])
        wanted = place_in[row[mine]], prefix[mine] - 1
        found.append(states[tuple(to_device(place, tokens.device) for place in wanted)])
        where.append(mine)
        # Else it would still be there while the next forward runs.
        del states
    if len(found) == 1:
        return found[0]
    return torch.cat(found)[to_device(torch.cat(where).argsort(), tokens.device)]


def _groups(lengths: Int[Tensor, "B"], span: Stretch, grouped: bool) -> list[Int[Tensor, "b"]]:
    """Rows that reach a stretch, in groups that take one forward each."""
    rows = (lengths >= span.first).nonzero().squeeze(1)
    if not grouped:
        return [rows]
    return [rows[group] for group in length_groups(lengths[rows])]
