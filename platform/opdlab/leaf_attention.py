"""The hook into transformers by which candidate tokens attend to a cached trunk.

A leaf is a candidate that stands in for the token at some column of a row. It attends to the row's keys
before that column and to itself, and no other token sees it. So its attention is attention over cached
keys, merged by log-sum-exp with its own key and value, which are then thrown away: leaves of many rows
and columns run as one flat row of tokens through the unchanged model code.

Two functions are registered under one name with transformers' attention interfaces. The mask function hands
the model's own rule (causal, sliding window, chunked ...) through to the attention function, which
evaluates it at the columns where the leaves stand. Nothing is known here about any model family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from opdlab.shapes import Float, Int, Tensor

NAME = "opdlab_leaves"
# A stretch of keys that all leaves of a pass may see is worth an unmasked call of its own from this length.
_WORTH_A_CALL = 256

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class UnsupportedError(Exception):
    """The model's attention cannot be reproduced here; the caller scores it another way."""


@dataclass(frozen=True, eq=False)
class _Stretch:
    """Keys `start` to `stop`; `bias` is added to the scores, None where all leaves see all keys."""

    start: int
    stop: int
    bias: Float[Tensor, "R 1 C S"] | None


@dataclass(eq=False)
class LeafPass:
    """One forward of some leaves over the cached trunk of R rows.

    Attributes:
        keys, values: of each layer, as cached. `Float[R Hkv S D]`
        column: where the leaves stand, a line for each row, short lines filled up. `Int[R C]`
        slot: place of each leaf in the flattened `column`. `Int[N]`
        leaf: leaf in each place of the flattened `column`; any leaf in a filler. `Int[R*C]`
        first: column at which each row begins; what is before is filler. `Int[R]`
        reached: layers whose attention came here.
    """

    keys: Sequence[Float[Tensor, "R Hkv S D"]]
    values: Sequence[Float[Tensor, "R Hkv S D2"]]
    column: Int[Tensor, "R C"]
    slot: Int[Tensor, "N"]
    leaf: Int[Tensor, "R*C"]
    first: Int[Tensor, "R"] | None = None
    reached: set[int] = field(default_factory=set)
    _stretches: dict[int, tuple[MaskFunction, list[_Stretch]]] = field(default_factory=dict)

    def cached(self, layer: int, stretch: _Stretch) -> tuple[Tensor, Tensor]:
        """Keys and values of a stretch."""
        part = slice(stretch.start, stretch.stop)
        return self.keys[layer][:, :, part], self.values[layer][:, :, part]

    def fill(self, flat: Float[Tensor, "H N D"]) -> Float[Tensor, "R H C D"]:
        """The leaves' vectors in lines, one line a row."""
        if len(self.column) == 1:
            return flat[None, :, : len(self.slot)]
        return flat.index_select(1, self.leaf).unflatten(1, self.column.shape).transpose(0, 1)

    def empty(self, block: Float[Tensor, "R H C *d"]) -> Float[Tensor, "H N *d"]:
        """The reverse of `fill`."""
        flat = block.transpose(0, 1).flatten(1, 2)
        return flat if len(self.column) == 1 else flat.index_select(1, self.slot)

    def stretches(self, mask: MaskFunction, dtype: torch.dtype) -> list[_Stretch]:
        """The keys that the leaves see under a rule, cut where an unmasked call pays."""
        if id(mask) not in self._stretches:
            self._stretches[id(mask)] = (mask, self._cut(mask, dtype))
        return self._stretches[id(mask)][1]

    def _cut(self, mask: MaskFunction, dtype: torch.dtype) -> list[_Stretch]:
        column = self.column[:, :, None]
        key = torch.arange(int(column.max()), device=column.device)
        zero = key.new_zeros(1)
        seen = mask(zero, zero, column, key) & (key < column)
        if self.first is not None:
            seen &= key >= self.first[:, None, None]
        by_some, by_all = seen.any(1).any(0).nonzero(), seen.all(1).all(0).nonzero()
        start, stop = (int(by_some[0]), int(by_some[-1]) + 1) if len(by_some) else (0, 1)
        cuts = [start, stop]
        if _WORTH_A_CALL <= len(by_all) == int(by_all[-1] - by_all[0]) + 1:
            cuts = sorted({start, int(by_all[0]), int(by_all[-1]) + 1, stop})
        # Finite, so that a leaf that sees no key of a stretch gets a weight of exactly 0 in the merge
        # instead of NaN.
        never = torch.finfo(dtype).min / 2
        stretches = []
        for left, right in zip(cuts[:-1], cuts[1:], strict=True):
            part = seen[:, None, :, left:right]
            bias = torch.zeros(part.shape, dtype=dtype, device=part.device)
            everything = len(cuts) > 2 and left == int(by_all[0])
            stretches.append(
                _Stretch(left, right, None if everything else bias.masked_fill_(~part, never))
            )
        return stretches


