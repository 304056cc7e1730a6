"""Reference answers as data sets write them, and answers as models do."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from opdlab_evaluators.answers import MISSING, after_thinking, written

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4})?"
)
_NAMED = re.compile(r"(?:final\s+)?answer\s*(?:is|:)\s*:?\s*(.+)", re.IGNORECASE)


def number_text(value: Any) -> str:
    """A value as a text: of a list of one item that item.

    Raises:
        ValueError: it is none, or stands for a missing one.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = written(value)
    if text.strip().casefold() in MISSING:
        raise ValueError(f"{text!r} stands for none")
    return text


def solution_answer(text: str) -> str:
    """What a worked solution ends in: after `####`, or in its last box; any other text is the answer."""
    before, mark, after = text.rpartition("####")
    if mark and before.strip():
        return after.strip()
    if (inside := last_box(text)) is not None and inside.strip():
        return inside
    return text.strip()


def last_box(text: str) -> str | None:
    """What the last box holds; None where there is none, or it is not closed."""
    found = list(_BOX.finditer(text))
    if not found:
        return None
    depth, start = 1, found[-1].end()
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return text[start:place]
    return None


def said(completion: str) -> str:
    """What a completion answers: its last box, else what follows `answer is`, else its last line."""
    text = after_thinking(completion).strip()
    if (inside := last_box(text)) is not None:
        return inside.strip()
    named = _NAMED.findall(text)
    if named:
        return named[-1].strip().strip("*").strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def last_number(text: str) -> Decimal | None:
    """The last number of a text, commas between thousands left out; a percent or a unit is no part."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-"))
