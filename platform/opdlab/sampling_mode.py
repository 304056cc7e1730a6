"""How a model is held while it samples: without gradients or dropout, and as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from opdlab.shapes import Float, Tensor

# Entries of a vocabulary projection from which oneDNN's product is worth asking for by name.
_LARGE_PROJECTION = 1 << 20
_PACKED_FOR_ROWS = 16


@contextmanager
def sampling_mode(model: PreTrainedModel) -> Iterator[None]:
    """No gradients, no dropout; gradients flow as before when it ends.

    Tensors made inside must be cloned outside before a loss may use them.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    # Inference mode saves a small model a seventh of each step. Sharded parameters (FSDP) would gather
    # into tensors that can never carry a gradient again, so they go without.
    plain = all(type(parameter.data) is Tensor for parameter in model.parameters())
    try:
        with torch.inference_mode() if plain else torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        _release_buffers(model)
        # Autocast keeps weights it cast without gradient and would hand them to the training forward.
        torch.clear_autocast_cache()


def _release_buffers(model: nn.Module) -> None:
    """A buffer that a forward replaced (dynamic rotary frequencies) must not stay barred from autograd."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())


@contextmanager
def quick_projection(model: PreTrainedModel) -> Iterator[None]:
    """Let a large float32 vocabulary projection on CPU be computed by oneDNN from packed weights.

    torch hands float32 products to MKL, which takes 2 to 5 times as long for few rows by very many
    columns, where a decode step of a small model spends most of its time. Packing costs as much as two
    or three products, and a second copy of the weights while it lasts.
    """
    head = model.get_output_embeddings()
    # Exactly a linear layer: a subclass may do more.
    if type(head) is not nn.Linear or not _slow_on_cpu(head):
        yield
        return
    packed = torch.ops.mkldnn._reorder_linear_weight(head.weight, _PACKED_FOR_ROWS)
    head.forward = partial(_project, packed, head.bias)
    try:
        yield
    finally:
        del head.forward


def _slow_on_cpu(head: nn.Linear) -> bool:
    return (
        head.weight.device.type == "cpu"
        and head.weight.dtype == torch.float32
        and head.weight.numel() >= _LARGE_PROJECTION
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and not torch.is_autocast_enabled("cpu")
    )


def _project(packed: Tensor, bias: Tensor | None, input: Float[Tensor, "*n H"]) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")
