"""Calculations in a sentence that are right: `9 + 6 = 15 liters` says 15 liters.

`60 miles - 35 miles = 25 miles` is read as 25 miles where the left side, worked out here, is 25. What is
not worked out right, or holds a letter, stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from opdlab_evaluators.answers.amounts import Amount, Piece
from opdlab_evaluators.answers.statement_words import CHANGING, DENIED_IN_SUBJECT, LINKS, OPERATORS
from opdlab_evaluators.answers.tokens import DENYING

_SIGNS = {"+": "+", "-": "-", "−": "-", "–": "-", "*": "*", "×": "*", "x": "*", "·": "*"}
_SIGNS |= {"⋅": "*", "/": "/", "÷": "/", "times": "*", "plus": "+", "minus": "-"}
_MOST_WORDS = 8
_LONGEST = 40
_LARGEST = 10**15
# `Thus it is 9 - 4 = 5`: words that part what stands before a calculation from it.
_PARTING = CHANGING | DENYING | DENIED_IN_SUBJECT | LINKS | {"and", "so"}


def worked_sums(pieces: list[Piece]) -> list[Piece]:
    """The pieces with each right calculation replaced by its result, which keeps what it was made of."""
    at = len(pieces) - 2
    while at > 0:
        if pieces[at].text == "=" and pieces[at].amount is None:
            found = _result(pieces, at)
            if found is not None:
                start, piece = found
                pieces = [*pieces[:start], piece, *pieces[at + 2 :]]
                at = start
        at -= 1
    return pieces


def _result(pieces: Sequence[Piece], at: int) -> tuple[int, Piece] | None:
    """Where a calculation that ends at an equals sign begins, and its result; None of others."""
    said = pieces[at + 1]
    worth = said.amount.worth if said.amount else None
    if said.amount is None or worth is None or abs(worth) > _LARGEST or "/" in said.text:
        return None
    following = pieces[at + 2 : at + 4]
    if len(following) == 2 and following[0].text in _SIGNS and following[1].amount:
        return None
    for start in range(max(at - _LONGEST, 0), at):
        piece, before = pieces[start], pieces[start - 1] if start else None
        if (piece.amount is None and piece.text != "(") or (before and before.text in _SIGNS):
            continue
        reader = _Reader(pieces[start:at])
        value = reader.whole()
        if value is not None and reader.operands > 1 and _is(value, said.amount):
            made = tuple(reader.made)
            amount = replace(said.amount, made_of=(*made, *said.amount.made_of))
            return start, Piece(said.text, amount, before is not None and piece.glued)
    return None


def _is(value: Fraction, said: Amount) -> bool:
    """Whether a value is what was said, or what was said is the value in decimals or in percent."""
    worth = said.worth
    assert worth is not None
    _, _, decimals = said.text.rstrip("%\\ ").partition(".")
    off = abs(value - worth)
    if decimals.isdigit() and "%" not in said.text:
        return off * 2 * 10 ** len(decimals) <= 1
    return off == 0 or ("%" in said.text and value == worth * 100)


def _parts_of(text: str) -> list[Fraction]:
    """Both numbers of a quotient such as `$34800/240`."""
    sides = [re.sub(r"[^\d.]", "", side) for side in text.split("/")]
    return (
        [Fraction(side) for side in sides if re.fullmatch(_DECIMAL, side)]
        if len(sides) == 2
        else []
    )


_DECIMAL = r"\d+(?:\.\d+)?"


def is_bound(pieces: Sequence[Piece], place: int) -> bool:
    """Whether a word before a calculation makes another value of it: `at least 9 + 3 = 12`."""
    amount, at = pieces[place].amount, place - 1
    if not (amount and amount.made_of) and (at < 0 or pieces[at].text != "="):
        return False
    while at >= 0 and (pieces[at].amount or pieces[at].text in OPERATORS | {"=", "(", ")"}):
        at -= 1
    for piece in reversed(pieces[max(at - 3, 0) : at + 1]):
        if piece.word in CHANGING | DENYING | {"than"}:
            return True
        if piece.word in LINKS:
            return False
    return False


class _Reader:
    """Works a calculation out, word by word; a word behind a number is its unit."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces, self.place = pieces, 0
        self.operands = 0
        self.made: list[Fraction] = []

    def whole(self) -> Fraction | None:
        """The value of all pieces; None where they are no calculation."""
        try:
            value = self._sum(0)
        except (ValueError, ZeroDivisionError):
            return None
        return value if self.place == len(self.pieces) else None

    def _next(self) -> str:
        if self.place >= len(self.pieces) or self.pieces[self.place].amount:
            return ""
        text = self.pieces[self.place].text
        return _SIGNS.get(text, text)

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self._next() in ("+", "-"):
            plus = self._next() == "+"
            self.place += 1
            other = self._product(depth)
            value = value + other if plus else value - other
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._operand(depth)
        while self._next() in ("*", "/"):
            times = self._next() == "*"
            self.place += 1
            other = self._operand(depth)
            value = value * other if times else value / other
            if abs(value) > _LARGEST:
                raise ValueError
        return value

    def _operand(self, depth: int) -> Fraction:
        if self.place >= len(self.pieces):
            raise ValueError
        if self._next() == "(" and depth < 4:
            self.place += 1
            value = self._sum(depth + 1)
            if self._next() != ")":
                raise ValueError
            self.place += 1
            self._unit()
            return value
        amount = self.pieces[self.place].amount
        if amount is None or amount.worth is None or abs(amount.worth) > _LARGEST:
            raise ValueError
        self.place += 1
        self.operands += 2 if "/" in amount.text else 1
        self.made += [amount.worth, *_parts_of(amount.text)]
        self._unit()
        return amount.worth

    def _unit(self) -> None:
        """Passes the words behind a number: `dollars`, `$1500/month`, `bees that left the hive`."""
        for _ in range(_MOST_WORDS):
            word = self._next()
            if word == "/" and self._is_word(self.place + 1):
                self.place += 1
            elif not self._is_word(self.place) or (word == "*" and self._is_factor()):
                return
            self.place += 1

    def _is_word(self, place: int) -> bool:
        if place >= len(self.pieces):
            return False
        piece = self.pieces[place]
        return piece.amount is None and piece.word[0].isalpha() and piece.word not in _PARTING

    def _is_factor(self) -> bool:
        """Whether an `x` multiplies: a number or a bracket follows."""
        following = self.pieces[self.place + 1 : self.place + 2]
        return bool(following) and (following[0].amount is not None or following[0].text == "(")
