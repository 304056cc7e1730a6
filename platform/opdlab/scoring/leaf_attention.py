"""Attention of leaves: candidate tokens that see a cached trunk and themselves.

A leaf is a candidate that stands in for the token at some column of a row. It attends to the row's keys
before that column and to itself, and no other token sees it. So its attention is attention over cached
keys, merged by log-sum-exp with its own key and value, which are then thrown away.
"""

from __future__ import annotations

import inspect
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from transformers.masking_utils import and_masks, causal_mask_function, sliding_window_overlay

from opdlab.modelling import (
    Lines,
    MaskFunction,
    Own,
    Pass,
    RecurrentLayer,
    UnsupportedError,
    slices,
)
from opdlab.scoring.recurrent_leaves import RecurrentLeaves
from opdlab.shapes import Bool, Float, Int, Tensor

# Keys that all leaves of a pass see are worth an unmasked call of their own from this many.
WORTH_A_CALL = 256
# Leaves of a line that share their other keys, under a mask: more of them compute more that it throws away,
# and fewer make the products small. An accelerator would wait for so many small products as a CPU likes.
_STAIR, _STAIR_ON_ACCELERATOR = 128, 2048
# The library's rules that are known without being asked.
_WINDOW, _AND = sliding_window_overlay(1).__code__, and_masks().__code__


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some leaves of every line over some keys.

    Attributes:
        leaves: places in the lines.
        keys: columns of the rows.
        bias: added to the scores, None where all these leaves see all these keys.
    """

    leaves: slice
    keys: slice
    bias: Float[Tensor, "R 1 c s"] | None


@dataclass(frozen=True, eq=False)
class Cut:
    """The keys that the leaves of a pass see.

    Leaves stand in order of their columns, so what they see under a causal rule is a staircase: a block
    that all see, and beside it a few steps, which are cheaper than a masked block of all the rest. Steps
    of an accelerator are few and each has an unmasked block of its own.

    Attributes:
        shared: what all leaves see, where an unmasked call pays for it.
        steps: some leaves each, one after another, and the other keys that they see.
    """

    shared: Stretch | None
    steps: list[tuple[slice, list[Stretch]]]


@dataclass(eq=False)
class RulePass(Pass):
    """Attention over cached keys, of which the model's rule says who sees which.

    Attributes:
        own: the attention that the model uses by itself.
    """

    own: Own

    def mask(self, mask_function: MaskFunction, **options: Any) -> MaskFunction:
        """The model's rule itself: it is evaluated where tokens and keys really stand."""
        return mask_function

    def attend(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "B H n D"],
        key: Float[Tensor, "B Hkv S D"],
        value: Float[Tensor, "B Hkv S D2"],
        mask: Any,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Float[Tensor, "H"] | None = None,
        **options: Any,
    ) -> Float[Tensor, "B n H D2"]:
        rule = rule_of(mask, options)
        if self.own.name == "sdpa":
            # It knows neither: it raises, or in older versions leaves them out.
            softcap = s_aux = None
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output, lse = self.over_keys(module, query, key, value, rule, scale, softcap)
        if s_aux is not None:
            output = with_sink(output, lse, s_aux)
        return output.transpose(1, 2).contiguous()

    @abstractmethod
    def over_keys(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "B H n D"],
        key: Float[Tensor, "B Hkv S D"],
        value: Float[Tensor, "B Hkv S D2"],
        rule: MaskFunction,
        scale: float,
        softcap: float | None,
    ) -> tuple[Float[Tensor, "B H n D2"], Float[Tensor, "B H n"]]:
        """Attention of a layer, and the log-sum-exp of its scores."""


