"""The beginning of a value of any size, as text."""

from __future__ import annotations

from typing import Any

LONGEST = 100
_MANY_BITS = 1000
"""Python refuses to write integers of more than some 4,300 digits."""


def brief(value: Any) -> str:
    """At most `LONGEST` characters; costs no more for a larger value."""
    text = value if isinstance(value, str) else _written(value, LONGEST)
    return text.strip()[:LONGEST] if len(text) <= LONGEST else text[: 2 * LONGEST].strip()[:LONGEST]


def _written(value: Any, room: int) -> str:
    if isinstance(value, int) and value.bit_length() > _MANY_BITS:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (str, bytes)):
        return repr(value[:LONGEST])
    if isinstance(value, (list, tuple, dict)) and room > 0:
        parts = []
        for key in value:
            part = _written(key, room - 1)
            if isinstance(value, dict):
                part += f": {_written(value[key], room - 1)}"
            parts.append(part)
            room -= len(part) + 2
            if room <= 0:
                break
        opened, closed = {list: "[]", tuple: "()", dict: "{}"}[type(value)]
        return f"{opened}{', '.join(parts)}{closed if room > 0 else ''}"
    return "..." if isinstance(value, (list, tuple, dict)) else str(value)
