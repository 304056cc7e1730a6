"""A model without some of its layers: in memory, and as its folder will be read."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from opdlab.errors import ModelError
from opdlab.modelling.head import decoder
from opdlab.modelling.length_dependence import forget

TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit, between a model and its reading."""
PROBE = 16


def drop_layers(model: PreTrainedModel, dropped: Sequence[int]) -> None:
    """Take decoder layers out of a model, in place.

    Args:
        dropped: numbers of the layers, from 0.

    Raises:
        ModelError: it has no such layers, none would be left, or its configuration cannot describe others.
    """
    if not dropped:
        return
    keep_layers(model, _left(len(layer_list(model)), dropped, str(model.name_or_path)))
    require_readable(model)


def without_layers(config: PretrainedConfig, dropped: Sequence[int]) -> PretrainedConfig:
    """A configuration as `drop_layers` leaves it; raises ModelError where there are no such layers."""
    config = copy.deepcopy(config)
    count = config.get_text_config(decoder=True).num_hidden_layers
    _tell(config, _left(count, dropped, str(config.name_or_path)))
    return config


def _left(count: int, dropped: Sequence[int], name: str) -> list[int]:
    if beyond := [one for one in dropped if not 0 <= one < count]:
        raise ModelError(
            f"{name} has {count} layers, numbered from 0, so layer {beyond[0]} cannot be dropped; name "
            f"layers below {count}"
        )
    kept = [one for one in range(count) if one not in dropped]
    if not kept:
        raise ModelError(f"{name}: all {count} layers would be dropped; keep some")
    return kept


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a decoder's layers.

    Raises:
        ModelError: there is no such list.
    """
    return getattr(*_place(model))


def _place(model: PreTrainedModel) -> tuple[nn.Module, str]:
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in decoder(model).modules():
        for name, child in module.named_children():
            layers = isinstance(child, nn.ModuleList) and len(child) == count
            if layers and all(isinstance(one, GradientCheckpointingLayer) for one in child):
                return module, name
    raise ModelError(
        f"{type(model).__name__} has no list of layers that transformers marks as such, so none can be cut"
    )


def keep_layers(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep some of a model's layers, in their order, and what its configuration says of each layer."""
    owner, name = _place(model)
    layers: Any = getattr(owner, name)
    _put(model, nn.ModuleList(layers[one] for one in kept))
    _tell(model.config, kept)


@contextmanager
def left_out(model: PreTrainedModel, number: int) -> Iterator[None]:
    """A model without one of its layers, which comes back afterwards."""
    layers, config = layer_list(model), model.config.get_text_config(decoder=True)
    told = {"num_hidden_layers": len(layers)} | _of_each_layer(config)
    try:
        keep_layers(model, [one for one in range(len(layers)) if one != number])
        yield
    finally:
        _put(model, layers)
        for key, value in told.items():
            setattr(config, key, value)


def _put(model: PreTrainedModel, layers: nn.ModuleList) -> None:
    """Give a model these layers, each numbered by its place, as caches count them."""
    setattr(*_place(model), layers)
    module: Any
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number


def _tell(config: PretrainedConfig, kept: Sequence[int]) -> None:
    """Let a configuration speak of some of its layers alone."""
    config = config.get_text_config(decoder=True)
    told = _of_each_layer(config)
    config.num_hidden_layers = len(kept)
    for key, value in told.items():
        setattr(config, key, [value[one] for one in kept])


def _of_each_layer(config: PretrainedConfig) -> dict[str, list[Any]]:
    """Settings that hold one value for each layer, such as `layer_types`."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if "layer" in key and isinstance(value, list) and len(value) == config.num_hidden_layers
    }


@torch.no_grad()
def require_readable(model: PreTrainedModel) -> None:
    """Refuse a model that its own configuration does not describe: saved, it would be read as another one.

    The weights are shared with the model that is made for the comparison, so this costs no memory.

    Raises:
        ModelError: naming what differs.
    """
    with torch.device("meta"):
        read: Any = AutoModelForCausalLM.from_config(
            model.config, dtype=model.dtype, attn_implementation=model.config._attn_implementation
        )
    same = {name: tensor.shape for name, tensor in read.state_dict().items()}
    there = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if odd := sorted(
        name for name in same.keys() | there.keys() if same.get(name) != there.get(name)
    ):
        raise _unreadable(model, f"{len(odd)} weights, such as {odd[0]}, are not as it says")
    read.load_state_dict(model.state_dict(), assign=True)
    for name, buffer in model.named_buffers():
        owner, _, last = name.rpartition(".")
        read.get_submodule(owner)._buffers[last] = buffer
    read.tie_weights()
    tokens = (
        torch.arange(PROBE, device=model.device)[None] % model.config.get_text_config().vocab_size
    )
    forget(model)
    said, wanted = read.eval()(input_ids=tokens).logits, model(input_ids=tokens).logits
    gap = float((said - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
    if not gap <= TOLERANCE:
        raise _unreadable(model, f"its logits differ by {gap:.1%} of the largest")


def _unreadable(model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"{model.name_or_path}: {type(model).__name__} cannot be cut, because its configuration cannot "
        f"describe what is left ({why}); drop other layers, or take another model"
    )
