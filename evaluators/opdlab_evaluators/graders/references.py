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
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([-+\d.,\u2212]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")
_POWER = re.compile(
    r"(?<=\d)\s*(?:\\times|\\cdot|[*\u00d7\u00b7])\s*10\s*(?:\^|\*\*)\s*\{?\s*([-+\u2212]?\d{1,4})\s*\}?"
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\s*\^\s*\{?[-+\u2212]?\d+\}?")
_RATIO = re.compile(rf"({_NUMBER.pattern})(?:\s*/\s*({_NUMBER.pattern}))?")
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
    r"""The last number of a text, commas between thousands left out; a percent or a unit is no part.

    Fractions are divided; `2 \times 10^5` is 200000, and the power of a unit (`12 m^2`) is no number.
    """
    text = _POWER.sub(lambda m: "e" + m[1], _FRACTION.sub(r"\1/\2", text))
    found = _RATIO.findall(_UNIT_POWER.sub("", text))
    if not found:
        return None
    above, below = (one.replace(",", "").replace("\u2212", "-") for one in found[-1])
    if not below:
        return Decimal(above)
    return Decimal(above) / Decimal(below) if Decimal(below) else None
