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

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel, masking_utils, modeling_flash_attention_utils

from opdlab.shapes import Int, Tensor

_UNPACKED: ContextVar[bool] = ContextVar("rows_are_unpacked", default=False)
_MASKED: ContextVar[bool] = ContextVar("masks_are_made", default=False)
_ONES: ContextVar[Tensor | None] = ContextVar("mask_of_ones", default=None)


@contextmanager
def unpacked_rows() -> Iterator[None]:
    """Forwards within, of this thread, take each row for one text without looking at its positions."""
    # None says that no row is packed.
    _teach(masking_utils, "find_packed_sequence_indices", _UNPACKED, None)
    _teach(modeling_flash_attention_utils, "_is_packed_sequence", _UNPACKED, False)
    _teach(PreTrainedModel, "warn_if_padding_and_no_attention_mask", _UNPACKED, None)
    with _known(_UNPACKED):
        yield


@contextmanager
def masked_rows() -> Iterator[None]:
    """Forwards within, of this thread, make the mask of `sdpa` without looking whether one is needed."""
    _teach(masking_utils, "_ignore_causal_mask_sdpa", _MASKED, False)
    with _known(_MASKED):
        yield


@contextmanager
def all_seen(mask: Int[Tensor, "B S"]) -> Iterator[None]:
    """Forwards within, of this thread, give recurrent layers `mask`, all ones, without looking at it."""
    asked: Any = getattr(masking_utils, "is_tracing", None)
    if asked is not None and not getattr(asked, "taught", False):

        @wraps(asked)
        def known_or_asked(tensor: Any = None) -> bool:
            return (tensor is not None and tensor is _ONES.get()) or asked(tensor)

        vars(known_or_asked)["taught"] = True
        masking_utils.is_tracing = known_or_asked
    before = _ONES.set(mask)
    try:
        yield
    finally:
        _ONES.reset(before)


@contextmanager
def _known(known: ContextVar[bool]) -> Iterator[None]:
    before = known.set(True)
    try:
        yield
    finally:
        known.reset(before)


def _teach(asker: ModuleType | type, question: str, known: ContextVar[bool], answer: Any) -> None:
    """Let a question of the library be answered by who knows, until somebody puts another one there."""
    asked: Any = getattr(asker, question, None)
    if asked is None or getattr(asked, "taught", False):
        return

    @wraps(asked)
    def known_or_asked(*arguments: Any, **named: Any) -> Any:
        return answer if known.get() else asked(*arguments, **named)

    vars(known_or_asked)["taught"] = True
    setattr(asker, question, known_or_asked)
