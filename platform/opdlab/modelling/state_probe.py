"""Whether attributes that a layer's forward assigns are a state: tried, with other values in their place.

Layers may also keep what they computed for somebody to look at, or count their inputs. Nothing that they
say later depends on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from opdlab.modelling.eval_mode import sampling_mode
from opdlab.modelling.forward_code import Places
from opdlab.shapes import Tensor

_READS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
# Share of an output that other values must change; rounding may differ between two calls.
_CHANGED = 1e-2


def states_among(
    model: PreTrainedModel, layers: Mapping[nn.Module, Places]
) -> dict[nn.Module, Places]:
    """The layers that read what their attributes held before; tried once, by a forward of one token.

    A layer that cannot be tried counts as one of them: who runs it finds out.
    """
    unknown = {layer: places for layer, places in layers.items() if layer not in _READS}
    # A plan's tensors have no content.
    if unknown and not any(isinstance(weight, FakeTensor) for weight in model.parameters()):
        _try(model, unknown)
    return {layer: places for layer, places in layers.items() if _READS.get(layer, True)}


def _try(model: PreTrainedModel, layers: Mapping[nn.Module, Places]) -> None:
    handles = [
        layer.register_forward_pre_hook(partial(_look, places), with_kwargs=True)
        for layer, places in layers.items()
    ]
    # Not at the beginning of a text, where a state is made anew.
    token = torch.ones(1, 1, dtype=torch.long, device=model.device)
    known = inspect.signature(model.forward).parameters
    position = {"position_ids": token} if "position_ids" in known else {}
    every = [place for places in layers.values() for place in places]
    try:
        with sampling_mode(model), _restored(every):
            model(input_ids=token, use_cache=True, **position)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError):
        # What its code fails at, who runs it will say.
        return
    finally:
        for handle in handles:
            handle.remove()


def _look(places: Places, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Called where the layer is, so that its weights are there, whoever shards them."""
    args = tuple(None if isinstance(one, Cache) else one for one in args)
    options = {name: None if isinstance(one, Cache) else one for name, one in options.items()}
    with _restored(places):
        layer.forward(*args, **options)
        held = [getattr(part, name) for part, name in places]
        found = []
        for change in (_same, _other):
            for (part, name), value in zip(places, held, strict=True):
                setattr(part, name, change(value))
            output = layer.forward(*args, **options)
            found.append((output[0] if isinstance(output, tuple) else output).float())
    truth, changed = found
    _READS[layer] = not float((changed - truth).norm()) <= _CHANGED * float(truth.norm())


def _same(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()


def _other(value: Tensor | None) -> Tensor | None:
    if value is None:
        return None
    return ~value if value.dtype == torch.bool else value + 1


@contextmanager
def _restored(places: Places) -> Iterator[None]:
    """What the attributes hold is theirs again afterwards, also where it was changed in its place."""
    before = [getattr(part, name) for part, name in places]
    contents = [_same(value) for value in before]
    try:
        yield
    finally:
        for (part, name), value, content in zip(places, before, contents, strict=True):
            if value is not None and content is not None:
                with torch.no_grad():
                    value.copy_(content)
            setattr(part, name, value)
