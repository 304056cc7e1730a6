"""Whether weights changed, told from the weights themselves.

No count of steps or writes tells it: a fused optimizer, `weight.data` and averages of weights each pass by
the counter that torch keeps of a tensor.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from opdlab.sampling import mixed
from opdlab.shapes import Int, Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 1 << 20  # elements at a time: bounds what is held beside the weights


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """A hash of names, types, shapes and contents of weights and stored buffers.

    One pass over the weights on their device: milliseconds for each gigabyte on an accelerator, about a
    second on a CPU.
    """
    found: list[str] = []
    sums: list[Tensor] = []
    for name, weight in model.state_dict().items():
        if isinstance(weight, Tensor):
            found.append(f"{name} {weight.dtype} {tuple(weight.shape)}")
            sums.append(_sum(weight).cpu())
    numbers = torch.stack(sums).tolist() if sums else []
    return hashlib.sha256(repr([found, numbers]).encode()).hexdigest()


def _sum(weight: Tensor) -> Int[Tensor, ""]:
    """Sum of an element's bits times a number of its place, by arithmetic that wraps around.

    The numbers are odd, so one changed element always changes the sum, and random ones cancel by chance
    once in 2^63.
    """
    bits = weight.detach().contiguous().flatten().view(_BITS[weight.element_size()])
    number = mixed(torch.arange(1, min(_PART, len(bits)) + 1, device=bits.device)) | 1
    total = number.new_zeros(())
    for part in bits.split(_PART):
        total = 3 * total + (part.long() * number[: len(part)]).sum()
    return total
