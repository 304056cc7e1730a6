"""Keys and values of the rows being decoded: written in place, grown by parts, refilled by place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from opdlab.sampling.row_states import RowStates
from opdlab.shapes import Bool, Int, Tensor
from opdlab.transfers import sent

_SPARE = 8  # of so many columns in use, one to spare


class PrefilledCache(Cache):
    """What a forward of whole rows computes for the places that these rows will take.

    Attributes:
        width: columns of the rows, filler included.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.width, self.device = width, device


class KeylessLayer:
    """Stands for a layer that keeps no keys."""

    buffers: tuple[Tensor, ...] = ()

    def hold(self, *_buffers: Tensor) -> None:
        """There are none."""


class GrowingLayer(DynamicLayer):
    """One layer's buffers; which columns are in use is the cache's to say.

    Every key is kept, also where the model's attention slides: the model masks by column, and a cache
    that evicts keys would shift the columns.
    """

    def __init__(self, owner: GrowingCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.owner = owner
        self.hold(keys, values)
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Take these as the buffers, `[B heads capacity width]`."""
        self.keys, self.values = self.buffers = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the column of the current step; return the columns in use, it included.

        All columns, where the column to write is the device's to know.
        """
        owner, (keys, values) = self.owner, self.buffers
        if owner.column is not None:
            keys.index_copy_(2, owner.column, key_states.to(keys.dtype))
            values.index_copy_(2, owner.column, value_states.to(values.dtype))
            return keys, values
        keys.narrow(2, owner.end, 1).copy_(key_states)
        values.narrow(2, owner.end, 1).copy_(value_states)
        used = owner.end + 1 - owner.begin
        return keys.narrow(2, owner.begin, used), values.narrow(2, owner.begin, used)

    def get_seq_length(self) -> int:
        """Columns in use before the current step."""
        return self.owner.end - self.owner.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the model's mask spans, and the first of them."""
        return self.get_seq_length() + query_length, 0


class GrowingCache(Cache):
    """A cache of B places in which every row ends at the same column.

    So a step writes one slice, and a row that takes a freed place is laid left of the current column,
    however long the others are. Columns `begin` to `end` are in use; the row in place b has its tokens
    in columns `start[b]` to `end`.

    Attributes:
        column: where steps write, for steps of fixed shapes; None for `end`. `Int[one]`
        dtype: of keys and values; None for the model's.
        states: of recurrent layers, for models that have such.
    """

    def __init__(self, columns: int, states: RowStates | None = None) -> None:
        """Without places; buffers have at least so many columns to spare whenever they are made anew."""
        super().__init__(layers=[])
        self.states = states
        self.device = torch.device("cpu")
        self.layers: list[Any]
        self.begin = self.end = self.capacity = 0
        self.columns = columns
        self.start: list[int] = []
        self.column: Tensor | None = None
        self.dtype: torch.dtype | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use before the current step, also where the first layers keep no keys."""
        return self.end - self.begin

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns that the model's mask spans, and the first of them; the same for all layers."""
        return self.get_seq_length() + query_length, 0

    def capacity_for(self, used: int) -> int:
        """Columns of buffers that are made anew for so many in use.

        An eighth more is enough: columns are moved once in that many steps, each of which reads all of
        them.
        """
        return used + max(self.columns, used // _SPARE)

    def widen(self, places: int) -> None:
        """Add free places at the back, so that there are so many."""
        self.start += [self.end] * (places - len(self.start))
        if self.states is not None:
            self.states.widen(places)
        if self.capacity:
            self.restrict()
            self._move(self.end - self.begin)

    def fill(
        self,
        places: Sequence[int],
        prefilled: PrefilledCache,
        source: Sequence[int],
        lengths: Sequence[int],
        coming: int | None = None,
    ) -> None:
        """Lay the first `lengths[i]` columns of row `source[i]` of `prefilled` into `places[i]`.

        Args:
            coming: columns that these rows will take beyond, at most.
        """
        computed: list[Any] = prefilled.layers
        width, device = prefilled.width, prefilled.device
        self.device = device
        if not self.layers:
            self._allocate(computed)
        if self.end < width:
            self._move(width, coming)
        place = sent(places, device)
        row = sent(source, device)[:, None]
        shift = sent([width - n for n in lengths], device)[:, None]
        column = (torch.arange(width, device=device) - shift).clamp_min(0)
        for new, old in zip(computed, self.layers, strict=True):
            if isinstance(old, KeylessLayer):
                continue
            for theirs, ours in zip((new.keys, new.values), old.buffers, strict=True):
                laid = theirs.transpose(1, 2)[row, column].transpose(1, 2)
                ours[place, :, self.end - width : self.end] = laid.to(ours.dtype)
        for b, n in zip(places, lengths, strict=True):
            self.start[b] = self.end - n

    def reserve(self, coming: int) -> None:
        """Make room for the column of the next step; at most so many will come, if no place is refilled."""
        if self.end == self.capacity:
            self._move(self.end - self.begin, coming)

    def keep(self, places: Sequence[int]) -> list[int]:
        """Drop all other places. Returns the old place of each new one.

        Rows at the back move into the gaps, so the cost is that of the rows dropped, not of those kept.
        """
        kept = list(range(len(places)))
        stay = set(places)
        late = [b for b in places if b >= len(places)]
        gaps = [b for b in kept if b not in stay]
        for gap, b in zip(gaps, late, strict=True):
            kept[gap] = b
        if gaps:
            self._move_rows(late, gaps)
        for layer in self.layers:
            layer.hold(*(buffer[: len(kept)] for buffer in layer.buffers))
        if self.states is not None:
            self.states.keep(len(kept))
        self.start = [self.start[b] for b in kept]
        return kept

    def _move_rows(self, places: list[int], to: list[int]) -> None:
        old, new = sent(places, self.device), sent(to, self.device)
        if self.states is not None:
            self.states.move(old, new)
        for layer in self.layers:
            for buffer in layer.buffers:
                columns = buffer[:, :, self.begin : self.end]
                columns[new] = columns[old]

    def restrict(self) -> None:
        """Leave out columns that no row has tokens in."""
        self.begin = min(self.start)

    def visible(self) -> Bool[Tensor, "B capacity"]:
        """Which columns of the buffers each row may attend to, from the next step on."""
        start = sent(self.start, self.device)[:, None]
        return torch.arange(self.capacity, device=self.device) >= start

    def positions(self) -> Int[Tensor, "B one"]:
        """Position, in its own row, of each token that the next step writes."""
        return self.end - sent(self.start, self.device)[:, None]

    def _allocate(self, like: Sequence[Any]) -> None:
        for layer in like:
            if not layer.is_initialized:
                self.layers.append(KeylessLayer())
                continue
            empty = [self._zeros(buffer, 0) for buffer in (layer.keys, layer.values)]
            self.layers.append(GrowingLayer(self, *empty))

    def _move(self, end: int, coming: int | None = None) -> None:
        """Move the columns in use into new buffers, so that they end at `end` with room after it."""
        used, capacity = self.end - self.begin, self.capacity_for(end)
        if coming is not None:
            capacity = min(capacity, end + coming)
        for layer in self.layers:
            moved = []
            for old in layer.buffers:
                # Zeros: a masked column has weight 0, and 0 times what an empty buffer holds may be NaN.
                new = self._zeros(old, capacity)
                new[: len(old), :, end - used : end] = old[:, :, self.begin : self.end]
                moved.append(new)
            layer.hold(*moved)
        self.start = [max(0, start + end - self.end) for start in self.start]
        self.begin, self.end, self.capacity = end - used, end, capacity

    def _zeros(self, like: Tensor, capacity: int) -> Tensor:
        """A buffer for all places; tokens lie one after another where a step reads ranges of them."""
        B, heads, width = len(self.start), like.shape[1], like.shape[3]
        if self.column is None:
            return like.new_zeros(B, heads, capacity, width, dtype=self.dtype)
        return like.new_zeros(B, capacity, heads, width, dtype=self.dtype).transpose(1, 2)
