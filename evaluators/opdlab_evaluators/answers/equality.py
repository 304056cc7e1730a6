"""Whether two mathematical answers are the same thing. May run for ever: call it in a process.

The rules, in order: the same text; integers by value; letters and words as text; then math-verify at high
precision, whose yes must not be denied by a second, independent comparison.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from opdlab_evaluators.answers.latex_text import (
    alternatives,
    brackets,
    compact,
    integer,
    letter,
    numeral,
    plain,
    split_list,
)

FLOAT_ROUNDING = 40
NUMERIC_PRECISION = 80
# More digits than these are not worth a symbolic engine's time.
LONGEST = 4000


@dataclass(frozen=True)
class Outcome:
    """Whether they are equal, how that was decided, and whether the two comparisons disagreed."""

    equal: bool
    reason: str
    disputed: bool = False


@cache
def rules() -> str:
    """Version of these rules with that of the library that they rest on."""
    return f"math-1+math-verify-{version('math-verify')}"


def quick(gold: str, answer: str) -> Outcome | None:
    """What can be decided by looking at the text; None if the answers must be worked out."""
    a, b = _plain(gold, answer)
    if not b:
        return Outcome(False, "the answer is empty")
    if compact(a) == compact(b):
        return Outcome(True, "same text")
    x, y = integer(a), integer(b)
    if x is not None and y is not None:
        return Outcome(x == y, "integers")
    if numeral(a) or numeral(b):
        return _numerals(a, b)
    if letter(a) and letter(b):
        return Outcome(letter(a) == letter(b), "letters")
    if _is_words(a) or _is_words(b):
        return Outcome(_words(a) == _words(b), "words")
    if len(b) > LONGEST:
        return Outcome(False, f"longer than {LONGEST} characters")
    return None


def _numerals(gold: str, answer: str) -> Outcome:
    """A gold in a base asks for it, so the answer may leave it out; other answers go by their value."""
    a, b = numeral(gold), numeral(answer)
    if a:
        return Outcome(b == a if b else compact(answer) == a[0], "digits in a base")
    assert b is not None
    try:
        return Outcome(integer(gold) == int(*b), "value in a base")
    except ValueError:
        return Outcome(False, f"{b[0]} is no numeral in base {b[1]}")


def decide(gold: str, answer: str) -> Outcome:
    """Whether the answer equals the gold; both as they were written."""
    decided = quick(gold, answer)
    if decided is not None:
        return decided
    from opdlab_evaluators.answers.numeric import same

    a, b = _plain(gold, answer)
    second = same(a, b)
    first = _symbolic(a, b)
    if first and second is False:
        return Outcome(False, "math-verify says equal, numbers say not", disputed=True)
    if second and not first:
        return Outcome(False, "numbers say equal, math-verify says not", disputed=True)
    return Outcome(first, "math-verify" if second is None else "math-verify and numbers")


def _plain(gold: str, answer: str) -> tuple[str, str]:
    """Both without layout; `1,234` is a number, unless the gold is a list."""
    a = plain(gold)
    return a, plain(answer, thousands=len(split_list(a)) < 2)


def _symbolic(gold: str, answer: str) -> bool:
    left, right = brackets(gold)[0], brackets(answer)[0]
    several = len(split_list(gold)) > 1 or len(split_list(brackets(gold)[1])) > 1
    # math-verify takes {1, 2} for (1, 2): a set has no order, a point has.
    if several and left and right and (left == "\\{") != (right == "\\{"):
        return False
    return _verify(_listed(gold), _listed(answer))


def _listed(text: str) -> str:
    r"""The text with `\pm` written out as two answers, and a space after each comma of a list.

    Without the space math-verify reads `200,100` as one number.
    """
    opening, inside, closing = brackets(text)
    readings = [reading for part in split_list(inside) for reading in alternatives(part)]
    return text if len(readings) == 1 else f"{opening}{', '.join(readings)}{closing}"


def _verify(gold: str, answer: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Limits are the caller's: the library's own rest on SIGALRM.
    options: Any = {
        "extraction_config": [LatexExtractionConfig(boxed_match_priority=0)],
        "fallback_mode": "no_fallback",
        "parsing_timeout": None,
    }
    left, right = (
        parse(f"$\\boxed{{{gold}}}$", **options),
        parse(f"$\\boxed{{{answer}}}$", **options),
    )
    if not left or not right:
        return False
    return bool(
        verify(
            left,
            right,
            float_rounding=FLOAT_ROUNDING,
            numeric_precision=NUMERIC_PRECISION,
            timeout_seconds=None,
        )
    )


def _is_words(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z' -]*[A-Za-z]", text)) and len(text) > 3


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+|\b(?:an?|the)\s", " ", text.lower()).strip()
