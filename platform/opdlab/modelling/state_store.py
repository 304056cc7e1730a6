"""States of recurrent layers along whole rows, kept at the starts of segments that are run again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from opdlab.modelling.recurrent_layers import RecurrentLayer, State, row_bytes, select
from opdlab.modelling.vocabulary_loss import slices
from opdlab.shapes import Float, Int, Tensor

# Tokens of a segment, at least: the chunks of most layers' own functions.
SEGMENT = 64
# Of states that are kept of all layers, about; segments are longer where it would be more.
KEPT_BYTES = 2**31


@dataclass(eq=False)
class StateStore:
    """What recurrent layers keep of whole rows.

    Attributes:
        B, S: rows, and columns of the widest.
        inputs: of the layers, by their index. `Float[B S H]`
        row, column: where segments begin, the same for all layers.
        length: tokens of a segment; None before the first layer has told how large its states are.
    """

    B: int
    S: int
    inputs: dict[int, Tensor] = field(default_factory=dict)
    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    length: int | None = None
    _states: dict[int, list[State]] = field(default_factory=dict)
    _last: dict[int, State] = field(default_factory=dict)
    _pieces: set[tuple[int, int]] = field(default_factory=set)

    def run(
        self,
        layer: RecurrentLayer,
        inputs: Float[Tensor, "R C H"],
        rows: slice,
        first: int,
        arguments: dict[str, Any],
    ) -> Float[Tensor, "R C H"]:
        """Outputs of a layer for some columns of some rows; what leaves need of them is kept.

        Args:
            first: the first of these columns; from the second piece of a row on, the row stands alone.
        """
        C, device = inputs.shape[1], inputs.device
        if layer.index not in self.inputs:
            self.inputs[layer.index] = inputs.new_zeros(self.B, self.S, inputs.shape[2])
        self.inputs[layer.index][rows, first : first + C] = inputs
        column = torch.arange(first, first + C, device=device).expand(inputs.shape[:2])
        state = self._last.get(layer.index) if first else None
        blank = layer.blank(inputs, column, arguments) if state is None else {}
        segments = list(slices(C, self._length(layer, blank or state or {})))
        if (rows.start, first) not in self._pieces:
            self._pieces.add((rows.start, first))
            for segment in segments:
                self.row += range(rows.start, rows.stop)
                self.column += [first + segment.start] * (rows.stop - rows.start)
        found, kept = [], self._states.setdefault(layer.index, [])
        for segment in segments:
            kept.append({name: part.clone() for name, part in (state or blank).items()})
            output, state = layer.run(inputs[:, segment], state, column[:, segment], arguments)
            found.append(output)
        assert state is not None
        self._last[layer.index] = state
        return torch.cat(found, 1)

    def at(self, layer: RecurrentLayer, segments: Int[Tensor, "P"]) -> State:
        """A layer's states at the starts of some segments."""
        kept = self._states[layer.index]
        if len(kept) > 1:
            whole = {name: torch.cat([one[name] for one in kept]) for name in kept[0]}
            self._states[layer.index] = kept = [whole]
        return select(kept[0], segments)

    def bytes_of(self, layer: RecurrentLayer) -> int:
        """Bytes of one state of a layer."""
        return row_bytes(self._states[layer.index][0])

    def _length(self, layer: RecurrentLayer, state: State) -> int:
        if self.length is None:
            every = row_bytes(state) * layer.count * self.B * self.S
            self.length = SEGMENT
            while self.length < self.S and every // self.length > KEPT_BYTES:
                self.length *= 2
        return self.length
