"""Token ids and numbers as a program gives them, checked before a model reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from opdlab.errors import DataError, ModelError
from opdlab.shapes import Int, Tensor


def token_ids(name: str, given: object, vocabulary: int, least: int = 0) -> Int[Tensor, "*n"]:
    """Token ids on the host; from `least` to below `vocabulary`.

    Returns:
        A tensor of whole numbers on the host.

    Raises:
        DataError: they are no whole numbers, or the model has no such entry.
    """
    try:
        found = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        text = isinstance(given, str)
        hint = "; Teacher.encode or a tokenizer turns text into these" if text else ""
        raise DataError(
            f"{name} is {given!r:.60}; give token ids, equally many a row{hint}"
        ) from error
    if found.numel() and (found.is_floating_point() or found.dtype == torch.bool):
        raise DataError(f"{name} holds {found.dtype}; give token ids, which are whole numbers")
    found = found.long().cpu()
    wrong = found[(found < least) | (found >= vocabulary)]
    if wrong.numel():
        raise DataError(
            f"{name} holds the token id {int(wrong[0])}; the teacher has 0 to {vocabulary - 1}"
        )
    return found


def rows_of(name: str, given: Any) -> list[Any]:
    """Rows of token ids, of whatever yields them.

    Returns:
        The rows as a list.

    Raises:
        DataError: it is a text, a mapping such as a tokenizer's output, or nothing with rows.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        hint = "; give its input_ids, without filler" if isinstance(given, Mapping) else ""
        raise DataError(
            f"{name} are a {type(given).__name__}; give a list of rows of token ids{hint}"
        )
    return list(given)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number within bounds.

    Returns:
        The number as an `int`.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise DataError(f"{name}={value!r}; give a whole number from {least} to {most}")
    return value


def usable(device: str | torch.device) -> torch.device:
    """A device of this machine.

    Returns:
        The device.

    Raises:
        ModelError: there is none of this name.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise ModelError(
            f"device {device!r} cannot be used here ({said:.120}); leave it out"
        ) from error
