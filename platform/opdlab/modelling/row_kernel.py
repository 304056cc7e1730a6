"""What scoring asks of vocabulary rows, read once by one kernel; for devices that Triton compiles for.

Written as tensor operations the same numbers read and write the rows ten times, in float32: a quarter of
what scoring by a small teacher takes beside its products.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from opdlab.modelling.precision import FLOOR

_BLOCK = 4096
_LOWEST = tl.constexpr(FLOOR)


def row_statistics(logits: Tensor, targets: Tensor | None) -> Tensor:
    """Log-probability of the target, that of the most likely entry, and the entropy, in float32.

    Args:
        logits: as the model gives them, in any format; entries of a row lie side by side. `Float[C V]`
        targets: NaN is said of them where there are none. `Int[C]`

    Returns:
        nats. `Float[3 C]`
    """
    C, V = logits.shape
    found = torch.empty(3, C, dtype=torch.float32, device=logits.device)
    if C:
        asked = found if targets is None else targets
        kernel: Any = _rows
        sizes = logits.stride(0), V, C, targets is not None, _BLOCK
        # Else another card than the tensors' would be told.
        with torch.cuda.device_of(logits):
            kernel[(C,)](logits, asked, found, *sizes, num_warps=8)
    return found


@triton.jit
def _rows(logits, targets, found, stride, width, rows, asked: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * stride
    lane = tl.arange(0, block)
    top = _LOWEST
    total = 0.0
    weighted = 0.0
    for start in range(0, width, block):
        place = start + lane
        x = tl.load(base + place, mask=place < width, other=0.0).to(tl.float32)
        # What is ruled out counts nothing. Comparisons let NaN pass: it must reach the sums.
        x = tl.where((x < _LOWEST) | (place >= width), _LOWEST, x)
        high = tl.maximum(top, tl.max(x, 0))
        shifted = x - high
        e = tl.where(place < width, tl.exp(shifted), 0.0)
        # Sums so far were taken below another top.
        scale = tl.exp(top - high)
        weighted = scale * (weighted + total * (top - high)) + tl.sum(e * shifted, 0)
        total = scale * total + tl.sum(e, 0)
        top = high
    log_total = tl.log(total)
    said = float("nan")
    if asked:
        target = tl.load(base + tl.load(targets + row)).to(tl.float32)
        said = tl.where(target <= _LOWEST / 2, -float("inf"), target - top - log_total)
    tl.store(found + row, said)
    tl.store(found + rows + row, -log_total)
    tl.store(found + 2 * rows + row, log_total - weighted / total)
