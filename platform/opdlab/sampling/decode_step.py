"""One step of decoding by a model's own forward: the last token of every row in, logits out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from opdlab.modelling import masked_rows
from opdlab.sampling.growing_cache import GrowingCache
from opdlab.shapes import Float, Int, Tensor

# Kinds of layers of which some attend to all of a row, and those that take no mask in a step.
_FULL = {"full_attention", "hybrid"}
_WITHOUT = {"linear_attention", "conv", "mlp", "moe"}


class DecodeStep(ABC):
    """How a model takes one step, over and over, against one cache."""

    @abstractmethod
    def start(self, positions: Int[Tensor, "B steps"]) -> None:
        """Prepare what the next steps need at once: a small model's step is all overhead."""

    def stretch(self) -> AbstractContextManager[None]:
        """Entered once around steps between which the model does nothing else."""
        return nullcontext()

    @abstractmethod
    def logits(self, tokens: Int[Tensor, "B one"], step: int) -> Float[Tensor, "B V"]:
        """Next-token logits after `tokens`, whose keys and values are written to the cache."""


class ModelStep(DecodeStep):
    """The step of any decoder-only model."""

    def __init__(self, model: PreTrainedModel, cache: GrowingCache) -> None:
        self.model, self.cache = model, cache
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.last_only = last_logits_only(model)
        # A CPU knows at once whether attention can do without the mask, which is quicker.
        self.masks = nullcontext if model.device.type == "cpu" else masked_rows
        with self.stretch():
            self.additive = self.takes_positions and _attends_to_all(model)

    def start(self, positions: Int[Tensor, "B steps"]) -> None:
        self.positions = positions.split(1, -1)
        self.visible = self.cache.visible()
        if self.additive:
            self.visible = additive(self.visible, self.model.dtype)[:, None, None]

    def stretch(self) -> AbstractContextManager[None]:
        return _without_lengths(self.model)

    def logits(self, tokens: Int[Tensor, "B one"], step: int) -> Float[Tensor, "B V"]:
        cache = self.cache
        position = {"position_ids": self.positions[step]} if self.takes_positions else {}
        column = self.positions[step]
        with self.masks(), cached(self.model, cache, column) as given:
            output = self.model(
                input_ids=tokens,
                attention_mask=self.visible[..., cache.begin : cache.end + 1],
                **given,
                **position,
                **self.last_only,
            )
        return output.logits[:, -1]


@contextmanager
def cached(
    model: PreTrainedModel, cache: GrowingCache, column: Int[Tensor, "B one"]
) -> Iterator[dict[str, Any]]:
    """Within, a forward takes its past from the cache; these are the arguments that give it.

    Args:
        column: where in its row each token stands.
    """
    states = cache.states
    with nullcontext() if states is None else states.stepping(column):
        yield past(model, cache, states is not None)


def past(model: PreTrainedModel, cache: Cache, recurrent: bool) -> dict[str, Any]:
    """Arguments of a forward that takes its past from the cache.

    Args:
        recurrent: whether there are layers whose states are found elsewhere.
    """
    if recurrent:
        return without_states(model, cache)
    return {"use_cache": True, cache_argument(model): cache}


def without_states(model: PreTrainedModel, cache: Cache) -> dict[str, Any]:
    """Arguments of a forward whose recurrent layers find their states elsewhere.

    `use_cache` is off: models may refuse a cache that does not keep states as theirs does, though their
    attention would use it.
    """
    name = cache_argument(model)
    known = inspect.signature(model.forward).parameters
    return {"use_cache": False, **({name: cache} if name in known else {})}


def cache_argument(model: nn.Module) -> str:
    """Name of the forward's argument for cached keys and values.

    transformers calls it `cache` from 5.24 on, and models of one's own may go on with the old name.
    """
    known = inspect.signature(model.forward).parameters
    return "cache" if "cache" in known else "past_key_values"


def last_logits_only(model: PreTrainedModel) -> dict[str, int]:
    """The argument that spares a forward all vocabulary rows but the last, for models that know it."""
    known = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if known else {}


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to attention scores."""
    return torch.where(visible, 0.0, -torch.inf).to(dtype)


@contextmanager
def _without_lengths(model: PreTrainedModel) -> Iterator[None]:
    """Within, a model that attends by flash attention does so by `sdpa`, where it can.

    In each layer of a step the library would ask the device how long the rows are.
    """
    before: Any = model.config.get_text_config()._attn_implementation
    if "flash" not in str(before) or not model._supports_sdpa:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attends_to_all(model: PreTrainedModel) -> bool:
    """Whether every layer sees all of a row's tokens, so that one mask made in advance serves them all.

    Otherwise the model makes its masks itself in each step, which costs a small model a fifth of it.
    Recurrent layers take no mask in a step of one token.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = ("sliding_window", "attention_chunk_size", "alibi")
    full = not any(getattr(config, name, None) for name in windows)
    if kinds:
        # Beside recurrent layers `full_attention` may have a window all the same (MiniMax).
        full = bool(_FULL & kinds) and kinds <= _FULL | (_WITHOUT if full else set())
    return full and config._attn_implementation in ("sdpa", "eager")
