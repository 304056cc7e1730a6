"""Attention of one new token a row over cached keys, of which each row sees a range.

All sizes are fixed and all that changes from step to step is on the device, so that a step can be recorded
once and replayed. Keys that a row does not see are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from opdlab.attention_hook import MaskFunction, Pass, UnsupportedError
from opdlab.leaf_attention import attention_with_lse, bias_of, flash_takes, rule_of, with_sink
from opdlab.shapes import Bool, Float, Int, Tensor

# Blocks of threads that keep a large accelerator busy; a row and key head is one, or several parts are.
_BLOCKS = 264
# Keys of a part, at least: a part has costs of its own.
_PART = 256


@dataclass(frozen=True, eq=False)
class Ranges:
    """Cached columns that each row sees, in parts that are computed side by side.

    Attributes:
        visible: `Bool[B S]`
        first, count: of each part; a part may be empty. `Int[B parts]`
    """

    visible: Bool[Tensor, "B S"]
    first: Int[Tensor, "B parts"]
    count: Int[Tensor, "B parts"]

    @classmethod
    def of(cls, visible: Bool[Tensor, "B S"], parts: int) -> Ranges:
        """Of rows that each see at least one column, and none between two that they do not see."""
        S = visible.shape[1]
        column = torch.arange(S, device=visible.device)
        first = torch.where(visible, column, S).amin(-1, keepdim=True)
        count = torch.where(visible, column, -1).amax(-1, keepdim=True) + 1 - first
        size = (count + parts - 1) // parts
        part = torch.arange(parts, device=visible.device)
        return cls(visible, first + part * size, (count - part * size).clamp_min(0).minimum(size))

    @property
    def whole(self) -> bool:
        """Whether no row sees less than from its first to its last column; waits for the device."""
        return bool((self.visible.sum(-1) == self.count.sum(-1)).all())


@dataclass(eq=False)
class DecodePass(Pass):
    """The last token of every row over that row's cached keys, its own included.

    Attributes:
        start: column of each row's first token. `Int[B one]`
        column: where the token stands. `Int[one]`
    """

    start: Int[Tensor, "B one"]
    column: Int[Tensor, "one"]
    _ranges: dict[int, tuple[MaskFunction, Ranges]] = field(default_factory=dict)

    def mask(self, mask_function: MaskFunction, **options: Any) -> MaskFunction:
        """The model's rule itself: it is evaluated where tokens and keys really stand."""
        return mask_function

    def attend(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "B H 1 D"],
        key: Float[Tensor, "B Hkv S D"],
        value: Float[Tensor, "B Hkv S D2"],
        mask: Any,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Float[Tensor, "H"] | None = None,
        **options: Any,
    ) -> Float[Tensor, "B 1 H D2"]:
        rule = rule_of(mask, options)
        if id(rule) not in self._ranges:
            self._ranges[id(rule)] = (rule, self._seen(rule, key, flash_takes(query)))
        ranges = self._ranges[id(rule)][1]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if softcap is None and key.shape[-1] == value.shape[-1]:
            output, lse = over_ranges(query, key, value, ranges, scale)
        else:
            bias = bias_of(ranges.visible[:, None], query.dtype)
            output, lse = attention_with_lse(query, key, value, bias, scale, softcap)
        if s_aux is not None:
            output = with_sink(output, lse, s_aux)
        return output.transpose(1, 2).contiguous()

    def require_ranges(self) -> None:
        """Refuse rules by which a row skips a column between two that it sees; waits for the device.

        Raises:
            UnsupportedError: so does a layer's.
        """
        if not all(ranges.whole for _, ranges in self._ranges.values()):
            raise UnsupportedError("a token attends to columns that are no range")

    def _seen(self, rule: MaskFunction, key: Float[Tensor, "B Hkv S D"], in_parts: bool) -> Ranges:
        B, heads, S, _ = key.shape
        zero = self.column.new_zeros(1)
        column = torch.arange(S, device=key.device)
        seen = rule(zero, zero, self.column - self.start, column - self.start)
        seen = seen & (column >= self.start) & (column <= self.column)
        parts = max(1, min(_BLOCKS // (B * heads), S // _PART)) if in_parts else 1
        return Ranges.of(seen, parts)


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
    weight = lse.softmax(1)[..., None]
    merged = (output * weight).sum(1).to(query.dtype)
    whole = lse.logsumexp(1)
    return (
        merged.transpose(1, 2).reshape(B, H, 1, D),
        whole.transpose(1, 2).reshape(B, H, 1),
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
    return output, lse.masked_fill((ranges.count == 0)[..., None, None], -torch.inf)


def _masked(
    query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, scale: float
) -> tuple[Tensor, Tensor]:
    parts, G = query.shape[1:3]
    column, first = torch.arange(key.shape[2], device=key.device), ranges.first[..., None]
    inside = (column >= first) & (column < first + ranges.count[..., None])
    lines = query.flatten(0, 1).transpose(1, 2).flatten(1, 2)[:, :, None]
    several = (x.repeat_interleave(parts, 0) if parts > 1 else x for x in (key, value))
    bias = bias_of(inside.flatten(0, 1)[:, None], query.dtype)
    output, lse = attention_with_lse(lines, *several, bias, scale)
    output, lse = (x[:, :, 0].unflatten(1, (-1, G)).transpose(1, 2) for x in (output, lse))
    return output.unflatten(0, (-1, parts)), lse.unflatten(0, (-1, parts))


def flash_by_parts(
    query: Tensor, key: Tensor, value: Tensor, ranges: Ranges, scale: float
) -> tuple[Tensor, Tensor]:
    """By the kernel for sequences of unlike length: each part is one, and reads no other keys."""
    B, parts, G, heads, D = query.shape
    S = key.shape[2]
    place = torch.arange(B, device=key.device)[:, None] * S
    begin = torch.cat([(ranges.first + place).flatten(), place.new_full((1,), B * S)])
    queries = torch.arange(B * parts + 1, device=key.device) * G
    # Keys in the order of their storage: one long sequence of which each part is a stretch.
    flat_key, flat_value = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
    kernel: Any = torch.ops.aten._flash_attention_forward
    output, lse, *_ = kernel(
        query.reshape(-1, heads, D),
        flat_key,
        flat_value,
        queries.int(),
        begin.int(),
        G,
        S,
        0.0,
        False,
        False,
        scale=scale,
        seqused_k=ranges.count.flatten().int(),
    )
    # One line a head in newer versions of the kernel, one a sequence and head in older ones.
    lse = lse.t() if lse.dim() == 2 else lse[..., :G].transpose(1, 2)
    return output.view(B, parts, G, heads, D), lse.reshape(B, parts, G, heads)
