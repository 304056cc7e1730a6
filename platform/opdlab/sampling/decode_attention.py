"""Attention of one new token a row over cached keys, of which each row sees a range.

All sizes are fixed and all that changes from step to step is on the device, so that a step can be recorded
once and replayed. Keys that a row does not see are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from opdlab.modelling import MaskFunction, RecurrentLayer, UnsupportedError
from opdlab.sampling.row_states import RowStates
from opdlab.scoring import RulePass, attention_with_lse, bias_of, flash_takes
from opdlab.shapes import Bool, Float, Int, Tensor

# Blocks of threads that keep a large accelerator busy; a row and key head is one, or several parts are.
_BLOCKS = 132
# Keys of a part, at least: a part has costs of its own.
_PART = 256


@dataclass(frozen=True, eq=False)
class Ranges:
    """Cached columns that each row sees, in parts that are computed side by side.

    Attributes:
        columns: of the cache.
        first, count: of each part; only the first of several is never empty. `Int[B parts]`
        begin, used: the same in the order of the cache's storage, as kernels take them. `Int[n]`
    """

    columns: int
    first: Int[Tensor, "B parts"]
    count: Int[Tensor, "B parts"]
    begin: Int[Tensor, "n"]
    used: Int[Tensor, "m"]
    _queries: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, first: Int[Tensor, "B one"], count: Int[Tensor, "B one"], columns: int, parts: int = 1
    ) -> Ranges:
        """Of rows that see so many columns from a first one on, one at least."""
        if parts > 1:
            size = (count + parts - 1) // parts
            start = size * torch.arange(parts, device=first.device)
            first, count = first + start, (count - start).clamp_min(0).minimum(size)
        B = len(first)
        place = torch.arange(B, device=first.device)[:, None] * columns
        begin = torch.nn.functional.pad((first + place).flatten(), (0, 1), value=B * columns)
        return cls(columns, first, count, begin.int(), count.flatten().int())

    def queries(self, each: int) -> Int[Tensor, "n"]:
        """Where the queries of each part begin, if each has so many."""
        if each not in self._queries:
            line = torch.arange(len(self.begin), dtype=torch.int32, device=self.begin.device)
            self._queries[each] = line * each
        return self._queries[each]

    def inside(self) -> Bool[Tensor, "B parts S"]:
        """Which columns are in each part."""
        column, first = torch.arange(self.columns, device=self.first.device), self.first[..., None]
        return (column >= first) & (column < first + self.count[..., None])


def parts_for(blocks: int, columns: int) -> int:
    """Parts of a row, where so many blocks would be busy without them."""
    return max(1, min(_BLOCKS // blocks, columns // _PART))


@dataclass(eq=False)
class DecodePass(RulePass):
    """The last token of every row over that row's cached keys, its own included.

    Attributes:
        start: column of each row's first token. `Int[B one]`
        column: where the token stands. `Int[one]`
        states: of recurrent layers, for models that have such.
    """

    start: Int[Tensor, "B one"]
    column: Int[Tensor, "one"]
    states: RowStates | None = None
    _seen: dict[int, tuple[MaskFunction, Bool[Tensor, "B S"], Ranges]] = field(default_factory=dict)

    def over_keys(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "B H 1 D"],
        key: Float[Tensor, "B Hkv S D"],
        value: Float[Tensor, "B Hkv S D2"],
        rule: MaskFunction,
        scale: float,
        softcap: float | None,
    ) -> tuple[Float[Tensor, "B H 1 D2"], Float[Tensor, "B H 1"]]:
        if id(rule) not in self._seen:
            self._seen[id(rule)] = (rule, *self._ranges(rule, key, flash_takes(query)))
        ranges = self._seen[id(rule)][2]
        if softcap is None and key.shape[-1] == value.shape[-1]:
            return over_ranges(query, key, value, ranges, scale)
        bias = bias_of(ranges.inside().any(1, keepdim=True), query.dtype)
        return attention_with_lse(query, key, value, bias, scale, softcap)

    def recur(
        self, layer: RecurrentLayer, inputs: Float[Tensor, "B one H"], arguments: dict[str, Any]
    ) -> Float[Tensor, "B one H"]:
        if self.states is None:
            return super().recur(layer, inputs, arguments)
        return self.states.step(layer, inputs, self.column - self.start, arguments)

    def require_ranges(self) -> None:
        """Refuse rules by which a row skips a column between two that it sees; waits for the device.

        Raises:
            UnsupportedError: so does a layer's.
        """
        for _, seen, ranges in self._seen.values():
            if not bool((seen.sum(-1) == ranges.count.sum(-1)).all()):
                raise UnsupportedError("a token attends to columns that are no range")

    def _ranges(
        self, rule: MaskFunction, key: Float[Tensor, "B Hkv S D"], in_parts: bool
    ) -> tuple[Bool[Tensor, "B S"], Ranges]:
        B, heads, S, _ = key.shape
        zero = self.column.new_zeros(1)
        column = torch.arange(S, device=key.device)
        seen = rule(zero, zero, self.column - self.start, column - self.start)
        seen = seen & (column >= self.start) & (column <= self.column)
        first = torch.where(seen, column, S).amin(-1, keepdim=True)
        last = torch.where(seen, column, -1).amax(-1, keepdim=True)
        parts = parts_for(B * heads, S) if in_parts else 1
        return seen, Ranges.of(first, last + 1 - first, S, parts)


def over_ranges(
    query: Float[Tensor, "B H 1 D"],
    key: Float[Tensor, "B Hkv S D"],
    value: Float[Tensor, "B Hkv S D"],
    ranges: Ranges,
    scale: float,
) -> tuple[Float[Tensor, "B H 1 D"], Float[Tensor, "B H 1"]]:
    """Attention and the log-sum-exp of its scores, by parts that are merged."""
    (B, H, _, D), heads, parts = query.shape, key.shape[1], ranges.first.shape[1]
    # Query heads of one key head are the queries of a sequence of their own.
    query = query[:, :, 0].unflatten(1, (heads, -1)).transpose(1, 2)
    several = query[:, None].expand(-1, parts, -1, -1, -1)
    output, lse = part_attention(several, key, value, ranges, scale)
    if parts == 1:
        output, lse = output[:, 0], lse[:, 0]
    else:
        weight = lse.softmax(1)[..., None]
        output, lse = (output * weight).sum(1).to(query.dtype), lse.logsumexp(1)
    return (
        output.transpose(1, 2).reshape(B, H, 1, D),
        lse.transpose(1, 2).reshape(B, H, 1),
    )


def part_attention(
    query: Float[Tensor, "B parts G Hkv D"],
    key: Float[Tensor, "B Hkv S D"],
    value: Float[Tensor, "B Hkv S D"],
    ranges: Ranges,
    scale: float,
) -> tuple[Float[Tensor, "B parts G Hkv D"], Float[Tensor, "B parts G Hkv"]]:
    """Of each part by itself; an empty one has the log-sum-exp of nothing."""
    output, lse = (flash_by_parts if flash_takes(query) else _masked)(
        query, key, value, ranges, scale
    )
    if ranges.first.shape[1] > 1:
        lse = lse.masked_fill((ranges.count == 0)[..., None, None], -torch.inf)
    return output, lse


def _masked(
    query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, scale: float
) -> tuple[Tensor, Tensor]:
    parts, G = query.shape[1:3]
    lines = query.flatten(0, 1).transpose(1, 2).flatten(1, 2)[:, :, None]
    if parts > 1:
        key, value = (x.repeat_interleave(parts, 0) for x in (key, value))
    bias = bias_of(ranges.inside().flatten(0, 1)[:, None], query.dtype)
    output, lse = attention_with_lse(lines, key, value, bias, scale)
    output, lse = (x[:, :, 0].unflatten(1, (-1, G)).transpose(1, 2) for x in (output, lse))
    return output.unflatten(0, (-1, parts)), lse.unflatten(0, (-1, parts))


def flash_by_parts(
    query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, scale: float
) -> tuple[Tensor, Tensor]:
    """By the kernel for sequences of unlike length: each part is one, and reads no other keys."""
    B, parts, G, heads, D = query.shape
    # Keys in the order of their storage: one long sequence of which each part is a stretch.
    flat_key, flat_value = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
    kernel: Any = torch.ops.aten._flash_attention_forward
    output, lse, *_ = kernel(
        query.reshape(-1, heads, D),
        flat_key,
        flat_value,
        ranges.queries(G),
        ranges.begin,
        G,
        ranges.columns,
        0.0,
        False,
        False,
        scale=scale,
        seqused_k=ranges.used,
    )
    # One line a head in newer versions of the kernel, one a sequence and head in older ones.
    lse = lse.t() if lse.dim() == 2 else lse[..., :G].transpose(1, 2)
    return output.view(B, parts, G, heads, D), lse.reshape(B, parts, G, heads)
