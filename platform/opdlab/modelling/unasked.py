"""What transformers asks the device about rows, each time making the host wait, though it is known here.

- Where a forward has neither mask nor cache: whether the positions of a row jump, as those of several texts
  packed into one row do (`masking_utils.find_packed_sequence_indices`). No row here is packed.
- Where a layer attends by flash attention to a single row: the same, in every layer
  (`modeling_flash_attention_utils._is_packed_sequence`).
- Where a forward has no mask, in some models (GPT-2): whether a row begins or ends with a filler, so as to
  warn of it (`PreTrainedModel.warn_if_padding_and_no_attention_mask`).
- Where a forward has a mask: whether it hides anything (`masking_utils._ignore_causal_mask_sdpa`), so that
  attention could do without it. It may always have it. For recurrent layers the same
  (`create_recurrent_attention_mask`), unless it is being traced: layers may have a mask that hides nothing.

A transformers that does not ask in this way, or asks elsewhere, is left as it is: it may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any, TypeVar

from transformers import PreTrainedModel, masking_utils, modeling_flash_attention_utils

from opdlab.shapes import Int, Tensor

Value = TypeVar("Value")

_UNPACKED: ContextVar[bool] = ContextVar("rows_are_unpacked", default=False)
_MASKED: ContextVar[bool] = ContextVar("masks_are_made", default=False)
_ONES: ContextVar[Tensor | None] = ContextVar("mask_of_ones", default=None)


@contextmanager
def unpacked_rows() -> Iterator[None]:
    """Forwards within, of this thread, take each row for one text without looking at its positions."""
    # None says that no row is packed.
    _teach(masking_utils, "find_packed_sequence_indices", _are_unpacked, None)
    _teach(modeling_flash_attention_utils, "_is_packed_sequence", _are_unpacked, False)
    _teach(PreTrainedModel, "warn_if_padding_and_no_attention_mask", _are_unpacked, None)
    with _known(_UNPACKED, True):
        yield


@contextmanager
def masked_rows() -> Iterator[None]:
    """Forwards within, of this thread, make the mask of `sdpa` without looking whether one is needed."""
    _teach(masking_utils, "_ignore_causal_mask_sdpa", _are_masked, False)
    with _known(_MASKED, True):
        yield


@contextmanager
def all_seen(mask: Int[Tensor, "B S"]) -> Iterator[None]:
    """Forwards within, of this thread, give recurrent layers `mask`, all ones, without looking at it."""
    _teach(masking_utils, "is_tracing", _is_of_ones, True)
    with _known(_ONES, mask):
        yield


def _are_unpacked(*_arguments: Any, **_named: Any) -> bool:
    return _UNPACKED.get()


def _are_masked(*_arguments: Any, **_named: Any) -> bool:
    return _MASKED.get()


def _is_of_ones(tensor: Tensor | None = None) -> bool:
    return tensor is not None and tensor is _ONES.get()


@contextmanager
def _known(var: ContextVar[Value], value: Value) -> Iterator[None]:
    before = var.set(value)
    try:
        yield
    finally:
        var.reset(before)


def _teach(
    asker: ModuleType | type, question: str, knows: Callable[..., bool], answer: Any
) -> None:
    """Let a question of the library be answered by who knows, until somebody puts another one there.

    Args:
        knows: whether the answer is known, of the arguments of the question.
    """
    asked: Any = getattr(asker, question, None)
    if asked is None or getattr(asked, "taught", False):
        return

    @wraps(asked)
    def known_or_asked(*arguments: Any, **named: Any) -> Any:
        return answer if knows(*arguments, **named) else asked(*arguments, **named)

    vars(known_or_asked)["taught"] = True
    setattr(asker, question, known_or_asked)
