"""States of recurrent layers of the rows being decoded: filled by prompts, moved, taken a step on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from transformers import PreTrainedModel

from opdlab.modelling import RecurrentLayer, State, recurrent_layers, select, taken_over
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
    def prefilled(self, lengths: Sequence[int]) -> Iterator[dict[int, State]]:
        """Within, forwards are of rows of so many tokens, with filler behind them.

        Gives the states after each row's own last token, by layer, once a forward has been made. Rows go on
        together to the next length at which one ends, so no state sees a filler.
        """
        found: dict[int, State] = {}
        host = torch.tensor(lengths)
        order = host.argsort(descending=True, stable=True)
        stops = sorted({length for length in lengths if length})

        def mix(
            layer: RecurrentLayer, inputs: Float[Tensor, "B S H"], arguments: dict[str, Any]
        ) -> Float[Tensor, "B S H"]:
            there = sent(order.tolist(), inputs.device)
            back = sent(order.argsort().tolist(), inputs.device)
            inputs = inputs[there]
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
            found[layer.index] = select(after, back)
            return output[back]

        with taken_over(self.layers, mix):
            yield found

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

    def fill(
        self,
        places: Int[Tensor, "n"],
        found: dict[int, State],
        source: Int[Tensor, "n"],
        count: int,
    ) -> None:
        """Lay rows of `prefilled` into places, of which there are so many in all."""
        for layer, state in found.items():
            if layer not in self._states:
                self._states[layer] = {
                    name: part.new_zeros(count, *part.shape[1:]) for name, part in state.items()
                }
            for name, part in state.items():
                held = self._states[layer][name]
                held.index_copy_(0, places, part[source].to(held.dtype))

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
