"""The final answer of a completion: the last balanced box outside the thinking part."""

from __future__ import annotations

import re
from dataclasses import dataclass

from opdlab.own_part import own_part

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_WORD = re.compile(r"\S+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# What may stand between two boxes that together are one answer.
_JOINT = re.compile(r"(?:[\s$,;]|\\[()\[\] ,;]|\\text\{\s*(?:and|or)\s*\}|\band\b|\bor\b)*")
_ANCHOR = re.compile(
    r"####|(?:final|correct)?\s*answer\b[*_]*\s*(?:is|are)?[*_]*\s*(?::|=|\bis\b|(?<=is)|(?<=are))",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"[\s*_:=]*(?:"
    r"\$\$?(?P<dollar>[^$]+)\$|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]"
    r"|(?P<number>[-+]?\\?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?:\s*\\?%)?)(?![\w^\\(])"
    r"|\(?(?P<letter>[A-Z])\)?(?![\w(])"
    r"|(?P<words>[^\n]+?)(?:\.(?=\s|$)|\n|$))",
    re.DOTALL,
)


@dataclass(frozen=True)
class Extracted:
    """An answer as it was written, and where it stood: `box`, `boxes` or `words`."""

    text: str
    place: str


def after_thinking(completion: str) -> str:
    """What follows the thinking part; nothing if that was never closed."""
    return own_part(completion)


def extract(completion: str) -> Extracted | None:
    r"""The final answer, or None.

    Boxes that follow one another with nothing but `and`, `or` or a comma between them are one answer:
    `\boxed{3} and \boxed{5}` is `3, 5`. Without any box it is what follows the last `####` or
    `(final) answer is`.
    """
    text = after_thinking(completion)
    boxes = balanced_boxes(text)
    if not boxes:
        # A box that was opened and never closed is an answer cut short, not words.
        return None if _BOX.search(text) else _in_words(text)
    first = len(boxes) - 1
    while first and _JOINT.fullmatch(text[boxes[first - 1][1] : boxes[first][0]]):
        first -= 1
    contents = list(dict.fromkeys(content for _, _, content in boxes[first:]))
    return Extracted(", ".join(contents), "boxes" if len(contents) > 1 else "box")


def balanced_boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of every closed box that is not empty; of nested ones the innermost's."""
    closing = brace_pairs(text)
    found: list[tuple[int, int, str]] = []
    for match in _BOX.finditer(text):
        start = match.end()
        if text[start : start + 1] == "{":
            if start not in closing:
                continue
            end = closing[start] + 1
            content = text[start + 1 : end - 1].strip()
        else:
            word = _WORD.match(text, start)
            end = word.end() if word else start
            content = word[0].strip("$.,") if word else ""
        if found and match.start() < found[-1][1]:
            found[-1] = (*found[-1][:2], content or found[-1][2])
        elif content:
            found.append((match.start(), end, content))
    return found


def brace_pairs(text: str) -> dict[int, int]:
    """Place of the closing brace of every opening one that has it; escaped braces do not count."""
    pairs, waiting = {}, []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            waiting.append(match.start())
        elif match[0] == "}" and waiting:
            pairs[waiting.pop()] = match.start()
    return pairs


def _in_words(text: str) -> Extracted | None:
    anchors = list(_ANCHOR.finditer(text))
    if not anchors:
        return None
    match = _AFTER.match(text, anchors[-1].end())
    found = next((value for value in match.groupdict().values() if value), "") if match else ""
    return Extracted(found.strip(), "words") if found.strip() else None
