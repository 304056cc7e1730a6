"""A second opinion on equality: both answers read by `latex_reader` and compared to 60 digits.

Where it cannot read an answer it has no opinion.
"""

from __future__ import annotations

import re

import mpmath

from opdlab_evaluators.answers.latex_reader import POINTS, Unreadable, evaluate
from opdlab_evaluators.answers.latex_text import alternatives, brackets, split_list

DIGITS = 60
TOLERANCE = mpmath.mpf(10) ** -45


def same(gold: str, answer: str) -> bool | None:
    """Whether two plain answers are equal; None where at least one cannot be read."""
    try:
        with mpmath.workdps(DIGITS):
            return _same(gold, answer)
    except (Unreadable, ValueError, ZeroDivisionError, OverflowError, TypeError, RecursionError):
        return None


def _same(gold: str, answer: str) -> bool | None:
    (left, a, right), (left_b, b, right_b) = brackets(gold), brackets(answer)
    golds, answers = split_list(a), split_list(b)
    golds = [reading for part in golds for reading in alternatives(part)]
    answers = [reading for part in answers for reading in alternatives(part)]
    if len(golds) == len(answers) == 1:
        # Brackets around one thing group it, unless they make it a set.
        return _equal(golds[0], answers[0])
    if len(golds) != len(answers):
        return False
    if "\\{" in (left, left_b) and not {left, left_b} <= {"\\{", ""}:
        return False
    ordered = bool(left) and left != "\\{"
    if left and left_b and left != "\\{" and (left, right) != (left_b, right_b):
        return False
    if ordered:
        return all(_equal(x, y) for x, y in zip(golds, answers, strict=True))
    rest = list(answers)
    for x in golds:
        found = next((y for y in rest if _equal(x, y)), None)
        if found is None:
            return False
        rest.remove(found)
    return True


def _equal(gold: str, answer: str) -> bool:
    gold, answer = _value_side(gold), _value_side(answer)
    for shift, _ in enumerate(POINTS):
        x, y = evaluate(gold, shift), evaluate(answer, shift)
        if x == y:
            continue
        if not (mpmath.isfinite(x) and mpmath.isfinite(y)):
            return False
        if isinstance(x, int) and isinstance(y, int):
            return False
        if abs(x - y) > TOLERANCE * max(abs(x), abs(y)):
            return False
    return True


def _value_side(text: str) -> str:
    """The right side of `x = 5`; anything else with a relation is beyond this reader."""
    head, equals, tail = text.partition("=")
    if not equals:
        return text
    if re.fullmatch(r"\s*[a-zA-Z](?:_\w)?\s*", head) and "=" not in tail:
        return tail
    raise Unreadable
