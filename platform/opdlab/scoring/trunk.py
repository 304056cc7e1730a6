"""The trunk of a scoring pass: whole rows, computed in pieces that bound its memory.

Short rows go through the model together. A long row goes in parts: the first by the model's own attention,
each later one as leaves do, over the cached keys of the parts before it. So what a layer holds while it
computes does not grow with the row; keys, values and last states do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.modelling import (
    KeyStore,
    Lines,
    Own,
    PackedPass,
    RecurrentLayer,
    flat_states,
    running,
)
from opdlab.scoring.leaf_attention import LeafPass
from opdlab.scoring.shared_prompts import SharedPass
from opdlab.scoring.tree import States, chunks
from opdlab.shapes import Float, Tensor
from opdlab.transfers import to_device


@dataclass(eq=False)
class Continuation(LeafPass):
    """The next tokens of one row: each sees the keys before it, which are cached first, and itself.

    Attributes:
        row, start: which row of the store, and the first of these columns.
    """

    store: KeyStore | None = None
    row: int = 0
    start: int = 0

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *inputs: Any,
        **options: Any,
    ) -> Tensor:
        layer: Any = module.layer_idx
        part = slice(self.start, self.start + key.shape[2])
        self.keys[layer][:, :, part] = key
        self.values[layer][:, :, part] = value
        return super().attend(module, query, key, value, *inputs, **options)

    def recur(
        self,
        layer: RecurrentLayer,
        inputs: Float[Tensor, "1 N H"],
        arguments: dict[str, Any],
    ) -> Float[Tensor, "1 N H"]:
        if self.store is None:
            return super().recur(layer, inputs, arguments)
        row = slice(self.row, self.row + 1)
        return self.store.states.run(layer, inputs, row, self.start, arguments)


def run_trunk(
    model: PreTrainedModel,
    own: Own,
    lengths: list[int],
    states: States,
    keep: bool,
    piece: int | None,
) -> tuple[Float[Tensor, "N H"], KeyStore]:
    """Last hidden states of the tokens in `states`; and their rows' keys and values, if `keep`.

    Args:
        lengths: tokens of each row.
        piece: tokens that go through the model at a time; None for all.
    """
    device = model.device
    token, column = to_device(states.token, device), to_device(states.column, device)
    if states.prompt is not None:
        shared = shared_pass(own, len(lengths), states, keep, device)
        with running(shared):
            found = flat_states(model, token, column)
        return found, KeyStore(len(lengths), shared.width, shared.keys, shared.values)
    store = KeyStore(len(lengths), max(lengths))
    parts = chunks(lengths, piece or sum(lengths))
    ends = torch.tensor(lengths).cumsum(0).tolist()
    keep = keep or any(
        part.start > ends[part.first_row] - lengths[part.first_row] for part in parts
    )
    pieces = []
    for part in parts:
        span, rows = slice(part.start, part.stop), slice(part.first_row, part.last_row)
        lines = Lines.of(states.row[span] - part.first_row, part.last_row - part.first_row)
        lines = lines.to(device)
        before = part.start - (ends[part.first_row] - lengths[part.first_row])
        attention = (
            Continuation(
                own,
                *store.of(rows),
                lines,
                column[span],
                store=store,
                row=part.first_row,
                start=before,
            )
            if before
            else PackedPass(own, lines, store if keep else None, part.first_row)
        )
        with running(attention):
            pieces.append(flat_states(model, token[span], column[span]))
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces), store


def shared_pass(
    own: Own,
    rows: int,
    states: States,
    keep: bool,
    device: torch.device,
    kind: type[SharedPass] = SharedPass,
) -> SharedPass:
    """The pass of so many rows that share prompts."""
    assert states.prompt is not None
    N = states.prompts
    responses, column = Lines.of(states.row[N:], rows), states.column[N:]
    return kind(
        own,
        prompts=Lines.of(states.row[:N], int(states.prompt.max()) + 1).to(device),
        responses=responses.to(device),
        prompt=to_device(states.prompt, device),
        row=to_device(states.row[N:], device),
        column=to_device(column, device),
        ends=column[responses.token].view(responses.R, responses.C).amax(0).tolist(),
        width=int(states.column.max()) + 1,
        keep=keep,
    )
