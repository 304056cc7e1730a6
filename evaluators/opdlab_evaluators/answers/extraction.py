"""The final answer of a completion: the last balanced box outside the thinking part, or a phrase."""

from __future__ import annotations

import re
from dataclasses import dataclass

from opdlab.modelling import own_part
from opdlab_evaluators.answers.closings import untagged
from opdlab_evaluators.answers.phrases import answer_phrase, last_statement

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
# What a box without braces may hold: a number, a letter that stands alone, a command with its arguments.
_BARE = re.compile(
    r"\$?(?:-?\d[\d.,/]*|[A-Za-z](?![A-Za-z])|\\[a-zA-Z]+(?:\s?\{[^{}]{0,200}\}){0,3})"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# What may stand between two boxes that together are one answer.
_JOINT = re.compile(r"(?:[\s$,;]|\\[()\[\] ,;]|\\text\{\s*(?:and|or)\s*\}|\band\b|\bor\b)*")
_PLACEHOLDER = re.compile(
    r"(?:(?:\\[;,:! ]|~)+|\.{2,4}|…|\\[lc]?dots|_+"
    r"|\\(?:text|mathrm)\{(?:\s|\.{2,4}|your |final |the )*(?:answer)?\s*\}"
    r"|(?:your |final |the )*answer)?",
    re.IGNORECASE,
)
# A mark of the end that was decoded into the text.
_END = re.compile(r"<\|(?:end_?of_?text|eot_id|im_end)\|>|</s>|<eos>", re.IGNORECASE)
# Where a model that was not told to stop goes on with a problem of its own.
_NEXT_TURN = re.compile(
    r"\n[ \t]{0,3}\n[ \t]{0,3}[*#_ ]{0,6}(?:Question|Q|User|Human|Problem|Exercise|Example)"
    r"[ \t]?\d{0,4}[*_]{0,2}[:.]",
)
BETWEEN = 200
"""Characters between two boxes that may be one answer."""


@dataclass(frozen=True)
class Extracted:
    """An answer as it was written, and where it stood: `box`, `boxes` or `words`."""

    text: str
    place: str


@dataclass(frozen=True)
class _Box:
    start: int
    end: int
    content: str
    braced: bool
    closed: bool = True


def after_thinking(completion: str) -> str:
    """What follows the thinking part; nothing if that was never closed."""
    return own_part(completion)


def extract(completion: str) -> Extracted | None:
    r"""The final answer, or None.

    Boxes that follow one another with nothing but `and`, `or` or a comma between them are one answer:
    `\boxed{3} and \boxed{5}` is `3, 5`. A last box that is never closed is an answer cut short, and no
    earlier one stands for it. Without any box it is the phrase that follows `(final) answer is` or `####`,
    else what the last line states. What follows a question that the model asks itself is another turn.
    """
    text = _END.split(after_thinking(completion), maxsplit=1)[0]
    turn = _NEXT_TURN.search(text)
    if turn is not None:
        first = _extracted(text[: turn.start()], named=True)
        if first is not None and (first.place != "words" or _BOX.search(text, turn.end()) is None):
            return first
    return _extracted(text)


def _extracted(text: str, named: bool = False) -> Extracted | None:
    """The answer of one turn; `named` leaves out one that only its place at the end tells."""
    boxes = _boxes(text)
    if any(box.braced for box in boxes):
        # Beside boxes with braces a bare one is a word of the text.
        boxes = [box for box in boxes if box.braced]
    if not boxes:
        text = untagged(text)
        phrase = answer_phrase(text) or (None if named else last_statement(text))
        return None if phrase is None else Extracted(phrase, "words")
    if not boxes[-1].closed:
        return None
    boxes = [box for box in boxes if box.closed]
    first = len(boxes) - 1
    while first:
        between = text[boxes[first - 1].end : boxes[first].start]
        if len(between) > BETWEEN or not _JOINT.fullmatch(between):
            break
        first -= 1
    contents = list(dict.fromkeys(box.content for box in boxes[first:]))
    return Extracted(", ".join(contents), "boxes" if len(contents) > 1 else "box")


def _boxes(text: str) -> list[_Box]:
    """Boxes that hold something, in order; of nested ones the innermost's content."""
    marks = list(_BOX.finditer(text))
    if not marks:
        return []
    closing = brace_pairs(text)
    found: list[_Box] = []
    for match in marks:
        start = match.end()
        if text[start : start + 1] == "{":
            box = _braced(text, match.start(), start, closing)
        else:
            bare = _BARE.match(text, start)
            content = bare[0].strip("$.,") if bare else ""
            box = _Box(match.start(), bare.end() if bare else start, content, False)
        if box is None or (box.closed and _PLACEHOLDER.fullmatch(box.content)):
            continue
        if found and found[-1].closed and match.start() < found[-1].end:
            if box.closed:
                outer = found[-1]
                found[-1] = _Box(outer.start, outer.end, box.content, outer.braced)
        else:
            found.append(box)
    return found


def _braced(text: str, start: int, brace: int, closing: dict[int, int]) -> _Box | None:
    if brace in closing:
        end = closing[brace]
        return _Box(start, end + 1, text[brace + 1 : end].strip(), True)
    if text[max(start - 1, 0) : start] == "`":
        return None
    rest = text[brace + 1 : brace + 80]
    if rest.strip() and not rest.strip(" `\n"):
        return None
    return _Box(start, len(text), "", True, closed=False)


def brace_pairs(text: str) -> dict[int, int]:
    """Place of the closing brace of every opening one that has it; escaped braces do not count."""
    pairs, waiting = {}, []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            waiting.append(match.start())
        elif match[0] == "}" and waiting:
            pairs[waiting.pop()] = match.start()
    return pairs
