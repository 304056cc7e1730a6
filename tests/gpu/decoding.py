"""A decoder in the midst of its work."""

from __future__ import annotations

import torch

from opdlab.sampling.decoder import Decoder
from opdlab.shapes import Float, Tensor


def begun(decoder: Decoder, rows: int, device: torch.device) -> Float[Tensor, "B 1"]:
    """Let it take the first of its four next steps; returns the random numbers that the others take."""
    decoder.refill()
    decoder.cache.restrict()
    decoder.cache.reserve(20)
    decoder.step.start(decoder.cache.positions() + torch.arange(4, device=device))
    uniform = torch.rand(rows, 1, device=device, dtype=torch.float64)
    with decoder.step.stretch():
        decoder._step(uniform, 0)
    return uniform
