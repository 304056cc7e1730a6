"""Attention of leaves by other ways than opdlab's own: which one is quickest, a card alone can tell.

They give the same numbers and are used nowhere else; one that wins here takes the place of `LeafPass`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers.masking_utils import causal_mask_function

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.scoring import ACTIVE, K
from opdlab.bench.shapes import Shape, ask, random_rollout
from opdlab.modelling import Lines, MaskFunction, Own
from opdlab.scoring import LeafPass, attention_with_lse, bias_of, leaves, leaves_at_once
from opdlab.shapes import Tensor

OWN, MASKED, FLEX = "steps (opdlab)", "one masked block", "flex attention"


@dataclass(frozen=True)
class Some:
    """Leaves of one row, ready to attend in one layer.

    Attributes:
        leaf_pass: with the row's keys and values.
        inputs: queries, keys and values of the leaves themselves.
    """

    leaf_pass: LeafPass
    inputs: tuple[Tensor, Tensor, Tensor]

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.inputs[0].shape[-1] ** -0.5


def cases(name: str, shape: Shape, lengths: Sequence[int], seconds: int) -> Iterator[Case]:
    """One for each length of an answer."""
    for length in lengths:
        run = partial(_case, shape, length)
        yield Case("scoring", f"ways of leaves, {name}, L {length:,}", seconds, run)


def _case(shape: Shape, length: int, card: Card) -> list[Figure]:
    card.drop()
    some = last_leaves(shape, length, card.device, card.dtype)
    taken = {name: card.seconds(way(some)) for name, way in WAYS.items()}
    first = Figure(f"a layer of a pass, {OWN}", taken[OWN] * 1e3, "ms")
    return [
        first,
        *(Figure(f"{name} over it", taken[name] / taken[OWN], "x") for name in (MASKED, FLEX)),
    ]


def last_leaves(shape: Shape, length: int, device: torch.device, dtype: torch.dtype) -> Some:
    """The last leaves of a random answer, as many as a pass takes."""
    rollout = random_rollout(shape, [1], [length], K, "cpu")
    tree = leaves(rollout, ask(rollout, ACTIVE).candidates)
    column = tree.column[-leaves_at_once(device.type == "cpu") :]
    generator = torch.Generator().manual_seed(0)

    def random(heads: int, tokens: int) -> Tensor:
        found = torch.randn(1, heads, tokens, shape.head_width, generator=generator)
        return found.to(device, dtype)

    N, S = len(column), int(column.max()) + 1
    place = torch.arange(N)
    own = LeafPass(
        Own("sdpa"),
        {0: random(shape.kv, S)},
        {0: random(shape.kv, S)},
        lines=Lines(1, N, place, place).to(device),
        column=column.to(device),
        places=column[None],
    )
    return Some(own, (random(shape.heads, N), random(shape.kv, N), random(shape.kv, N)))


class _Layer(torch.nn.Module):
    layer_idx = 0


def _own(some: Some) -> Callable[[], Tensor]:
    layer, rule = _Layer(), cast(MaskFunction, causal_mask_function)

    def run() -> Tensor:
        # What is found once for all layers is not this layer's.
        return some.leaf_pass.over_keys(layer, *some.inputs, rule, some.scale, None)[0]

    return run


def _with_own(some: Some) -> tuple[Tensor, Tensor]:
    """Keys and values of the row, and after them those of the leaves."""
    own = some.leaf_pass
    return (
        torch.cat([own.keys[0], some.inputs[1]], 2),
        torch.cat([own.values[0], some.inputs[2]], 2),
    )


def _masked(some: Some) -> Callable[[], Tensor]:
    query, column = some.inputs[0], some.leaf_pass.column
    keys, values = _with_own(some)
    N, S = query.shape[2], keys.shape[2]
    before = torch.arange(S - N, device=column.device) < column[:, None]
    seen = torch.cat([before, torch.eye(N, dtype=torch.bool, device=column.device)], 1)
    bias = bias_of(seen[None], query.dtype)
    return lambda: attention_with_lse(query, keys, values, bias, some.scale)[0]


def _flex(some: Some) -> Callable[[], Tensor]:
    query, column = some.inputs[0], some.leaf_pass.column
    keys, values = _with_own(some)
    N, S = query.shape[2], keys.shape[2]

    # A leaf sees the row before its column, and itself.
    mask = create_block_mask(
        lambda batch, head, leaf, key: (key < column[leaf]) | (key == S - N + leaf),
        *(None, None, N, S),
        device=str(column.device),
    )
    on_card = column.device.type == "cuda"
    attend: Any = torch.compile(flex_attention) if on_card else flex_attention
    return lambda: attend(query, keys, values, block_mask=mask, scale=some.scale, enable_gqa=True)


WAYS: dict[str, Callable[[Some], Callable[[], Tensor]]] = {
    OWN: _own,
    MASKED: _masked,
    FLEX: _flex,
}
