"""What an experiment file may say of a student that is trained by adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opdlab.configuration.section import Section


class Lora(Section):
    """Low-rank adapters (LoRA, arXiv:2106.09685): two small matrices beside each of the chosen layers.

    Their product is added to the layer's output. Only the adapters are trained, in float32; the model
    stays unchanged."""

    rank: int = Field(default=16, ge=1)
    """Inner dimension of an adapter's two matrices; a larger rank can change the layer more."""
    alpha: float = Field(default=32.0, gt=0)
    """The product of an adapter is scaled by `alpha / rank`."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get adapters: all linear layers, or those with these names, such as `q_proj`. The
    vocabulary projection gets none, and neither do experts whose weights are not separate layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on an adapter's inputs in the loss; applies only with `student.dropout: true`."""
    quantize: Literal["none", "nf4"] = "none"
    """Format of the frozen layers: `student.dtype`, or 4 bits per weight, converted to `student.dtype`
    for each product (QLoRA, arXiv:2305.14314). Needs bitsandbytes."""
