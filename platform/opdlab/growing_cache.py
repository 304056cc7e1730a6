"""Keys and values of the rows being decoded: written in place, grown by doubling, refilled by place."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from opdlab.shapes import Bool, Int, Tensor


class GrowingLayer(DynamicLayer):
    """One layer's buffers; the columns in use are the whole cache's.

    It keeps every key, also where the model's attention slides: the model masks by column, and a cache
    that evicts keys would shift the columns.
    """

    def __init__(self, owner: GrowingCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.owner = owner
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the column of the current step; return the columns in use, it included."""
        begin, end = self.owner.begin, self.owner.end
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        keys[:, :, end : end + 1] = key_states
        values[:, :, end : end + 1] = value_states
        return keys[:, :, begin : end + 1], values[:, :, begin : end + 1]

    def get_seq_length(self) -> int:
        return self.owner.end - self.owner.begin

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


class GrowingCache(Cache):
    """A cache of B places in which every row ends at the same column.

    So a step writes one slice, and a row that takes a freed place is laid left of the current column,
    however long the others are. Columns `begin` to `end` are in use; row b has its tokens in columns
    `start[b]` to `end`.
    """

    def __init__(self, places: int) -> None:
        super().__init__(layers=[])
        self.layers: list[Any]
        self.begin = self.end = 0
        self.capacity = 0
        self.start = [0] * places
        self.visible: Bool[Tensor, "B capacity"] | None = None

    def fill(
        self, places: list[int], prefilled: Cache, source: list[int], lengths: list[int]
    ) -> None:
        """Lay the first `lengths[i]` columns of row `source[i]` of `prefilled` into `places[i]`."""
        device = _keys(prefilled.layers[0]).device
        width = _keys(prefilled.layers[0]).shape[-2]
        if not self.layers:
            self._allocate(prefilled)
        if self.end < width:
            self._move(width, max(self.capacity, 2 * width))
        place = torch.tensor(places, device=device)
        row = torch.tensor(source, device=device)[:, None]
        shift = torch.tensor([width - n for n in lengths], device=device)[:, None]
        column = (torch.arange(width, device=device) - shift).clamp_min(0)
        for new, old in zip(prefilled.layers, self.layers, strict=True):
            for theirs, ours in ((_keys(new), _keys(old)), (_values(new), _values(old))):
                laid = theirs.transpose(1, 2)[row, column].transpose(1, 2)
                ours[place, :, self.end - width : self.end] = laid
        for b, n in zip(places, lengths, strict=True):
            self.start[b] = self.end - n
        self._restrict()

    def advance(self) -> None:
        """Count the column that the last forward wrote, and make room for the next."""
        self.end += 1
        if self.end == self.capacity:
            used = self.end - self.begin
            self._move(used, 2 * used)

    def release(self, place: int) -> None:
        """A row has ended: its columns need not be attended to any more."""
        self.start[place] = self.end

    def keep(self, places: list[int]) -> None:
        """Drop all other places."""
        index = torch.tensor(places, device=_keys(self.layers[0]).device)
        self.start = [self.start[b] for b in places]
        self.begin = min(self.start)
        for layer in self.layers:
            layer.keys, layer.values = _keys(layer)[index], _values(layer)[index]
        self._restrict()

    @property
    def mask(self) -> Bool[Tensor, "B columns"] | None:
        """Which columns, up to the one being written, belong to each row; None where all do."""
        if all(start <= self.begin for start in self.start):
            return None
        assert self.visible is not None
        return self.visible[:, self.begin : self.end + 1]

    @property
    def positions(self) -> Int[Tensor, "B 1"]:
        """Position of the token whose column is being written, in its own row."""
        device = _keys(self.layers[0]).device
        return self.end - torch.tensor(self.start, device=device)[:, None]

    def _allocate(self, like: Cache) -> None:
        for layer in like.layers:
            empty = [x.new_zeros(len(self.start), x.shape[1], 0, x.shape[3]) for x in _both(layer)]
            self.layers.append(GrowingLayer(self, *empty))

    def _move(self, end: int, capacity: int) -> None:
        """Move the columns in use into new buffers so that they end at `end`."""
        used = self.end - self.begin
        for layer in self.layers:
            # Zeros: a masked column has weight 0, and 0 times what an empty buffer holds may be NaN.
            buffers = [x.new_zeros(*x.shape[:2], capacity, x.shape[3]) for x in _both(layer)]
            for new, old in zip(buffers, _both(layer), strict=True):
                new[:, :, end - used : end] = old[:, :, self.begin : self.end]
            layer.keys, layer.values = buffers
        self.start = [max(0, start + end - self.end) for start in self.start]
        self.begin, self.end, self.capacity = end - used, end, capacity
        self._restrict()

    def _restrict(self) -> None:
        device = _keys(self.layers[0]).device
        self.begin = min(self.start)
        start = torch.tensor(self.start, device=device)[:, None]
        self.visible = torch.arange(self.capacity, device=device) >= start


def _keys(layer: Any) -> Tensor:
    return layer.keys


def _values(layer: Any) -> Tensor:
    return layer.values


def _both(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values
