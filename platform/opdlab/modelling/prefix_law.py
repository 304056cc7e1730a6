"""Whether what a model says after a prefix is the same in forwards of every length: found by trying.

Sampling, loss and scores read a prefix in forwards of different lengths. A model that picks keys by the
ranks of their scores ("sparse attention") may pick others among equal ones when a forward is longer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

from opdlab.errors import ModelError
from opdlab.modelling.eval_mode import without_dropout
from opdlab.modelling.head import hidden_states, log_distribution
from opdlab.modelling.length_dependence import original_length, thresholds
from opdlab.modelling.position_table import require_positions
from opdlab.shapes import Int, Tensor

# Prefixes that are tried, beside those that end just beyond a place named by the configuration.
_TRIED = 8
# Rows that are tried together, where they have no more tokens than that.
_ROWS, _TOKENS = 4, 4096
# Tokens that show whether a model looks ahead, where its configuration names no place.
_FEW = 9

_HELD: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@dataclass(frozen=True)
class Tried:
    """What `check_prefixes` holds against forwards of prefixes alone.

    Attributes:
        rows, end: rows of so many tokens, in one forward.
        first: the first place at which something may change.
        prefixes: ascending, tokens of each.
    """

    rows: int
    end: int
    first: int
    prefixes: list[int]

    def of_length(self, end: int) -> Tried:
        """As many rows of so many tokens, fewer than now, with as large prefixes of them."""
        prefixes = [max(1, prefix * end // self.end) for prefix in self.prefixes]
        return replace(self, end=end, prefixes=prefixes)


def prefixes_tried(model: PreTrainedModel, longest: int) -> Tried:
    """What is tried of a model whose rows have so many tokens."""
    # Answers may end long before the room that they have, and before the model has no more positions.
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    end = min(longest, original_length(model) or longest, room or longest)
    places = [place for place in thresholds(model) if place < end]
    if not places:
        end, places = min(end, _FEW), [1]
    first, steps = places[0], range(1, _TRIED + 1)
    spread = {first + (end - first) * step // (_TRIED + 1) for step in steps}
    prefixes = sorted(prefix for prefix in spread | {place + 1 for place in places} if prefix < end)
    return Tried(max(1, min(_ROWS, _TOKENS // end)), end, first, prefixes)


def check_prefixes(model: PreTrainedModel, longest: int) -> None:
    """Refuse rows of so many tokens where the length of a forward changes what is said after a prefix.

    Tried once in a few tokens; and again when rows become longer, beyond the first place at which the
    configuration says that layers may begin to do something else, and up to where rotary frequencies
    depend on a forward's length, which `stretches` takes care of.

    Raises:
        ModelError: it does, or a model has no positions for them.
    """
    require_positions(model, longest)
    tried = prefixes_tried(model, longest)
    if _HELD.get(model, 0) >= tried.end:
        return
    first, prefixes = tried.first, tried.prefixes
    size = model.config.get_text_config().vocab_size
    count = tried.rows * tried.end
    tokens = ((torch.arange(count).view(tried.rows, -1) * 7919 + 11) % size).to(model.device)
    with without_dropout(model):
        gap = prefix_gap(model, tokens, prefixes) if prefixes else 0.0
    # What is NaN is the weights; who samples or scores says where.
    if gap > _tolerance(model) and first == 1:
        raise ModelError(
            f"what {type(model).__name__} says at a token depends on later tokens (by {gap:.2g} nats), so "
            "it cannot be sampled, trained or scored; choose a decoder-only model"
        )
    if gap > _tolerance(model):
        raise ModelError(
            f"what {type(model).__name__} says after a prefix of more than {first} tokens depends on how "
            f"long a forward is (by {gap:.2g} nats in one of {tried.end} tokens), as when it looks ahead "
            "or picks keys by scores that tie: such rows cannot be sampled, trained or scored; keep prompt "
            f"and response to {first} tokens (rollout.max_new_tokens), or choose another model"
        )
    _HELD[model] = tried.end


def forget_prefixes(model: PreTrainedModel) -> None:
    """Try a model anew that was tried before."""
    _HELD.pop(model, None)


@torch.no_grad()
def prefix_gap(model: PreTrainedModel, tokens: Int[Tensor, "B S"], prefixes: list[int]) -> float:
    """Mean difference, in nats, of what is said after prefixes in one forward of rows and in their own.

    Each prefix alone: a teacher's scores should take more memory than what is tried before.
    """
    states = hidden_states(model, tokens)
    gaps = []
    for prefix in prefixes:
        whole = log_distribution(model, states[:, prefix - 1], None)
        alone = log_distribution(model, hidden_states(model, tokens[:, :prefix])[:, -1], None)
        gaps.append(float((whole - alone).abs_().masked_fill_(whole == alone, 0.0).mean()))
    return fmean(gaps)


def _tolerance(model: PreTrainedModel) -> float:
    """Mean difference, in nats, that rounding can explain."""
    whole = model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)
    return 1e-4 if whole else 0.1