@dataclass(eq=False)
class Chain:
    """Tokens that stand between the trunk and the leaves of a pass: each leaf sees those of its own chain.

    Attributes:
        column: where each of them stands, the first one first. `Int[N]`
        keys, values: theirs, by layer. `Float[Hkv N D]`
    """

    column: list[Int[Tensor, "N"]] = field(default_factory=list)
    keys: dict[int, list[Float[Tensor, "Hkv N D"]]] = field(default_factory=dict)
    values: dict[int, list[Float[Tensor, "Hkv N D2"]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.column)

    def keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Take the leaves of a pass into the chains."""
        # Views would hold what was computed together with them.
        self.keys.setdefault(layer, []).append(key.contiguous())
        self.values.setdefault(layer, []).append(value.contiguous())

    def restrict(self, leaves: Int[Tensor, "n"]) -> None:
        """Go on with the chains of these leaves alone; never are all keys there twice."""
        self.column = [one[leaves] for one in self.column]
        for parts in (*self.keys.values(), *self.values.values()):
            parts[:] = [one.index_select(1, leaves) for one in parts]


@dataclass(eq=False)
class LeafPass(RulePass):
    """Leaves of R rows over those rows' cached keys and values.

    Attributes:
        keys, values: by layer. `Float[R Hkv S D]`
        lines: the leaves in lines.
        column: where the leaves stand. `Int[N]`
        places: the same in the lines, on the host; without, and for rules other than of causal rows and
            windows, it waits for a device once for each rule.
        recurrent: the same leaves for layers that keep a state, of models that have such.
        chain: what stands between the trunk and the leaves, which join it; None where they stay alone.
        reached, recurred: layers that have attended here, and those that have taken a step.
    """

    keys: Mapping[int, Float[Tensor, "R Hkv S D"]]
    values: Mapping[int, Float[Tensor, "R Hkv S D2"]]
    lines: Lines
    column: Int[Tensor, "N"]
    places: Int[Tensor, "R C"] | None = None
    recurrent: RecurrentLeaves | None = None
    chain: Chain | None = None
    reached: set[int] = field(default_factory=set)
    recurred: set[int] = field(default_factory=set)
    _cuts: dict[int, tuple[MaskFunction, Cut]] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """Whether leaves are cut as a CPU likes them."""
        return self.column.device.type == "cpu"

    def over_keys(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "1 H N D"],
        key: Float[Tensor, "1 Hkv N D"],
        value: Float[Tensor, "1 Hkv N D2"],
        rule: MaskFunction,
        scale: float,
        softcap: float | None,
    ) -> tuple[Float[Tensor, "1 H N D2"], Float[Tensor, "1 H N"]]:
        layer: Any = module.layer_idx
        self.reached.add(layer)
        output, lse = self._over_trunk(layer, query[0], rule, scale, softcap)

        def beside(key: Tensor, value: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
            """What is found with one key more of each leaf's own."""
            groups = len(query[0]) // len(key)
            key, value = (x.repeat_interleave(groups, 0) for x in (key, value))
            score = _cap((query[0] * key).sum(-1, dtype=torch.float32) * scale, softcap)
            if seen is not None:
                score = score.where(seen, -torch.inf)
            mixed = torch.lerp(output, value, share(score - lse, output))
            return mixed, torch.logaddexp(lse, score)

        if self.chain is not None:
            zero = self.column.new_zeros(1)
            for place, column in enumerate(self.chain.column):
                before = self.chain.keys[layer][place], self.chain.values[layer][place]
                output, lse = beside(*before, rule(zero, zero, self.column, column))
            self.chain.keep(layer, key[0], value[0])
        output, lse = beside(key[0], value[0], None)
        return output[None], lse[None]

    def recur(
        self,
        layer: RecurrentLayer,
        inputs: Float[Tensor, "1 N H"],
        arguments: dict[str, Any],
    ) -> Float[Tensor, "1 N H"]:
        if self.recurrent is None:
            return super().recur(layer, inputs, arguments)
        self.recurred.add(layer.index)
        return self.recurrent.run(layer, inputs[0], arguments)[None]

    def _over_trunk(
        self,
        layer: int,
        query: Float[Tensor, "H N D"],
        rule: MaskFunction,
        scale: float,
        softcap: float | None,
    ) -> tuple[Float[Tensor, "H N D2"], Float[Tensor, "H N"]]:
        if id(rule) not in self._cuts:
            self._cuts[id(rule)] = (rule, self._cut(rule, query.dtype))
        cut, lines = self._cuts[id(rule)][1], self.lines.fill(query)
        keys, values = self.keys[layer], self.values[layer]

        def over(stretch: Stretch) -> tuple[Tensor, Tensor]:
            some = (keys[:, :, stretch.keys], values[:, :, stretch.keys], stretch.bias)
            return attention_with_lse(lines[:, :, stretch.leaves], *some, scale, softcap)

        shared = None if cut.shared is None else over(cut.shared)
        found = []
        for leaves, stretches in cut.steps:
            parts = [over(stretch) for stretch in stretches]
            if shared is not None:
                parts.append((shared[0][:, :, leaves], shared[1][:, :, leaves]))
            found.append(reduce(_merge, parts))
        output, lse = (torch.cat(parts, 2) for parts in zip(*found, strict=True))
        return (
            self.lines.empty(output.transpose(1, 2)).transpose(0, 1),
            self.lines.empty(lse.transpose(1, 2)).transpose(0, 1),
        )

    def _cut(self, rule: MaskFunction, dtype: torch.dtype) -> Cut:
        column = self.column[self.lines.token].view(self.lines.R, self.lines.C, 1)
        zero = column.new_zeros(1)
        past = 0 if self.chain is None else len(self.chain)
        S = int((column if self.places is None else self.places).max()) - past

        def seen(leaves: slice, keys: slice) -> Tensor:
            key = torch.arange(keys.start, keys.stop, device=column.device)
            place = column[:, leaves]
            return rule(zero, zero, place, key) & (key < place - past)

        # Some leaves at a time: what all see of all keys would grow with the row.
        on_cpu = self.on_cpu
        stair = _stair(on_cpu) if S > WORTH_A_CALL else self.lines.C
        steps = list(slices(self.lines.C, stair))
        reach = reach_of(rule)
        if reach is not None and self.places is not None:
            known = (_seen_within(self.places[:, leaves], reach, S, past) for leaves in steps)
        else:
            known = (_seen_by(seen(leaves, slice(0, S))) for leaves in steps)
        *ends, whole = _extents(known)
        found = []
        for leaves, some, solid in zip(steps, ends[::2], ends[1::2], strict=True):
            # A leaf that sees no key needs one to be kept from.
            first, last = some[:2] if some[2] else (0, 1)
            left, right = _solid(whole if on_cpu else solid)
            spans = [slice(first, left), slice(right, last)] if right else [slice(first, last)]
            stretches = [
                Stretch(leaves, keys, bias_of(seen(leaves, keys), dtype))
                for keys in spans
                if keys.start < keys.stop
            ]
            if right and not on_cpu:
                stretches.append(Stretch(leaves, slice(left, right), None))
            found.append((leaves, stretches))
        left, right = _solid(whole) if on_cpu else (0, 0)
        shared = Stretch(slice(0, self.lines.C), slice(left, right), None) if right else None
        return Cut(shared, found)


def rule_of(mask: Any, options: Mapping[str, Any]) -> MaskFunction:
    """Who sees whom, of a layer that received `mask`.

    Raises:
        UnsupportedError: the layer's attention depends on more than that.
    """
    for name in ("position_bias", "indices", "block_indices"):
        if options.get(name) is not None:
            raise UnsupportedError(f"its attention depends on {name}")
    if not callable(mask):
        raise UnsupportedError("its attention layers do not receive the rule of their mask")
    return mask  # type: ignore[no-any-return]


def with_sink(
    output: Float[Tensor, "*b H n D"], lse: Float[Tensor, "*b H n"], sink: Float[Tensor, "H"]
) -> Float[Tensor, "*b H n D"]:
    """What is left where a sink takes its share of the weights and gives nothing."""
    return output * share(lse - sink[:, None].float(), output)


def _stair(on_cpu: bool) -> int:
    return _STAIR if on_cpu else _STAIR_ON_ACCELERATOR


def reach_of(rule: MaskFunction) -> int | None:
    """Columns that a token sees at most, itself included, by the library's rules of rows and windows;
    None where only the rule itself knows.
    """
    if rule is causal_mask_function:
        return sys.maxsize
    code = getattr(rule, "__code__", None)
    if code not in (_WINDOW, _AND):
        return None
    (inside,) = inspect.getclosurevars(rule).nonlocals.values()
    if code is _WINDOW:
        return inside if isinstance(inside, int) else None
    found = [reach_of(one) for one in inside]
    return None if None in found else min(one for one in found if one is not None)


def _seen_within(
    places: Int[Tensor, "R c"], reach: int, keys: int, past: int
) -> tuple[Bool[Tensor, "S"], Bool[Tensor, "S"]]:
    """As `_seen_by`, of leaves that see so many columns, their own and those `past` the trunk included."""
    ends = places.flatten() - past
    one = torch.ones_like(ends)
    starts = (ends + past - reach + 1).clamp(min=0).minimum(ends)
    change = one.new_zeros(keys + 1).index_add_(0, starts, one)
    seeing = change.index_add_(0, ends, -one)[:keys].cumsum(0)
    return seeing > 0, seeing == len(ends)


def _seen_by(seen: Bool[Tensor, "R c S"]) -> tuple[Bool[Tensor, "S"], Bool[Tensor, "S"]]:
    """Keys that a leaf sees, and keys that all see."""
    return seen.any(1).any(0), seen.all(1).all(0)


def _extents(parts: Iterable[tuple[Bool[Tensor, "S"], Bool[Tensor, "S"]]]) -> list[list[int]]:
    """Of each part, the extents of what a leaf sees and of what all see; last, of what those of all see."""
    found, every = [], None
    for some, all_see in parts:
        every = all_see if every is None else every & all_see
        found += [_extent(some), _extent(all_see)]
    assert every is not None
    return torch.stack([*found, _extent(every)]).tolist()


def _extent(some: Bool[Tensor, "S"]) -> Int[Tensor, "3"]:
    """The first of these, one after the last, and how many they are."""
    place, S = torch.arange(len(some), device=some.device), len(some)
    first, last = torch.where(some, place, S).amin(), torch.where(some, place, -1).amax()
    return torch.stack([first, last + 1, some.sum()])


def _solid(extent: Sequence[int]) -> tuple[int, int]:
    """A block of keys without a gap that is worth a call of its own; (0, 0) for none."""
    first, end, count = extent
    return (first, end) if end - first == count >= WORTH_A_CALL else (0, 0)


def bias_of(seen: Bool[Tensor, "R c s"], dtype: torch.dtype) -> Float[Tensor, "R 1 c s"]:
    """What keeps leaves from keys: finite, so that one which sees no key of a stretch gets a weight of
    exactly 0 in the merge instead of NaN.
    """
    size = seen.shape[-1]
    # CUDA's kernels read aligned lines.
    wide = size if seen.device.type == "cpu" else size + -size % 16
    bias = torch.zeros(*seen.shape[:-1], wide, dtype=dtype, device=seen.device)[..., :size]
    return bias.masked_fill_(~seen, torch.finfo(dtype).min / 2)[:, None]


def share(lead: Float[Tensor, "*n"], like: Tensor) -> Float[Tensor, "*n 1"]:
    """Weight of one of two parts, from the difference of their log-sum-exps."""
    return torch.sigmoid(lead)[..., None].to(like.dtype)


def _merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    output = torch.lerp(one[0], other[0], share(other[1] - one[1], one[0]))
    return output, torch.logaddexp(one[1], other[1])


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
    plain = softcap is None and key.shape[-1] == value.shape[-1]
    if plain and query.device.type == "cpu":
        return _flash_on_cpu(query, key, value, bias, scale)
    if plain and bias is not None and flash_takes(query):
        return masked_on_cuda(query, key, value, bias, scale)
    shape = (*query.shape[:-1], value.shape[-1])
    # Query heads of one key head as more rows: keys are not repeated.
    query = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    if plain and bias is None and flash_takes(query):
        output, lse = flash_on_cuda(query, key, value, scale)
    else:
        scores = _cap((query @ key.transpose(-1, -2)).float() * scale, softcap)
        if bias is not None:
            scores = scores + bias.repeat(1, 1, scores.shape[2] // bias.shape[2], 1)
        lse = scores.logsumexp(-1)
        output = (scores - lse[..., None]).exp_().to(value.dtype) @ value
    return output.reshape(shape), lse.reshape(shape[:-1])


def flash_takes(query: Tensor) -> bool:
    """Whether CUDA's flash attention computes heads like these."""
    short = query.dtype in (torch.bfloat16, torch.float16)
    return query.device.type == "cuda" and short and query.shape[-1] in range(8, 257, 8)


def flash_on_cuda(
    query: Float[Tensor, "R H C D"],
    key: Float[Tensor, "R H S D"],
    value: Float[Tensor, "R H S D"],
    scale: float,
) -> tuple[Float[Tensor, "R H C D"], Float[Tensor, "R H C"]]:
    """Every query over every key, by the kernel of torch's own attention; its sums are in float32."""
    output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, False, False, scale=scale
    )
    return output, lse


def masked_on_cuda(
    query: Float[Tensor, "R H C D"],
    key: Float[Tensor, "R Hkv S D"],
    value: Float[Tensor, "R Hkv S D"],
    bias: Float[Tensor, "R 1 C S"],
    scale: float,
) -> tuple[Float[Tensor, "R H C D"], Float[Tensor, "R H C"]]:
    """Attention under a mask, by the kernel of torch's own that takes one; its sums are in float32."""
    H, C = query.shape[1:3]
    groups = H // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    output, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias.expand(-1, H, -1, -1), True, scale=scale
    )
    return output, lse[..., :C]


def _flash_on_cpu(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    # Under autocast rotary positions leave queries and keys in float32 beside values in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
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
