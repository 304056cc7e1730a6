"""The number that a text names: decimals, fractions, mixed numbers and powers as models write them."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,4})?"
_SIGNED = rf"(?:(?<![\w.)])[-+])?{_UNSIGNED}"
_RATIO = re.compile(rf"(?:(?<![\w.,/])([-+]?\d+)\s+(?=\d))?({_SIGNED})(?:\s*/\s*({_SIGNED}))?")
_FRACTION = re.compile(
    rf"(\d\s*)?\\[dt]?frac\s*(?:\{{\s*({_SIGNED})\s*\}}|(\d))\s*(?:\{{\s*({_SIGNED})\s*\}}|(\d))"
)
_EXPONENT = r"\s*(?:\^|\*\*)\s*\{?\s*([-+]?\d{1,4})\s*\}?"
_SCIENTIFIC = re.compile(rf"(?<=\d)\s*(?:\\times|\\cdot|[*\u00d7\u00b7])\s*10{_EXPONENT}")
_POWER = re.compile(rf"(?<![\w.)}}])(\d+(?:\.\d+)?){_EXPONENT}")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z}])\s*\^\s*\{?[-+]?\d+\}?")
_THOUSANDS = re.compile(
    r"(?<=\d)(?:\{,\}|,\\!|\\[,!;: ]|[~'\u2019\u00a0\u202f\u2009])(?=\d{3}(?!\d))"
)
_SUPERSCRIPT = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_MINUS = re.compile(r"(?:(?<=^)|(?<=[=:({\[,$\u2248]))(\s*)-\s*(?:\\?[$\u20ac\u00a3]\s*)?(?=[\d.])")
_EQUALS = re.compile(r"=|\u2248|\\approx")
LARGEST_EXPONENT = 9000
_EXPRESSION = re.compile(
    r"\\frac|\\[dt]frac|\\sqrt|\u221a|\\pi|\u03c0|\\log|\\ln|\^|\\pm|\u00b1|\di(?![a-z])"
    r"|\d\s*(?:\\cdot|\\times|[+\u00d7\u00b7]|\*(?!\*))\s*[-\d(\\]"
)
"""What makes more of a text than a number; after the last sign of equality it leaves none."""


def last_number(text: str) -> Decimal | None:
    r"""The last number of a text; a percent or a unit is no part. None for none, or for an expression.

    `1,234`, `12{,}345`, `2 \times 10^5`, `10^{-3}`, `3/4`, `3 1/2`, `3\frac{1}{2}` and `3½` are numbers.
    The power of a unit (`12 m^2`) is none, and `\sqrt{2}` names none.
    """
    text = _plain(text)
    tail = text[max((found.end() for found in _EQUALS.finditer(text)), default=0) :]
    if not _RATIO.search(tail):
        tail = text
    if _EXPRESSION.search(tail):
        return None
    found = _RATIO.findall(tail)
    return _value(*found[-1]) if found else None


def _value(whole: str, above: str, below: str) -> Decimal | None:
    first = _decimal(above)
    if not below:
        return first
    if not (second := _decimal(below)):
        return None
    share = first / second
    if not whole or not 0 < share < 1:
        return share
    sign = -1 if whole.startswith("-") else 1
    return sign * (abs(_decimal(whole)) + share)


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _plain(text: str) -> str:
    """Signs, fractions, thousands and powers in one form."""
    text = "".join(_character(one) for one in unicodedata.normalize("NFC", text))
    text = _SUPERSCRIPT.sub(
        lambda m: "^" + unicodedata.normalize("NFKC", m[0]).replace("\u2212", "-"), text
    )
    text = _THOUSANDS.sub("", text)
    text = _FRACTION.sub(_written, text)
    text = _MINUS.sub(r"\1-", text)
    text = _SCIENTIFIC.sub(lambda m: "e" + m[1], text)
    text = _UNIT_POWER.sub("", text)
    return _POWER.sub(_raised, text)


def _raised(found: re.Match[str]) -> str:
    """The value of a power; one that is none, or beyond what numbers are written with, stays as it is."""
    if len(found[1]) * abs(int(found[2])) > LARGEST_EXPONENT:
        return found[0]
    try:
        return str(Decimal(found[1]) ** int(found[2]))
    except ArithmeticError:
        return found[0]


def _character(one: str) -> str:
    if one in "\u2212\u2013\ufe63\uff0d":
        return "-"
    kind = unicodedata.decomposition(one)
    if kind.startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", one).replace("\u2044", "/")
    return "/" if one == "\u2044" else one


def _lowered(found: re.Match[str]) -> str:
    return "^" + unicodedata.normalize("NFKC", found[0]).replace("\u2212", "-")


def _written(found: re.Match[str]) -> str:
    before, above, bare_above, below, bare_below = found.groups()
    start = "" if before is None else before.rstrip() + " "
    return f"{start}{above or bare_above}/{below or bare_below}"
