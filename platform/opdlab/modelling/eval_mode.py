"""How a model is held while it samples: without gradients or dropout, and as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from opdlab.shapes import Float, Tensor

# Weights of a float32 layer from which oneDNN is worth asking for by name; in bfloat16 it always is.
_LARGE_IN_FLOAT32 = 1 << 20
_PACKED_FOR_ROWS = 16


@contextmanager
def without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """For a forward without gradients before one with them: evaluation mode, and as before afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        # Autocast keeps weights it cast without gradient and would hand them to the training forward.
        torch.clear_autocast_cache()


@contextmanager
def sampling_mode(model: PreTrainedModel) -> Iterator[None]:
    """No gradients, no dropout; gradients flow as before when it ends.

    Tensors made inside must be cloned outside before a loss may use them.
    """
    # Inference mode saves a small model a seventh of each step. Sharded parameters (FSDP) would gather
    # into tensors that can never carry a gradient again, so they go without.
    plain = all(type(parameter.data) is torch.Tensor for parameter in model.parameters())
    try:
        with without_dropout(model), torch.inference_mode() if plain else torch.no_grad():
            yield
    finally:
        _release_buffers(model)


def _release_buffers(model: nn.Module) -> None:
    """A buffer that a forward replaced (dynamic rotary frequencies) must not stay barred from autograd."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())


@contextmanager
def packed_weights(model: PreTrainedModel) -> Iterator[None]:
    """Let linear layers on CPU be computed by oneDNN from packed weights, where that is quicker.

    For the few rows of a decode step torch takes 1.2 to 4 times as long: it hands float32 products to MKL,
    and weights in bfloat16 are packed anew for every product. Packing costs as much as two or three
    products, and a second copy of these weights while it lasts.
    """
    layers = [layer for layer in quicker_packed(model) if not torch.is_autocast_enabled("cpu")]
    for layer in layers:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, _PACKED_FOR_ROWS)
        layer.forward = partial(_project, packed, layer.bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def quicker_packed(model: nn.Module) -> list[nn.Linear]:
    """Layers whose products with few rows are quicker from packed weights."""
    return [
        layer
        for layer in model.modules()
        # Exactly a linear layer: a subclass may do more.
        if type(layer) is nn.Linear and "forward" not in vars(layer) and _slow_on_cpu(layer.weight)
    ]


def _slow_on_cpu(weight: Tensor) -> bool:
    mkldnn = torch.ops.mkldnn
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(mkldnn, "_reorder_linear_weight"):
        return False
    if weight.dtype == torch.bfloat16:
        return mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 and weight.numel() >= _LARGE_IN_FLOAT32


def _project(packed: Tensor, bias: Tensor | None, input: Float[Tensor, "*n H"]) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")


def replaced(module: nn.Module) -> bool:
    """Whether somebody gave a module another forward, and not the packed weights of `packed_weights`."""
    own = vars(module).get("forward")
    return own is not None and not (isinstance(own, partial) and own.func is _project)