_CURRENT: ContextVar[LeafPass] = ContextVar("leaf pass")


@contextmanager
def leaf_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model's attention is that of leaves; afterwards it is what it was.

    Raises:
        UnsupportedError: the model does not go through transformers' attention interface.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if model.config._attn_implementation != NAME:
            raise UnsupportedError("its attention does not use transformers' attention interface")
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)


@contextmanager
def running(leaves: LeafPass) -> Iterator[None]:
    """Forwards within attend for these leaves."""
    token = _CURRENT.set(leaves)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _hand_on_the_rule(*_sizes: Any, mask_function: MaskFunction, **_options: Any) -> MaskFunction:
    return mask_function


def _attend(
    module: torch.nn.Module,
    query: Float[Tensor, "1 H N D"],
    key: Float[Tensor, "1 Hkv N D"],
    value: Float[Tensor, "1 Hkv N D2"],
    attention_mask: Any,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Float[Tensor, "H"] | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "1 N H D2"], None]:
    """Attention of leaves, in the signature that transformers calls."""
    for name in ("position_bias", "indices", "block_indices"):
        if options.get(name) is not None:
            raise UnsupportedError(f"its attention depends on {name}")
    if not callable(attention_mask):
        raise UnsupportedError("its attention layers do not receive the rule of their mask")
    leaves = _CURRENT.get()
    layer: Any = module.layer_idx
    leaves.reached.add(layer)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    stretches = leaves.stretches(attention_mask, query.dtype)
    groups = query.shape[1] // key.shape[1]
    own_key, own_value = (x[0].repeat_interleave(groups, 0) for x in (key, value))

    block = leaves.fill(query[0])
    parts = [
        attention_with_lse(block, *leaves.cached(layer, stretch), stretch.bias, scale, softcap)
        for stretch in stretches
    ]
    output, lse = parts[0]
    for part, part_lse in parts[1:]:
        output = torch.lerp(output, part, _share(part_lse - lse, output))
        lse = torch.logaddexp(lse, part_lse)
    output, lse = leaves.empty(output), leaves.empty(lse)

    score = _cap((query[0] * own_key).sum(-1, dtype=torch.float32) * scale, softcap)
    score = score[:, : len(leaves.slot)]
    output = torch.lerp(output, own_value[:, : len(leaves.slot)], _share(score - lse, output))
    if s_aux is not None:
        # A sink takes its share of the weights and gives nothing.
        output = output * _share(torch.logaddexp(lse, score) - s_aux[:, None].float(), output)
    anchor = own_value[:, len(leaves.slot) :]
    if anchor.shape[1]:
        output = torch.cat([output, anchor], 1)
    return output.transpose(0, 1)[None].contiguous(), None


def _share(lead: Float[Tensor, "*n"], like: Tensor) -> Float[Tensor, "*n 1"]:
    """Weight of one of two parts, from the difference of their log-sum-exps."""
    return torch.sigmoid(lead)[..., None].to(like.dtype)


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def attention_with_lse(
    query: Float[Tensor, "R H C D"],
    key: Float[Tensor, "R Hkv S D"],
    value: Float[Tensor, "R Hkv S D2"],
    bias: Float[Tensor, "R 1 C S"] | None,
    scale: float,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "R H C D2"], Float[Tensor, "R H C"]]:
    """Attention, and the log-sum-exp of its scores in float32, by which parts are merged."""
    if query.device.type == "cpu" and softcap is None and key.shape[-1] == value.shape[-1]:
        return _flash_on_cpu(query, key, value, bias, scale)
    shape = (*query.shape[:-1], value.shape[-1])
    # Query heads of one key head as more rows: keys are not repeated.
    query = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = _cap((query @ key.transpose(-1, -2)).float() * scale, softcap)
    if bias is not None:
        scores = scores + bias.repeat(1, 1, scores.shape[2] // bias.shape[2], 1)
    lse = scores.logsumexp(-1)
    output = (scores - lse[..., None]).exp_().to(value.dtype) @ value
    return output.reshape(shape), lse.reshape(shape[:-1])


def _flash_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    R, H, C, _ = query.shape
    groups = H // key.shape[1]
    if R == 1 and groups > 1:
        # Key heads as the batch: the heads of a group share their keys without a copy.
        query = query[0].unflatten(0, (-1, groups))
        key, value = (x[0][:, None].expand(-1, groups, -1, -1) for x in (key, value))
    elif groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, False, attn_mask=bias, scale=scale
    )
    return output.reshape(R, H, C, -1), lse.reshape(R, H, C)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _hand_on_the_rule)
