"""States of recurrent layers of the rows being decoded: filled by prompts, moved, taken a step on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from transformers import PreTrainedModel

from opdlab.modelling import RecurrentLayer, State, recurrent_layers, taken_over
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import sent


@final
class RowStates:
    """A state of each recurrent layer for every place.

    Attributes:
        layers: of the model; none for most models.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.layers = recurrent_layers(model)
        self._states: dict[int, State] = {}
        self._trying = False

    @property
    def tensors(self) -> list[Tensor]:
        """Where the states lie."""
        return [part for state in self._states.values() for part in state.values()]

    @contextmanager
    def filled(
        self, lengths: Sequence[int], source: list[int], places: list[int], count: int
    ) -> Iterator[None]:
        """Within, forwards are of rows of so many tokens, with filler behind them.

        The states after each row's own last token go into places, layer by layer, so that they are there
        once. Rows go on together to the next length at which one ends, so no state sees a filler.

        Args:
            source: row that each of `places` takes.
            count: places in all.
        """
        host = torch.tensor(lengths)
        order = host.argsort(descending=True, stable=True)
        back = order.argsort()
        stops = sorted({length for length in lengths if length})

        def mix(
            layer: RecurrentLayer, inputs: Float[Tensor, "B S H"], arguments: dict[str, Any]
        ) -> Float[Tensor, "B S H"]:
            inputs = inputs[sent(order.tolist(), inputs.device)]
            column = torch.arange(inputs.shape[1], device=inputs.device).expand(inputs.shape[:2])
            output, after = torch.zeros_like(inputs), layer.blank(inputs, column, arguments)
            state, begin = None, 0
            for stop in stops:
                rows, part = sum(length >= stop for length in lengths), slice(begin, stop)
                if state is not None:
                    state = {name: kept[:rows] for name, kept in state.items()}
                some = inputs[:rows, part], state, column[:rows, part]
                output[:rows, part], state = layer.run(*some, arguments)
                going = sum(length > stop for length in lengths)
                for name, kept in state.items():
                    after[name][going:rows] = kept[going:]
                begin = stop
            if layer.index not in self._states:
                self._states[layer.index] = {
                    name: part.new_zeros(count, *part.shape[1:]) for name, part in after.items()
                }
            place, row = (sent(some, inputs.device) for some in (places, back[source].tolist()))
            for name, part in after.items():
                held = self._states[layer.index][name]
                held.index_copy_(0, place, part[row].to(held.dtype))
            return output[sent(back.tolist(), inputs.device)]

        with taken_over(self.layers, mix):
            yield

    @contextmanager
    def stepping(self, column: Int[Tensor, "B one"]) -> Iterator[None]:
        """Within, forwards take every place one token further, which stands in these columns."""

        def mix(
            layer: RecurrentLayer, inputs: Float[Tensor, "B one H"], arguments: dict[str, Any]
        ) -> Float[Tensor, "B one H"]:
            state = self._states[layer.index]
            output, self._states[layer.index] = layer.run(inputs, state, column, arguments)
            return output

        with taken_over(self.layers, mix):
            yield

    def step(
        self,
        layer: RecurrentLayer,
        inputs: Float[Tensor, "B one H"],
        column: Int[Tensor, "B one"],
        arguments: dict[str, Any],
    ) -> Float[Tensor, "B one H"]:
        """Take every place one token further by a layer; its states are written where they are."""
        held = self._states[layer.index]
        # The layer may write into what it is given, tensors and their list.
        given = {name: part.clone() if self._trying else part for name, part in held.items()}
        output, after = layer.run(inputs, given, column, arguments)
        if not self._trying:
            for name, part in after.items():
                if part is not held[name]:
                    held[name].copy_(part)
        return output

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Within, steps leave every state as it is."""
        self._trying = True
        try:
            yield
        finally:
            self._trying = False

    def widen(self, count: int) -> None:
        """Add places at the back, so that there are so many."""
        for state in self._states.values():
            for name, part in state.items():
                wide = part.new_zeros(count, *part.shape[1:])
                wide[: len(part)] = part
                state[name] = wide

    def move(self, places: Int[Tensor, "n"], to: Int[Tensor, "n"]) -> None:
        """Copy states from places to others."""
        for state in self._states.values():
            for part in state.values():
                part[to] = part[places]

    def keep(self, count: int) -> None:
        """Drop all places but the first so many."""
        for state in self._states.values():
            state.update({name: part[:count] for name, part in state.items()})
