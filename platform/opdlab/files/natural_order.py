"""Names in the order that people count in: `step-999` before `step-1000`, `runs/x-2` before `runs/x-10`."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(\d+)", re.ASCII)


def natural(name: object) -> list[tuple[int, str]]:
    """Key to sort names or paths by: their numbers compare as numbers, the rest as text."""
    parts = _NUMBER.split(str(name))
    # Text and numbers take turns, so like meets like; the text of a number decides between 7 and 07.
    return [(int(part) if part.isdecimal() else -1, part) for part in parts]
