"""What a written-out decode step does between its products, by one kernel where torch has eight.

A replayed kernel costs two to three microseconds however little it does, thirty layers long, and a step of
a small model should take no more than a millisecond. For devices that Triton compiles for.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor


def turn_and_write(
    y: Tensor,
    turn: tuple[Tensor, ...],
    norms: tuple[tuple[Tensor, float], tuple[Tensor, float]] | None,
    keys: Tensor,
    values: Tensor,
    column: Tensor,
) -> Tensor:
    """Turn queries and keys by their position, and write keys and values into the cache.

    Args:
        y: queries, keys and values. `Float[B n D]`, n the heads of all three
        turn: cosines and sines of half a head. `Float[B 1 half]`
        norms: weight and epsilon of the norms of queries and of keys, where a model has them.
        keys, values: the cache; a token's heads lie side by side. `Float[B Hkv S D]`
        column: where to write. `Int[one]`

    Returns:
        queries in the order in which attention over ranges takes them. `Float[B G Hkv D]`
    """
    B, n, D = y.shape
    heads = keys.shape[1]
    groups = (n - 2 * heads) // heads
    query = torch.empty(B, groups, heads, D, dtype=y.dtype, device=y.device)
    (one, epsilon), (other, _) = norms or ((y, 0.0), (y, 0.0))
    cosine, sine = (x.contiguous() for x in turn)
    sizes = n * D, groups * heads, heads, groups, keys.shape[2], D
    block = triton.next_power_of_2(D // 2)
    kernel: Any = _turn
    tensors = y, cosine, sine, one, other, query, keys, values, column
    # Else another card than the tensors' would be told; so below.
    with torch.cuda.device_of(y):
        kernel[(B, n)](*tensors, epsilon, *sizes, norms is not None, block)
    return query


@triton.jit
def _turn(
    y,
    cosine,
    sine,
    query_norm,
    key_norm,
    query,
    keys,
    values,
    column,
    epsilon,
    row_size,
    query_heads,
    heads,
    groups,
    columns,
    width,
    normed: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half = width // 2
    lane = tl.arange(0, block)
    inside = lane < half
    base = y + row * row_size + head * width + lane
    a = tl.load(base, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(base + half, mask=inside, other=0.0).to(tl.float32)
    if head < query_heads + heads:
        if normed:
            scale = 1 / tl.sqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / width + epsilon)
            weight = query_norm + lane
            if head >= query_heads:
                weight = key_norm + lane
            a = a * scale * tl.load(weight, mask=inside, other=0.0).to(tl.float32)
            b = b * scale * tl.load(weight + half, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cosine + row * half + lane, mask=inside, other=0.0).to(tl.float32)
        s = tl.load(sine + row * half + lane, mask=inside, other=0.0).to(tl.float32)
        first = a * c - b * s
        second = b * c + a * s
    else:
        first = a
        second = b
    place = (row * columns + tl.load(column)) * heads
    if head < query_heads:
        target = query + ((row * groups + head % groups) * heads + head // groups) * width + lane
    elif head < query_heads + heads:
        target = keys + (place + head - query_heads) * width + lane
    else:
        target = values + (place + head - query_heads - heads) * width + lane
    tl.store(target, first, mask=inside)
    tl.store(target + half, second, mask=inside)


def merged(output: Tensor, lse: Tensor, count: Tensor) -> Tensor:
    """Attention of parts put together, heads in the model's order.

    Args:
        output: of each part. `Float[B parts G Hkv D]`
        lse: log-sum-exp of its scores; anything for a part without keys. `Float[B parts G Hkv]`
        count: keys of each part. `Int[B parts]`

    Returns:
        `Float[B H*D]`
    """
    B, parts, groups, heads, D = output.shape
    found = torch.empty(B, heads * groups * D, dtype=output.dtype, device=output.device)
    kernel: Any = _merge
    block = triton.next_power_of_2(D)
    tensors = output, lse, count.contiguous(), found
    with torch.cuda.device_of(output):
        kernel[(B, heads * groups)](*tensors, *lse.stride(), groups, heads, D, parts, block)
    return found


@triton.jit
def _merge(
    output,
    lse,
    count,
    found,
    row_stride,
    part_stride,
    group_stride,
    head_stride,
    groups,
    heads,
    width,
    parts: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    group = head % groups
    key_head = head // groups
    lane = tl.arange(0, block)
    inside = lane < width
    sums = lse + row * row_stride + group * group_stride + key_head * head_stride
    top = -1e30
    total = 0.0
    mean = tl.zeros([block], tl.float32)
    for part in range(parts):
        if tl.load(count + row * parts + part) > 0:
            one = tl.load(sums + part * part_stride)
            place = ((row * parts + part) * groups + group) * heads + key_head
            value = tl.load(output + place * width + lane, mask=inside, other=0.0).to(tl.float32)
            high = tl.maximum(top, one)
            weight = tl.exp(one - high)
            before = tl.exp(top - high)
            mean = mean * before + value * weight
            total = total * before + weight
            top = high
    tl.store(found + (row * groups * heads + head) * width + lane, mean / total, mask=inside)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of contiguous tensors of one shape."""
    found = torch.empty_like(gate)
    size, block = gate.numel(), 1024
    kernel: Any = _gated
    with torch.cuda.device_of(gate):
        kernel[(triton.cdiv(size, block),)](gate, up, found, size, block)
    return found


@triton.jit
def _gated(gate, up, found, size, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < size
    x = tl.load(gate + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(found + place, x / (1 + tl.exp(-x)) * y, mask=inside)
