"""Recurrent layers of a model whose forwards are done by somebody else for a while."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from opdlab.modelling.stateful_layers import RecurrentLayer
from opdlab.shapes import Float, Tensor

Mix = Callable[[RecurrentLayer, Float[Tensor, "B S H"], dict[str, Any]], Tensor]
"""What is done in place of a layer: it gets the layer, its inputs, and the arguments of its forward."""


@contextmanager
def taken_over(layers: list[RecurrentLayer], mix: Mix) -> Iterator[None]:
    """Within, `mix` does what these layers do to their inputs."""
    with limited_steps(layers):
        try:
            for layer in layers:
                layer.module.forward = _forward(layer, mix)  # type: ignore[method-assign]
            yield
        finally:
            for layer in layers:
                vars(layer.module).pop("forward", None)


@contextmanager
def limited_steps(layers: list[RecurrentLayer]) -> Iterator[None]:
    """Within, a single token keeps to the limits of time steps, as several tokens do.

    Mamba-2 limits its time steps, but transformers' update of a single token does not. The time step is a
    softplus, which is monotone, so its limits are limits of what the projection gives.
    """
    handles = []
    for layer in layers:
        module: Any = layer.module
        low, high = getattr(module, "time_step_limit", (0.0, torch.inf))
        if (low, high) != (0.0, torch.inf) and not hasattr(module, "mup_vector"):
            hook = partial(_limit, module.dt_bias, float(low), float(high))
            handles.append(module.in_proj.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _limit(
    bias: Float[Tensor, "heads"],
    low: float,
    high: float,
    _module: nn.Module,
    _inputs: Any,
    projected: Float[Tensor, "*b D"],
) -> Float[Tensor, "*b D"]:
    *others, step = projected.split([projected.shape[-1] - len(bias), len(bias)], -1)
    if low > 0:
        step = torch.maximum(step, (_before_softplus(low) - bias).to(step.dtype))
    if high < torch.inf:
        step = torch.minimum(step, (_before_softplus(high) - bias).to(step.dtype))
    return torch.cat([*others, step], -1)


def _before_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


def _forward(layer: RecurrentLayer, mix: Mix) -> Callable[..., Any]:
    def forward(*args: Any, **options: Any) -> Any:
        arguments = layer.arguments(args, options)
        output = mix(layer, arguments[layer.first], arguments)
        return output if layer.outputs == 1 else (output, *[None] * (layer.outputs - 1))

    return forward
