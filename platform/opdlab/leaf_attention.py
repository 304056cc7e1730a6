"""Attention of leaves: candidate tokens that see a cached trunk and themselves.

A leaf is a candidate that stands in for the token at some column of a row. It attends to the row's keys
before that column and to itself, and no other token sees it. So its attention is attention over cached
keys, merged by log-sum-exp with its own key and value, which are then thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from opdlab.attention_hook import Lines, MaskFunction, Own, Pass, UnsupportedError
from opdlab.shapes import Float, Int, Tensor
from opdlab.vocabulary_loss import slices

# Keys that all leaves of a pass see are worth an unmasked call of their own from this many.
_WORTH_A_CALL = 256
_LEAVES_AT_A_TIME = 64


@dataclass(frozen=True, eq=False)
class Stretch:
    """Keys `start` to `stop`; `bias` is added to the scores, None where all leaves see all keys."""

    start: int
    stop: int
    bias: Float[Tensor, "R 1 C S"] | None


@dataclass(eq=False)
class LeafPass(Pass):
    """Leaves of R rows over those rows' cached keys and values.

    Attributes:
        own: the attention that the trunk ran with.
        keys, values: by layer. `Float[R Hkv S D]`
        lines: the leaves in lines. A token beyond them attends to itself alone.
        column: where the leaves stand. `Int[N]`
    """

    own: Own
    keys: Mapping[int, Float[Tensor, "R Hkv S D"]]
    values: Mapping[int, Float[Tensor, "R Hkv S D2"]]
    lines: Lines
    column: Int[Tensor, "N"]
    reached: set[int] = field(default_factory=set)
    _stretches: dict[int, tuple[MaskFunction, list[Stretch]]] = field(default_factory=dict)

    def mask(self, mask_function: MaskFunction, **options: Any) -> MaskFunction:
        """The model's rule itself: it is evaluated where leaves and keys really stand."""
        return mask_function

    def attend(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "1 H N D"],
        key: Float[Tensor, "1 Hkv N D"],
        value: Float[Tensor, "1 Hkv N D2"],
        mask: Any,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Float[Tensor, "H"] | None = None,
        **options: Any,
    ) -> Float[Tensor, "1 N H D2"]:
        for name in ("position_bias", "indices", "block_indices"):
            if options.get(name) is not None:
                raise UnsupportedError(f"its attention depends on {name}")
        if not callable(mask):
            raise UnsupportedError("its attention layers do not receive the rule of their mask")
        rule: Any = mask
        if self.own.name == "sdpa":
            # It knows neither: it raises, or in older versions leaves them out of the trunk too.
            softcap = s_aux = None
        layer: Any = module.layer_idx
        self.reached.add(layer)
        N = len(self.column)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output, lse = self._over_trunk(layer, query[0, :, :N], rule, scale, softcap)

        groups = query.shape[1] // key.shape[1]
        own_key, own_value = (x[0].repeat_interleave(groups, 0) for x in (key, value))
        score = _cap((query[0] * own_key).sum(-1, dtype=torch.float32) * scale, softcap)[:, :N]
        output = torch.lerp(output, own_value[:, :N], share(score - lse, output))
        if s_aux is not None:
            # A sink takes its share of the weights and gives nothing.
            output = output * share(torch.logaddexp(lse, score) - s_aux[:, None].float(), output)
        if query.shape[2] > N:
            output = torch.cat([output, own_value[:, N:]], 1)
        return output.transpose(0, 1)[None].contiguous()

    def _over_trunk(
        self,
        layer: int,
        query: Float[Tensor, "H N D"],
        rule: MaskFunction,
        scale: float,
        softcap: float | None,
    ) -> tuple[Float[Tensor, "H N D2"], Float[Tensor, "H N"]]:
        if id(rule) not in self._stretches:
            self._stretches[id(rule)] = (rule, self._cut(rule, query.dtype))
        lines = self.lines.fill(query)
        merged: tuple[Tensor, Tensor] | None = None
        for stretch in self._stretches[id(rule)][1]:
            part = slice(stretch.start, stretch.stop)
            keys, values = self.keys[layer][:, :, part], self.values[layer][:, :, part]
            found = attention_with_lse(lines, keys, values, stretch.bias, scale, softcap)
            merged = found if merged is None else _merge(*merged, *found)
        assert merged is not None
        output, lse = merged
        return (
            self.lines.empty(output.transpose(1, 2)).transpose(0, 1),
            self.lines.empty(lse.transpose(1, 2)).transpose(0, 1),
        )

    def _cut(self, rule: MaskFunction, dtype: torch.dtype) -> list[Stretch]:
        """The keys that the leaves see, cut where an unmasked call pays."""
        column = self.column[self.lines.token].view(self.lines.R, self.lines.C, 1)
        zero, S = column.new_zeros(1), int(column.max())

        def seen(leaves: slice, keys: slice) -> Tensor:
            key = torch.arange(keys.start, keys.stop, device=column.device)
            place = column[:, leaves]
            return rule(zero, zero, place, key) & (key < place)

        # Some leaves at a time: what all see of all keys would grow with the row.
        blocks = list(slices(self.lines.C, _LEAVES_AT_A_TIME))
        cuts, open_from = [0, S], -1
        if S > _WORTH_A_CALL:
            some = torch.zeros(S, dtype=torch.bool, device=column.device)
            every = ~some
            for block in blocks:
                part = seen(block, slice(0, S))
                some |= part.any(1).any(0)
                every &= part.all(1).all(0)
            by_some, by_all = some.nonzero(), every.nonzero()
            if len(by_some):
                cuts = [int(by_some[0]), int(by_some[-1]) + 1]
            if _WORTH_A_CALL <= len(by_all) == int(by_all[-1] - by_all[0]) + 1:
                open_from = int(by_all[0])
                cuts = sorted({*cuts, open_from, int(by_all[-1]) + 1})
        # Finite, so that a leaf that sees no key of a stretch gets a weight of exactly 0 in the merge
        # instead of NaN.
        never = torch.finfo(dtype).min / 2
        stretches = []
        for left, right in pairwise(cuts):
            bias = None
            if left != open_from:
                size = self.lines.R, 1, self.lines.C, right - left
                bias = torch.zeros(size, dtype=dtype, device=column.device)
                for block in blocks:
                    unseen = ~seen(block, slice(left, right))
                    bias[:, 0, block].masked_fill_(unseen, never)
            stretches.append(Stretch(left, right, bias))
        return stretches


def share(lead: Float[Tensor, "*n"], like: Tensor) -> Float[Tensor, "*n 1"]:
    """Weight of one of two parts, from the difference of their log-sum-exps."""
    return torch.sigmoid(lead)[..., None].to(like.dtype)


def _merge(output: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    output = torch.lerp(output, other, share(other_lse - lse, output))
    return output, torch.logaddexp(lse, other_lse)


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
