"""Where what a model says depends on how long a forward is, and on forwards before it.

The rule: what a model says after a prefix is what a forward of that prefix alone says, in a model that has
computed nothing before. For most models every prefix of a row is answered by one forward of the row. The
rotary frequencies of some depend on the longest position of a forward ("longrope", "dynamic"): then a row
has stretches of prefixes, each answered by a forward of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Stretch:
    """Prefixes of `first` to `last` tokens: a forward of any of these lengths answers the shorter ones."""

    first: int
    last: int


@dataclass(frozen=True)
class Rotary:
    """Rotary frequencies that depend on the longest position of a forward.

    Attributes:
        module: computes them.
        layer_type: of the layers that they are for, where a module serves several kinds.
        original: tokens of a forward, at most, that leave them as they were trained.
        dynamic: whether they change with every token beyond, and stay so for the forwards that follow;
            else they have one other value beyond.
    """

    module: nn.Module
    layer_type: str | None
    original: int
    dynamic: bool


_ROTARY: WeakKeyDictionary[nn.Module, list[Rotary]] = WeakKeyDictionary()


def rotary(model: PreTrainedModel) -> list[Rotary]:
    """All frequencies of a model that depend on a forward's length; none for most models."""
    if model not in _ROTARY:
        _ROTARY[model] = [one for module in model.modules() for one in _frequencies(module)]
    return _ROTARY[model]


def _frequencies(module: Any) -> Iterator[Rotary]:
    kinds = getattr(module, "rope_type", None)
    if not isinstance(kinds, dict):
        kinds = {None: kinds}
    for layer_type, kind in kinds.items():
        dynamic = "dynamic" in str(kind)
        if not dynamic and kind != "longrope":
            continue
        known: Any = module.config.rope_parameters
        known = known if layer_type is None else known[layer_type]
        original = known.get("original_max_position_embeddings")
        if dynamic or original is None:
            original = module.original_max_seq_len
        yield Rotary(module, layer_type, int(original), dynamic)


def original_length(model: PreTrainedModel) -> int | None:
    """Tokens up to which a forward's length changes nothing; None for any number."""
    return min((one.original for one in rotary(model)), default=None)


def stretches(model: PreTrainedModel, longest: int) -> list[Stretch]:
    """The stretches of prefixes of 1 to `longest` tokens; one for most models."""
    ends = {longest}
    for one in rotary(model):
        ends |= set(range(one.original, longest)) if one.dynamic else {one.original}
    cuts = sorted(end for end in ends if end <= longest)
    return [Stretch(before + 1, end) for before, end in zip([0, *cuts], cuts, strict=False)]


def forget(model: PreTrainedModel) -> None:
    """Make frequencies that the longest forward so far has changed be as if there had been none."""
    for one in rotary(model):
        if one.dynamic:
            # By the module's own rule: a single token is shorter than any original length.
            like = torch.zeros(1, device=model.device)
            place = torch.zeros(1, 1, dtype=torch.long, device=model.device)
            kind = {} if one.layer_type is None else {"layer_type": one.layer_type}
            with torch.no_grad():
                one.module(like, place, **kind)


_PLACES = re.compile(
    r"floor|window(?!.*(layers|pattern))|chunk_(size|length)|original_max_position|block_size|local_attention"
    r"|index_topk|rel_extent|max_distance|compress_rates|context_length|_attention$"
)


def thresholds(model: PreTrainedModel) -> list[int]:
    """Places in a text at which a model's layers may begin to do something else, ascending.

    Read from its configuration by name. That something changes there is not said, only that a check at
    smaller places could not have seen it.
    """
    found = {one.original for one in rotary(model)}
    for config in (model.config, model.config.get_text_config(decoder=True)):
        found |= set(_numbers(config.to_dict()))
    return sorted(found)


def _numbers(settings: Any) -> Iterator[int]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif type(value) is int and value > 1 and _PLACES.search(str(name)):
            yield value


def counts_from(config: PretrainedConfig) -> int | None:
    """Tokens of a forward or a cache from which a model says other things as it counts them itself.

    That is found by trying; in half precision, and where there are no weights, it is read here. Llama 4's
    attention counts tokens for its temperature, in layers without rotary positions.
    """
    text = config.get_text_config()
    counts = getattr(text, "attn_temperature_tuning", 0) and not all(text.no_rope_layers)
    return text.floor_scale if counts else None
