"""The hook into transformers' attention: unchanged model code over tokens that are laid out our way.

Two functions are registered under one name with transformers' attention interfaces. Within `hooked`, a
model calls them in place of its own attention, and they ask the `Pass` that is running what to do. A pass
gets queries, keys and values after rotary embedding, and the model's own rule of who sees whom (causal,
sliding window, chunks ...), so nothing here knows any model family.

Layers that keep a recurrent state go to the running pass, too (`opdlab.modelling.stateful_layers`).

Tokens travel as one flat row without filler. Attention needs them in lines, one a row of the batch; `Lines`
goes there and back.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from opdlab.modelling.foreign import foreign_attention
from opdlab.modelling.head import decoder
from opdlab.modelling.layer_takeover import taken_over
from opdlab.modelling.state_store import StateStore
from opdlab.modelling.stateful_layers import RecurrentLayer, recurrent_layers
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device

NAME = "opdlab"
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class UnsupportedError(Exception):
    """The model's attention cannot be done here; the caller scores it another way."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Where N tokens, sorted by row, stand in R lines of C places, each line filled from the left.

    Attributes:
        slot: place of each token in the flattened lines. `Int[N]`
        token: token in each place; any in a filler. `Int[places]`
    """

    R: int
    C: int
    slot: Int[Tensor, "N"]
    token: Int[Tensor, "places"]

    @classmethod
    def of(cls, row: Int[Tensor, "N"], rows: int) -> Lines:
        """Lines for tokens that belong to these rows."""
        count = torch.bincount(row, minlength=rows)
        C = int(count.max())
        token = torch.arange(len(row), device=row.device)
        slot = token - (count.cumsum(0) - count)[row] + row * C
        filled = token.new_zeros(rows * C)
        filled[slot] = token
        return cls(rows, C, slot, filled)

    def to(self, device: torch.device) -> Lines:
        """The same on a device."""
        return replace(self, slot=to_device(self.slot, device), token=to_device(self.token, device))

    @property
    def whole(self) -> bool:
        """Whether there is no filler, so that both ways are mere views."""
        return len(self.slot) == len(self.token)

    def fill(self, flat: Float[Tensor, "H N D"]) -> Float[Tensor, "R H C D"]:
        """Tokens into lines."""
        if not self.whole:
            flat = flat.index_select(1, self.token)
        return flat.unflatten(1, (self.R, self.C)).transpose(0, 1)

    def empty(self, lines: Float[Tensor, "R C *d"]) -> Float[Tensor, "N *d"]:
        """Lines into tokens."""
        flat = lines.flatten(0, 1)
        return flat if self.whole else flat.index_select(0, self.slot)


@dataclass(frozen=True)
class Own:
    """The attention that a model uses by itself.

    Attributes:
        recurrent: layers of the model that keep a state.
    """

    name: str
    recurrent: int = 0

    def mask(self, lines: Lines, rule: MaskFunction, options: dict[str, Any]) -> Any:
        """What its layers would receive as `attention_mask` for rows in lines."""

        def rule_of_a_line(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            # The model has seen a single row: a rule that looks something up by row knows that one.
            return rule(batch * 0, head, query, key)

        sizes = {"batch_size": lines.R, "q_length": lines.C, "kv_length": lines.C}
        options = {**options, **sizes, "attention_mask": None}
        return AttentionMaskInterface()[self.name](mask_function=rule_of_a_line, **options)

    def attend(self, module: torch.nn.Module, *inputs: Any, **options: Any) -> Tensor:
        """Its attention, `[B C H D]`."""
        if self.name == "eager":
            function = getattr(
                sys.modules[type(module).__module__], "eager_attention_forward", None
            )
            if function is None:
                raise UnsupportedError("its own attention function cannot be found")
        else:
            function = AttentionInterface()[self.name]
        return function(module, *inputs, **options)[0]


class Pass(ABC):
    """What attention does during one forward."""

    @abstractmethod
    def mask(self, mask_function: MaskFunction, **options: Any) -> Any:
        """What the layers receive as their mask, from the model's rule."""

    @abstractmethod
    def attend(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "1 H N D"],
        key: Float[Tensor, "1 Hkv N D"],
        value: Float[Tensor, "1 Hkv N D2"],
        mask: Any,
        **options: Any,
    ) -> Float[Tensor, "1 N H D2"]:
        """Attention of one layer."""

    def recur(
        self,
        layer: RecurrentLayer,
        inputs: Float[Tensor, "1 N H"],
        arguments: dict[str, Any],
    ) -> Float[Tensor, "1 N H"]:
        """What a layer makes of its inputs that keeps a state.

        Args:
            arguments: of its forward.

        Raises:
            UnsupportedError: this pass has no states.
        """
        raise UnsupportedError("its layers keep a recurrent state")


