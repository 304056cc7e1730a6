"""Layers whose inner activations are computed again in the backward pass in place of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from opdlab.errors import ModelError
from opdlab.modelling.head import decoder
from opdlab.modelling.unasked import unpacked_rows


@contextmanager
def checkpointed(model: PreTrainedModel, what: Literal["none", "layers"]) -> Iterator[None]:
    """Forwards within keep each layer's input alone for their backward pass, one more forward's price.

    transformers' own switch acts only in training mode, which would bring the student's dropout.

    Raises:
        ModelError: the model's layers cannot be told.
    """
    layers = [] if what == "none" else layers_of(model)
    with ExitStack() as restored:
        for layer in layers:
            restored.enter_context(_recomputing(layer))
        yield


@contextmanager
def _recomputing(layer: nn.Module) -> Iterator[None]:
    own = vars(layer).get("forward")  # somebody may have given it one already
    # A backward pass has a thread of its own.
    forward = unpacked_rows()(layer.forward)
    layer.forward = partial(checkpoint, forward, use_reentrant=False)
    try:
        yield
    finally:
        del layer.forward
        if own is not None:
            layer.forward = own


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """A decoder's layers; of those within others the outer ones.

    Raises:
        ModelError: it has none that transformers marks as such.
    """
    found = [one for one in decoder(model).modules() if isinstance(one, GradientCheckpointingLayer)]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no layers that can be computed again; set "
            "training.activation_checkpointing: none"
        )
    inner = {part for one in found for part in one.modules() if part is not one}
    return [one for one in found if one not in inner]
