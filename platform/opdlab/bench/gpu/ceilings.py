"""What a card can do: a large product, a large copy, and the products that a pass consists of."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from opdlab.bench.gpu.figures import Card
from opdlab.bench.shapes import Shape
from opdlab.modelling import rows_at_a_time

_PRODUCT = {"cuda": 8192}
_COPY = {"cuda": 1 << 32}
_SMALL_PRODUCT, _SMALL_COPY = 256, 1 << 20
_FROM_HOST = 1 << 27


def measure(card: Card) -> None:
    """Fill in the card's ceilings."""
    kind = card.device.type
    size, count = _PRODUCT.get(kind, _SMALL_PRODUCT), _COPY.get(kind, _SMALL_COPY) // 2
    left, right = card.random(size, size), card.random(size, size)
    card.product = 2 * size**3 / card.seconds(lambda: left @ right, 9)
    source = torch.empty(count, dtype=torch.bfloat16, device=card.device).fill_(1.5)
    target = torch.empty_like(source)
    card.bandwidth = 4 * count / card.seconds(lambda: target.copy_(source), 9)
    some = torch.empty(min(count, _FROM_HOST), dtype=torch.bfloat16, pin_memory=kind == "cuda")
    place = target[: len(some)]
    card.host = 2 * len(some) / card.seconds(lambda: place.copy_(some, non_blocking=True), 5)


def linear_products(card: Card, shape: Shape, tokens: int) -> float:
    """Seconds of the linear layers of a forward of so many tokens, head excluded."""
    inner = (shape.heads + 2 * shape.kv) * shape.head_width
    sizes = [
        (shape.width, inner),
        (shape.heads * shape.head_width, shape.width),
        (shape.width, 2 * shape.intermediate),
        (shape.intermediate, shape.width),
    ]
    pairs = [(card.random(tokens, one), card.random(other, one)) for one, other in sizes]

    def layer() -> None:
        for rows, weight in pairs:
            linear(rows, weight)

    return shape.layers * card.seconds(layer)


def head_products(card: Card, shape: Shape, rows: int) -> float:
    """Seconds of the vocabulary projection of so many rows, in chunks."""
    some = min(rows, rows_at_a_time(shape.vocabulary, card.device)[0])
    hidden, weight = card.random(some, shape.width), card.random(shape.vocabulary, shape.width)
    return rows / some * card.seconds(partial(linear, hidden, weight))


def attention_products(card: Card, shape: Shape, queries: int, keys: int, causal: bool) -> float:
    """Seconds of the attention of all layers, by torch's own kernel."""
    query = card.random(1, shape.heads, queries, shape.head_width)
    key, value = (card.random(1, shape.kv, keys, shape.head_width) for _ in range(2))
    attend = partial(scaled_dot_product_attention, is_causal=causal, enable_gqa=True)
    return shape.layers * card.seconds(partial(attend, query, key, value))
