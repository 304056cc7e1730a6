"""Reference answers as data sets write them, and answers as models do."""

from __future__ import annotations

import re
from typing import Any

from opdlab.datafiles import opened
from opdlab_evaluators.answers import MISSING, after_thinking, written

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_PAIRS = (
    *(("**", "**"), ("*", "*"), ("`", "`"), ("$", "$"), ('"', '"'), ("'", "'")),
    *(("\u201c", "\u201d"), ("\u2018", "\u2019"), ("\u00ab", "\u00bb"), ("\\(", "\\)")),
)
_NAMED = re.compile(r"(?:final\s+)?answer\s*(?:is|:)\s*:?\s*(.+)", re.IGNORECASE)


def number_text(value: Any) -> str:
    """A value as a text: of a list of one item that item, also where a text holds the list (`["34"]`).

    Raises:
        ValueError: it is none, or stands for a missing one.
    """
    value = text_list(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    text = written(value)
    if text.strip().casefold() in MISSING:
        raise ValueError(f"{text!r} stands for none")
    return text


def text_list(value: Any) -> Any:
    """The list of texts that a text holds as JSON, as Skywork-OR1 writes its answers; else the value.

    `[3]` and `[1, 2]` stay texts: they are mathematics.
    """
    found = opened(value)
    is_list = isinstance(found, list) and bool(found)
    return found if is_list and all(isinstance(one, str) for one in found) else value


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
        return _unmarked(named[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _unmarked(lines[-1]) if lines else ""


def _unmarked(text: str) -> str:
    """A part of a line without the half of a bold mark that it holds: `** Paris` of `**Answer:** Paris`."""
    text = text.strip()
    if text.count("**") == 1:
        text = text.removeprefix("**").removesuffix("**").strip()
    return text


def bare_text(text: str) -> str:
    r"""A text without marks around it: `**Paris**.`, `"Paris"`, `$\text{Paris}$` and `Paris` are one."""
    before = None
    while text != before:
        before, text = text, text.strip().removesuffix(".").strip()
        if found := _COMMAND.fullmatch(text):
            text = found[1]
        for start, end in _PAIRS:
            inside = text[len(start) : len(text) - len(end)]
            if text.startswith(start) and text.endswith(end) and inside and end not in inside:
                text = inside
    return text
