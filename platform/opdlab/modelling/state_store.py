"""States of recurrent layers along whole rows, kept at the starts of segments that are run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from opdlab.modelling.linear_rules import Segments, Sum, segment
from opdlab.modelling.state_cache import State, StateCache, row_bytes, select
from opdlab.modelling.stateful_layers import CachedLayer, RecurrentLayer
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
        inputs: of layers that are run again, by their index. `Float[B S H]`
        convolved, sums: of layers whose states are sums, inputs of the convolution, `Float[B D S]`, and
            the terms.
        row, column: where segments begin, the same for all layers.
        length: tokens of a segment; None before the first layer has told how large its states are.
    """

    B: int
    S: int
    inputs: dict[int, Tensor] = field(default_factory=dict)
    convolved: dict[int, Tensor] = field(default_factory=dict)
    sums: dict[int, list[Segments]] = field(default_factory=dict)
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
        column = torch.arange(first, first + C, device=device).expand(inputs.shape[:2])
        state = self._last.get(layer.index) if first else None
        blank = layer.blank(inputs, column, arguments) if state is None else {}
        length = self._length(layer, blank or state or {})
        segments = list(slices(C, length))
        if (rows.start, first) not in self._pieces:
            self._pieces.add((rows.start, first))
            for segment in segments:
                self.row += range(rows.start, rows.stop)
                self.column += [first + segment.start] * (rows.stop - rows.start)
        if _at_once(layer, blank or state):
            assert isinstance(layer, CachedLayer)
            return self._run_whole(layer, inputs, rows, first, state, segments, arguments)
        if layer.index not in self.inputs:
            self.inputs[layer.index] = inputs.new_zeros(self.B, self.S, inputs.shape[2])
        self.inputs[layer.index][rows, first : first + C] = inputs
        found, kept = [], self._states.setdefault(layer.index, [])
        for segment in segments:
            kept.append({name: part.clone() for name, part in (state or blank).items()})
            output, state = layer.run(inputs[:, segment], state, column[:, segment], arguments)
            found.append(output)
        assert state is not None
        self._last[layer.index] = state
        return torch.cat(found, 1)

    def _run_whole(
        self,
        layer: CachedLayer,
        inputs: Float[Tensor, "R C H"],
        rows: slice,
        first: int,
        state: State | None,
        segments: list[slice],
        arguments: dict[str, Any],
    ) -> Float[Tensor, "R C H"]:
        """The same in one call for all columns, by a layer of which inputs of its convolution are kept, and
        the terms of its state, which is a sum, if it has another one.
        """
        assert self.length is not None
        rule, terms = layer.rule, list[Sum]()
        before = None if state is None else state.get(("recurrent", 0))

        def many(function: Callable[..., Any], call: dict[str, Any]) -> Any:
            assert rule is not None
            terms.append(rule.terms(call))
            return function(**call)

        cache = StateCache(state, whole=True)
        calls = {} if rule is None else {rule.many: many}
        output = layer.run_with(inputs, cache, arguments, calls)
        self._last[layer.index], new = cache.state, cache.inputs
        assert new is not None
        if layer.index not in self.convolved:
            self.convolved[layer.index] = new.new_zeros(self.B, new.shape[1], self.S)
        self.convolved[layer.index][rows, :, first : first + new.shape[2]] = new
        for sums in terms:
            assert rule is not None
            at = sums.value.new_zeros(*sums.key.shape[:2], sums.key.shape[3], sums.value.shape[3])
            at = at if before is None else rule.state(before)
            kept = self.sums.setdefault(layer.index, [])
            for part in segments:
                one, at = segment(sums.part(part), at, self.length)
                kept.append(one)
        return output

    @property
    def kept(self) -> list[Tensor]:
        """What is kept of each segment of all layers, for leaves."""
        states = [state for kept in self._states.values() for state in kept]
        sums = [one for kept in self.sums.values() for one in kept]
        return [
            *(part for state in states for part in state.values()),
            *(part for one in sums for part in (one.state, one.key, one.value, one.decay)),
        ]

    @property
    def once(self) -> list[Tensor]:
        """What is kept of all layers, however many segments there are."""
        last = (part for state in self._last.values() for part in state.values())
        return [*self.inputs.values(), *self.convolved.values(), *last]

    def at(self, layer: RecurrentLayer, segments: Int[Tensor, "P"]) -> State:
        """A layer's states at the starts of some segments."""
        kept = self._states[layer.index]
        if len(kept) > 1:
            whole = {name: torch.cat([one[name] for one in kept]) for name in kept[0]}
            self._states[layer.index] = kept = [whole]
        return select(kept[0], segments)

    def summed(self, layer: RecurrentLayer) -> Segments:
        """The terms of all segments, of a layer whose states are sums."""
        kept = self.sums[layer.index]
        if len(kept) > 1:
            self.sums[layer.index] = kept = [Segments.of(kept)]
        return kept[0]

    def window(
        self, layer: RecurrentLayer, row: Int[Tensor, "N"], column: Int[Tensor, "N"]
    ) -> Float[Tensor, "N D K"]:
        """The last inputs of a layer's convolution before these columns, of such a layer."""
        width = self._last[layer.index]["convolution", 0].shape[-1]
        place = column[:, None] - width + torch.arange(width, device=column.device)
        found = self.convolved[layer.index][row[:, None], :, place.clamp_min(0)]
        return found.masked_fill((place < 0)[..., None], 0).transpose(1, 2).contiguous()

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


def _at_once(layer: RecurrentLayer, state: State | None) -> bool:
    """Whether a layer's states are known sums, or a convolution's inputs alone: leaves need no steps."""
    if not isinstance(layer, CachedLayer) or layer.stepwise:
        return False
    return layer.rule is not None or set(state or {}) == {("convolution", 0)}