@dataclass(eq=False)
class KeyStore:
    """Keys and values of whole rows by layer, `[B Hkv S D]`, a filler's are 0; states along the rows."""

    B: int
    S: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    states: StateStore = field(init=False)

    def __post_init__(self) -> None:
        self.states = StateStore(self.B, self.S)

    def write(self, layer: int, rows: slice, key: Tensor, value: Tensor) -> None:
        """Keep the first columns of some rows."""
        for store, new in ((self.keys, key), (self.values, value)):
            if layer not in store:
                store[layer] = new.new_zeros(self.B, new.shape[1], self.S, new.shape[3])
            store[layer][rows, :, : new.shape[2]] = new

    def of(self, rows: slice) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Keys and values of some rows: views, so that what is written there is kept."""
        keys = {layer: whole[rows] for layer, whole in self.keys.items()}
        return keys, {layer: whole[rows] for layer, whole in self.values.items()}


@dataclass(eq=False)
class PackedPass(Pass):
    """Rows of unequal length as one flat row: each attends as it would alone, and no filler is computed.

    Attributes:
        store: where keys and values are kept, None for nowhere.
        first_row: of these lines in the store.
        kept: layers whose keys and values are there already.

    Raises:
        UnsupportedError: a layer attends to more than one set of keys or values, of which a store has one.
    """

    own: Own
    lines: Lines
    store: KeyStore | None = None
    first_row: int = 0
    kept: set[int] = field(default_factory=set)

    def mask(self, mask_function: MaskFunction, **options: Any) -> Any:
        return self.own.mask(self.lines, mask_function, options)

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        **options: Any,
    ) -> Tensor:
        query, key, value = (self.lines.fill(x[0]) for x in (query, key, value))
        if self.store is not None:
            layer: Any = module.layer_idx
            if layer in self.kept:
                raise UnsupportedError("its layers attend more than once")
            self.kept.add(layer)
            rows = slice(self.first_row, self.first_row + self.lines.R)
            self.store.write(layer, rows, key, value)
        output = self.own.attend(module, query, key, value, mask, **options)
        return self.lines.empty(output)[None]

    def recur(
        self,
        layer: RecurrentLayer,
        inputs: Float[Tensor, "1 N H"],
        arguments: dict[str, Any],
    ) -> Float[Tensor, "1 N H"]:
        # Filler stands behind the tokens of its line, so no state of a token has seen it.
        lines = self.lines.fill(inputs)[:, 0]
        if self.store is None:
            column = torch.arange(lines.shape[1], device=lines.device).expand(lines.shape[:2])
            output, _ = layer.run(lines, None, column, arguments)
        else:
            rows = slice(self.first_row, self.first_row + self.lines.R)
            output = self.store.states.run(layer, lines, rows, 0, arguments)
        return self.lines.empty(output)[None]


_RUNNING: ContextVar[Pass] = ContextVar("pass")


@contextmanager
def hooked(model: PreTrainedModel) -> Iterator[Own]:
    """Within, the model's attention is that of the running pass; afterwards it is its own again.

    Raises:
        UnsupportedError: the model's attention is not that of transformers' attention interface.
    """
    if (foreign := foreign_attention(model)) is not None:
        # It may see less than masks say.
        raise UnsupportedError(f"its attention {foreign!r} is a custom function")
    before: Any = model.config.get_text_config()._attn_implementation
    decoder(model)  # Found by a forward of the model's own, so before the hook.
    layers = recurrent_layers(model)
    model.set_attn_implementation(NAME)
    try:
        with taken_over(layers, _recur):
            if model.config.get_text_config()._attn_implementation != NAME:
                raise UnsupportedError(
                    "its attention does not use transformers' attention interface"
                )
            yield Own(before, len(layers))
    finally:
        model.set_attn_implementation(before)


@contextmanager
def running(attention: Pass) -> Iterator[None]:
    """Forwards within attend as this pass says."""
    token = _RUNNING.set(attention)
    try:
        yield
    finally:
        _RUNNING.reset(token)


def _mask(*_sizes: Any, mask_function: MaskFunction, **options: Any) -> Any:
    return _RUNNING.get().mask(mask_function, **options)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[Tensor, None]:
    return _RUNNING.get().attend(module, query, key, value, attention_mask, **options), None


def _recur(layer: RecurrentLayer, inputs: Tensor, arguments: dict[str, Any]) -> Tensor:
    return _RUNNING.get().recur(layer, inputs, arguments)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
