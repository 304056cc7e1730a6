"""Rows that hold one text each, which transformers need not look at to find that out.

Where a forward has neither mask nor cache, transformers asks the device whether the positions of a row
jump, as those of several texts packed into one row do (`masking_utils.find_packed_sequence_indices`), and
has the host wait for the answer, once for each kind of mask of every forward. No row here is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any

from transformers import masking_utils

_ASKING = "find_packed_sequence_indices"
_KNOWN: ContextVar[bool] = ContextVar("rows_are_unpacked", default=False)


@contextmanager
def unpacked_rows() -> Iterator[None]:
    """Forwards within, of this thread, take each row for one text without looking at its positions.

    A transformers that does not ask in this way, or asks elsewhere, is left as it is: it may wait.
    """
    _teach()
    before = _KNOWN.set(True)
    try:
        yield
    finally:
        _KNOWN.reset(before)


@cache
def _teach() -> None:
    """Let the library's question be answered by who knows."""
    asked: Any = getattr(masking_utils, _ASKING, None)
    if asked is None:
        return

    @wraps(asked)
    def known_or_asked(*positions: Any, **named: Any) -> Any:
        # None says that no row is packed.
        return None if _KNOWN.get() else asked(*positions, **named)

    setattr(masking_utils, _ASKING, known_or_asked)
