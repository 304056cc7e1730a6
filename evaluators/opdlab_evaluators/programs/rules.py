"""When an output is right: LiveCodeBench's own rule, and a stricter one that is fairer.

official: text stripped, as many lines, each equal or equal token by token as decimals; a returned tuple
is a list, and the rest is Python's `==`. Any exit code will do.

strict: the program must end with 0; tokens equal, but a number with a fraction may differ by 1e-6; whole
numbers are written as whole numbers; `True` is not 1; tuples are lists at any depth.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from typing import Any

from opdlab_evaluators.programs.judging import Answered

TOLERANCE = 1e-6
_FRACTION = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?")

_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
    *("statistics", "itertools", "functools", "operator", "io", "sys", "json"),
)
PREAMBLE = "\n".join(
    [
        *(f"from {name} import *" for name in (*_MODULES, "builtins", "typing")),
        f"import {', '.join(_MODULES)}",
        "sys.setrecursionlimit(50000)",
    ]
)
"""What LiveCodeBench imports before every program; many rely on it."""


def official_text(answered: Answered, expected: str) -> bool:
    """LiveCodeBench's rule for printed output."""
    if not isinstance(answered.value, str):
        return False
    found, wanted = (_lines(text) for text in (answered.value, expected))
    return len(found) == len(wanted) and all(map(_official_line, found, wanted))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _official_line(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    tokens, expected = found.split(), wanted.split()
    if len(tokens) != len(expected):
        return False
    try:
        return [Decimal(t) for t in tokens] == [Decimal(t) for t in expected]
    except InvalidOperation:
        return False


def strict_text(answered: Answered, expected: str) -> bool:
    """The stricter rule for printed output."""
    if not isinstance(answered.value, str) or answered.exit:
        return False
    pairs = zip_longest(_lines(answered.value), _lines(expected))
    return all(a is not None and b is not None and _strict_line(a, b) for a, b in pairs)


def _strict_line(found: str, wanted: str) -> bool:
    pairs = zip_longest(found.split(), wanted.split())
    return all(a is not None and b is not None and _strict_token(a, b) for a, b in pairs)


def _strict_token(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    if not _FRACTION.fullmatch(wanted) or not re.fullmatch(r"[-+\d.eE]+", found):
        return False
    try:
        return math.isclose(float(found), float(wanted), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False


def official_value(answered: Answered, expected: Any) -> bool:
    """LiveCodeBench's rule for returned values."""
    found = answered.value
    return not answered.error and (list(found) if isinstance(found, tuple) else found) == expected


def strict_value(answered: Answered, expected: Any) -> bool:
    """The stricter rule for returned values."""
    return not answered.error and _alike(answered.value, expected)


def _alike(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool) or wanted is None:
        return found is wanted
    if isinstance(wanted, float):
        if not isinstance(found, (int, float)):
            return False
        return found == wanted or _close(found, wanted)
    if isinstance(wanted, list):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return False
        return all(map(_alike, found, wanted))
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or found.keys() != wanted.keys():
            return False
        return all(_alike(found[key], wanted[key]) for key in wanted)
    return type(found) is type(wanted) and found == wanted


def _close(found: float, wanted: float) -> bool:
    try:
        return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:
        return False
