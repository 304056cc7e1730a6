"""Models that have numbers for so many positions and none beyond, where a forward ends in an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from opdlab.errors import ModelError

_NAMED = re.compile(r"(^|\.)(wpe|\w*pos(ition)?s?_?\w*)$")
# Some keep a few entries in front for filler.
_SPARE = 8

_FOUND: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


def learned_positions(model: PreTrainedModel) -> int | None:
    """Positions that a model has numbers for; None where it computes those of any."""
    if model not in _FOUND:
        _FOUND[model] = min(_sizes(model), default=None)
    return _FOUND[model]


def require_positions(model: PreTrainedModel, longest: int) -> None:
    """Refuse rows of more tokens than a model has positions.

    Raises:
        ModelError: naming the limit.
    """
    size = learned_positions(model)
    if size is not None and longest > size:
        raise ModelError(
            f"{type(model).__name__} has numbers for {size} positions and none beyond, and prompt and "
            f"response may take {longest} tokens: leave out longer prompts (prompts.max_prompt_tokens), "
            "allow shorter answers (rollout.max_new_tokens, evaluation.max_new_tokens), or take a model "
            "with more context"
        )


def _sizes(model: PreTrainedModel) -> Iterator[int]:
    text: Any = model.config.get_text_config(decoder=True)
    attention = getattr(text, "attn_config", None)
    if getattr(attention, "alibi", False):
        # Biases by distance, made for so many.
        yield text.max_seq_len
    size = getattr(text, "max_position_embeddings", None)
    if size is None:
        return
    # Where a table keeps a place for filler, positions begin after it.
    tables = (
        (name, one.num_embeddings - (0 if one.padding_idx is None else one.padding_idx + 1))
        for name, one in model.named_modules()
        if isinstance(one, nn.Embedding) and one is not model.get_input_embeddings()
    )
    buffers = ((name, len(one)) for name, one in model.named_buffers() if one.ndim == 2)
    for name, entries in (*tables, *buffers):
        if _NAMED.search(name) and size - _SPARE <= entries <= size + _SPARE:
            yield min(size, entries)


def positions(model: PreTrainedModel) -> int | None:
    """Positions that a model was made for, stretched as its rotary embedding says; None for any number."""
    config = model.config.get_text_config(decoder=True)
    size = learned_positions(model)
    if size is not None:
        return size
    size = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = (rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or 0)
    return None if size is None else max(size, int(stretched))
