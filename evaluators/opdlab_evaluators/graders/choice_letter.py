"""`choice`: the letter of one of several choices."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from opdlab.plugins import Grader
from opdlab.records import Problem, Verdict
from opdlab_evaluators.answers import after_thinking
from opdlab_evaluators.graders.references import last_box, text_list

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# No two parts that follow each other take the same character: time is linear in what a model wrote.
_OPEN = r"(?:[\s(\[{<*_`$\"']|\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\{|\\\()*"
_FRAMED = re.compile(_OPEN + r"([A-Za-z])(?:[\s)\]}>.,:;*_`$\"']|\\\))*")
_LETTER = (
    rf"{_OPEN}(?:(?:option|choice)\b{_OPEN})?([A-Z])(?![^\W_]|['\u2019]\w)"
    r"(?! (?:think|believe|guess|would|am)\b)"  # after `I`
)
_IS = r"(?:is|would be|should be|must be)\b"
_NAMED = re.compile(
    rf"(?:answer|choice|option)[*_`]*(?:\s*[:=\u2013\u2014-]|\s+{_IS}(?:\s*:)?){_LETTER}",
    re.IGNORECASE,
)
_JUDGED = re.compile(
    r"(?<![\w'\u2019])([A-Z])[)\]}>*_`.:]*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
)
_TAKEN = re.compile(
    rf"\b(?:go(?:ing)? with|choose|chose|pick|select|it is|it's|it\u2019s|it must be)\s{_LETTER}"
)
_MENTIONED = re.compile(rf"(?:answer|choice|option){_LETTER}", re.IGNORECASE)
_ALONE = re.compile(r"(?:^|[\s(\[*_])([A-Z])(?:[)\].,:*_]|\s|$)")


@dataclass(frozen=True)
class ChoiceLetter(Grader):
    """A letter: boxed, named as the answer, or alone on the last line."""

    @property
    def version(self) -> str:
        return "choice-3"

    def gold(self, value: Any) -> str:
        """The letter, or the number of the choice from 0; also as the one item of a list."""
        value = text_list(value)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, float) and value.is_integer():
            # A table with a missing value holds its whole numbers as decimals.
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(LETTERS):
                raise ValueError(f"{value} is the number of no choice")
            return LETTERS[value]
        text = str(value).strip()
        found = _FRAMED.fullmatch(text)
        if not isinstance(value, str) or (not found and not text.isdecimal()):
            raise ValueError(f"{value!r:.40} is no letter of a choice")
        if found:
            return found[1].upper()
        return self.gold(int(text))

    def grade(self, problem: Problem, completion: str) -> Verdict:
        letter = chosen(completion)
        if letter is None:
            return Verdict("no_answer", reason="no letter is boxed, named, or alone at the end")
        return Verdict("correct" if letter == problem.gold else "wrong", letter)

    def right_answer(self, problem: Problem) -> str | None:
        return f"The answer is {problem.gold}."


def chosen(completion: str) -> str | None:
    """The letter that a completion chooses; the last one that it names counts."""
    text = unicodedata.normalize("NFC", after_thinking(completion)).strip()
    inside = last_box(text)
    if inside is not None and (found := _FRAMED.fullmatch(inside) or _ALONE.search(inside)):
        return found[1].upper()
    if (named := _last(_NAMED, text)) is not None:
        return named
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and (found := _FRAMED.fullmatch(lines[-1])):
        return found[1].upper()
    # `Option A is wrong` names no answer where another letter is named as one.
    for pattern in (_JUDGED, _TAKEN, _MENTIONED):
        if (named := _last(pattern, text)) is not None:
            return named
    found = re.match(r"\s*[(\[]?([A-Z])[)\].:](?:\s|$)", text)
    return found[1] if found else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    # `the answer is a hard one` names no choice: a small letter counts at the end of its line alone.
    named = [m for m in pattern.finditer(text) if m[1].isupper() or _ends(text, m.end())]
    return named[-1][1].upper() if named else None


def _ends(text: str, place: int) -> bool:
    return not text[place:].partition("\n")[0].strip(" )].*_`}\"'")
