"""Loss and gradient over a whole vocabulary, in chunks and by the whole product."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.head import CHUNKS, WHOLE, ways
from opdlab.bench.peak import rise
from opdlab.bench.shapes import Shape

# Bytes of a logit that the whole product and its gradient hold at a time: seen on one card.
_WHOLE = 20
_ROOM = 0.8


def cases(name: str, shape: Shape, rows: tuple[int, ...], seconds: int) -> Iterator[Case]:
    """One for each number of rows."""
    for count in rows:
        run = partial(_case, shape, count)
        yield Case("loss", f"head of {name}, {count:,} rows", seconds, run)


def _case(shape: Shape, rows: int, card: Card) -> list[Figure]:
    """The whole product only where its memory is there."""
    whole = _WHOLE * rows * shape.vocabulary < _ROOM * card.total
    card.drop()
    dtype = str(card.dtype).removeprefix("torch.")
    runs = ways(shape, rows, str(card.device), dtype)
    ours = runs[f"loss {CHUNKS}"]
    taken = card.seconds(ours, 3)
    # Forward of both heads, and two products of the backward pass.
    operations = 4 * rows * shape.head_operations()
    found = [
        Figure("in chunks", taken * 1e3, "ms"),
        Figure("products of the ceiling", operations / taken / card.product, "share"),
    ]
    on_card = card.device.type == "cuda"
    held = rise(ours, str(card.device)) if on_card else 0
    if on_card:
        found.append(Figure("memory", held / 2**30, "GiB"))
    if whole:
        plain = runs[f"loss {WHOLE}"]
        ratio = taken / card.seconds(plain, 3)
        found.append(Figure("time of the whole product's", ratio, "x", 1.0, at_most=True))
        if on_card:
            share = held / rise(plain, str(card.device))
            found.append(Figure("memory of the whole product's", share, "x", 0.1, at_most=True))
    return found
