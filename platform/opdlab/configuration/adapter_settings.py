"""What an experiment file may say of a student that is trained by adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opdlab.configuration.section import Section


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv:2106.09685): two small matrices beside each of the chosen layers.

    Their product is added to what the layer does. They alone are trained, in float32; the model stays as it
    is."""

    rank: int = Field(default=16, ge=1)
    """Numbers between the two matrices of an adapter: the more, the more it can change."""
    alpha: float = Field(default=32.0, gt=0)
    """An adapter's product counts `alpha / rank` times."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get one: all linear ones, or those of these names, such as `q_proj`. The vocabulary's
    gets none, nor do experts, whose weights are no layers of their own."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is left out in the loss; acts only with `student.dropout: true`."""
    quantize: Literal["none", "nf4"] = "none"
    """Format of the frozen layers: that of `student.dtype`, or four bits a weight, which are widened to
    `student.dtype` for each product (QLoRA, arXiv:2305.14314). Needs bitsandbytes."""
