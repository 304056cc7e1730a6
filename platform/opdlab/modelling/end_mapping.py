"""A student whose end of an answer is a token that its teacher does not have: it ends by the teacher's own.

What the student's vocabulary projection says of its own end stands in the place of the teacher's, too.
Its own place is beyond the entries that both have, from which alone a student is sampled and scored. So
sampling, losses and their gradients are those of a student whose end has the teacher's number; weights and
files stay as they are.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from opdlab.shapes import Tensor

_MAPPED: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], RemovableHandle]] = WeakKeyDictionary()


def mapped_ends(model: PreTrainedModel) -> tuple[int, ...] | None:
    """Ends of a model whose own was mapped; None for any other model."""
    return _MAPPED[model][0] if model in _MAPPED else None


def unmap_end(model: PreTrainedModel) -> None:
    """Let a model end its answers by its own tokens again."""
    if model in _MAPPED:
        _MAPPED.pop(model)[1].remove()


def map_end(model: PreTrainedModel, own: int, end: int, others: tuple[int, ...]) -> tuple[int, ...]:
    """Let a model end its answers by `end` as it would by `own`, until it is unmapped.

    Args:
        own: beyond the entries that are sampled from.
        end: among them; what the model says of it itself is left out.
        others: by which it ends its answers as well.

    Returns:
        its ends.
    """
    head: Any = model.get_output_embeddings()

    def put(_module: nn.Module, _inputs: Any, logits: Tensor) -> Tensor:
        # In place: a copy of all logits would be the largest tensor of a step.
        logits[..., end] = logits[..., own]
        return logits

    ends = tuple(sorted({end, *others}))
    _MAPPED[model] = ends, head.register_forward_hook(put)
    return ends
