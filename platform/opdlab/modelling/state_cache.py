"""What recurrent layers keep of the past, and a stand-in for the cache that they read it from."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import nn

from opdlab.shapes import Float, Int, Tensor

State = dict[Any, Tensor]
"""What a layer keeps of the past, by name; each tensor has one row for each row of the batch."""


def select(state: State, index: Int[Tensor, "n"]) -> State:
    """Some rows of a state, as tensors of their own."""
    return {name: part.index_select(0, index) for name, part in state.items()}


def row_bytes(state: State) -> int:
    """Bytes of one row of a state."""
    return sum(part[:1].numel() * part.element_size() for part in state.values())


@final
class StateCache:
    """Stands in for a cache during the forward of one layer.

    It has the methods by which layers read and write states, and none for keys. A layer may also change the
    tensors of the state in place.
    """

    def __init__(self, state: State | None, whole: bool = False) -> None:
        """Args:
        whole: a single token is convolved as several are, so that its inputs are seen here.
        """
        self.state: State = {} if state is None else state
        self.whole = whole
        self.inputs: Tensor | None = None

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The last inputs of a convolution; None at the beginning of a text."""
        return self.state.get(("convolution", state_idx))

    def update_conv_state(
        self,
        conv_states: Float[Tensor, "B D S"],
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_options: Any,
    ) -> Float[Tensor, "B D S2"]:
        """Keep as many inputs as the convolution is wide; return the kept ones before, and the new."""
        before = self.get_conv_state(layer_idx, state_idx)
        self.inputs = conv_states
        known = conv_states if before is None else torch.cat([before, conv_states], -1)
        width = conv_kernel_size or known.shape[-1]
        known = nn.functional.pad(known, (max(0, width - known.shape[-1]), 0))
        self.state["convolution", state_idx] = known[..., -width:].clone()
        return known

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The state after the last token; None at the beginning of a text."""
        return self.state.get(("recurrent", state_idx))

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_options: Any
    ) -> Tensor:
        """Keep the state after the last token."""
        self.state["recurrent", state_idx] = recurrent_states
        return recurrent_states

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Whether this is not the beginning of a text."""
        return bool(self.state)

    def is_recording_past(self, layer_idx: int) -> bool:
        """Whether a single token is convolved as several are."""
        return self.whole

    def get_linear_cache(self, layer_idx: int) -> Tensor | None:
        """The sum of keys times values; None at the beginning of a text."""
        return self.state.get("linear")

    def set_linear_cache(self, layer_idx: int, linear_cache: Tensor) -> None:
        """Keep the sum of keys times values."""
        self.state["linear"] = linear_cache
