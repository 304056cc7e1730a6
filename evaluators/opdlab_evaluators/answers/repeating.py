r"""Decimals that repeat: `0.\overline{3}`, `0.\dot{1}4285\dot{7}`, `0.333\ldots`, `0.(3)`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from opdlab_evaluators.answers.tokens import Token, Unread

_OVER = ("\\overline", "\\bar", "\\overbar")
_DOTS = ("\\dots", "\\ldots", "\\cdots", "\\dotsc", "\\ldot")
LONGEST = 400


def repeating(token: Token, tokens: Sequence[Token], place: int) -> tuple[Fraction, int]:
    """The value of a number and what of the tokens behind it belongs to it.

    Args:
        token: the number; what follows it begins at `place`.

    Raises:
        Unread: digits whose continuation is unknown.
    """
    text = str(token)
    after = str(tokens[place]) if place < len(tokens) else ""
    if "e" in text or "E" in text:
        return _science(text), place
    if after in (*_OVER, "\\dot") and "." in text:
        return _marked(text, tokens, place)
    if after == "(" and text.endswith("."):
        texts = [str(t) for t in tokens[place : place + 3]]
        return _value(text[:-1], "", texts[1]), place + 3
    if after in _DOTS:
        return _typed(text), place + 1
    return Fraction(text.rstrip(".") or "0"), place


def with_bar(tokens: Sequence[Token]) -> list[Token]:
    r"""`0.1(6)`, as a whole value, as `0.1\overline{6}`; inside an expression it is a product."""
    tokens = list(tokens)
    start = 1 if tokens and str(tokens[0]) == "-" else 0
    number, *rest = [str(token) for token in tokens[start : start + 4]] or [""]
    if "." not in number or not rest or (rest[0], rest[-1]) != ("(", ")") or len(rest) != 3:
        return tokens
    if not rest[1].isdigit() or any(t.kind in ("number", "letter") for t in tokens[start + 4 :]):
        return tokens
    over = [
        Token("command", "overline"),
        Token("symbol", "{"),
        tokens[start + 2],
        Token("symbol", "}"),
    ]
    return [*tokens[: start + 1], *over, *tokens[start + 4 :]]


def _science(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if abs(int(exponent)) > 4000:
        raise Unread("an exponent of more than 4,000")
    return Fraction(mantissa) * Fraction(10) ** int(exponent)


def _marked(text: str, tokens: Sequence[Token], place: int) -> tuple[Fraction, int]:
    whole, _, fixed = text.partition(".")
    first, dotted = str(tokens[place]), ""
    if first in _OVER:
        while place < len(tokens) and str(tokens[place]) == first:
            digits, place = _argument(tokens, place + 1)
            dotted += digits
    else:
        dotted, place = _argument(tokens, place + 1)
        between = ""
        if place < len(tokens) and tokens[place].kind == "number" and tokens[place].text.isdigit():
            between, place = tokens[place].text, place + 1
        if place < len(tokens) and str(tokens[place]) == "\\dot":
            last, place = _argument(tokens, place + 1)
            dotted += between + last
        elif between:
            raise Unread("a digit with a dot, and others behind it")
    if place < len(tokens) and tokens[place].kind == "number":
        raise Unread("digits behind those that repeat")
    if place < len(tokens) and str(tokens[place]) in _DOTS:
        place += 1
    return _value(whole, fixed, dotted), place


def _argument(tokens: Sequence[Token], place: int) -> tuple[str, int]:
    texts = [str(token) for token in tokens[place : place + 3]]
    if texts[:1] == ["{"] and texts[2:] == ["}"] and texts[1].isdigit():
        return texts[1], place + 3
    if texts and len(texts[0]) == 1 and texts[0].isdigit():
        return texts[0], place + 1
    raise Unread("digits that repeat are no digits")


def _typed(text: str) -> Fraction:
    whole, point, digits = text.partition(".")
    if not point or len(digits) > LONGEST:
        raise Unread("digits whose continuation is unknown")
    for period in range(1, len(digits) // 2 + 1):
        # The end is whole periods, two at least; a single digit three times, or from the point on.
        least = 3 * period if period == 1 else 2 * period
        block = digits[-period:]
        count = 0
        while digits.endswith(block * (count + 1)) and (count + 1) * period <= len(digits):
            count += 1
        fixed = digits[: len(digits) - count * period]
        if count * period >= least or (count > 1 and not fixed):
            return _value(whole, fixed, block)
    raise Unread("digits whose continuation is unknown")


def _value(whole: str, fixed: str, block: str) -> Fraction:
    if len(fixed) + len(block) > LONGEST:
        raise Unread("too many digits that repeat")
    scale = 10 ** len(fixed)
    start = Fraction(int(f"{whole}{fixed}" or "0"), scale)
    return start + Fraction(int(block), (10 ** len(block) - 1) * scale)
