"""An own small LaTeX reader: the value of an expression to as many digits as mpmath is set to.

It shares nothing with math-verify, so that the two can be held against each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import mpmath

# Values at which expressions with variables are compared; a letter's place in them is its code.
POINTS = (0.7236067977, 1.3819660113, 2.1180339887)
LONGEST = 2000

_TOKEN = re.compile(
    r"\s*(?:(\d+\.?\d*|\.\d+)|\\([a-zA-Z]+)|(\\[{}|]|[a-zA-Z]|[-+*/^_!(){}\[\]|=]))"
)
_CONSTANTS = {"pi": mpmath.pi, "infty": mpmath.inf}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "cot": mpmath.cot,
    "sec": mpmath.sec,
    "csc": mpmath.csc,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "tanh": mpmath.tanh,
    "ln": mpmath.log,
    "exp": mpmath.exp,
}
_GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "phi", "varphi", "omega")


class Unreadable(Exception):
    """The reader does not know what this says."""


def evaluate(latex: str, shift: int = 0) -> Any:
    """Value of an expression; variables take the values of POINTS, turned by `shift`.

    Raises:
        Unreadable: it is no expression that this reader knows.
    """
    if len(latex) > LONGEST:
        raise Unreadable
    reader = _Reader(_tokens(latex), shift)
    value = reader.total()
    if reader.peek() is not None:
        raise Unreadable
    return value


def _tokens(latex: str) -> list[str]:
    tokens, place = [], 0
    text = latex.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable
        number, command, symbol = match.groups()
        tokens.append(number or (f"\\{command}" if command else symbol))
        place = match.end()
    return tokens


class _Reader:
    """Recursive descent over tokens; integers stay exact, all else is a 60-digit number."""

    def __init__(self, tokens: list[str], shift: int) -> None:
        self.tokens, self.place, self.shift = tokens, 0, shift

    def peek(self) -> str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if token is None or (expected is not None and token != expected):
            raise Unreadable
        self.place += 1
        return token

    def total(self) -> Any:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        value = sign * self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self) -> Any:
        value = self.power()
        while (token := self.peek()) is not None:
            if token in ("*", "\\cdot", "\\times"):
                self.take()
                value = value * self.signed_power()
            elif token in ("/", "\\div"):
                self.take()
                value = _divide(value, self.signed_power())
            elif token == "\\frac" and isinstance(value, int) and self._mixed():
                value = value + self.power()
            elif _starts(token):
                value = value * self.power()
            else:
                break
        return value

    def signed_power(self) -> Any:
        if self.peek() == "-":
            self.take()
            return -self.power()
        return self.power()

    def _mixed(self) -> bool:
        """Whether a number written out and a fraction of numbers follow one another: 1 4/5."""
        before = self.tokens[self.place - 1]
        coming = self.tokens[self.place + 1 : self.place + 7]
        return before.isdigit() and (
            len(coming) >= 6 and coming[1].isdigit() and coming[4].isdigit() and coming[2] == "}"
        )

    def power(self) -> Any:
        value = self.atom()
        while self.peek() == "!":
            self.take()
            value = _factorial(value)
        if self.peek() == "^":
            self.take()
            value = _raise(value, self.argument())
            while self.peek() == "!":
                self.take()
                value = _factorial(value)
        return value

    def argument(self) -> Any:
        """A braced group or a single digit, letter or command."""
        if self.peek() == "{":
            return self.group("{", "}")
        token = self.take()
        if token[0].isdigit():
            # `2^10` without braces raises to 1, then stands before a 0: nobody means that.
            return _number(token)
        self.place -= 1
        return self.atom()

    def group(self, opening: str, closing: str) -> Any:
        self.take(opening)
        value = self.total()
        self.take(closing)
        return value

    def atom(self) -> Any:
        token = self.peek()
        closing = {"(": ")", "[": "]", "{": "}"}.get(token or "")
        if closing:
            return self.group(str(token), closing)
        token = self.take()
        if token in ("|", "\\|"):
            value = abs(self.total())
            self.take(token)
            return value
        if token[0].isdigit() or token[0] == ".":
            return _number(token)
        if token.startswith("\\"):
            return self.command(token[1:])
        if token.isalpha():
            return self.letter(token)
        raise Unreadable

    def letter(self, name: str) -> Any:
        if self.peek() == "_":
            self.take()
            name += repr(self.argument())
        if name == "e":
            return mpmath.e()
        if name == "i":
            return mpmath.mpc(0, 1)
        return mpmath.mpf(POINTS[(sum(map(ord, name)) + self.shift) % 3]) + sum(map(ord, name)) / 97

    def command(self, name: str) -> Any:
        if name in _CONSTANTS:
            return +_CONSTANTS[name]
        if name in _GREEK:
            return self.letter(name)
        if name == "frac":
            above, below = self.argument(), self.argument()
            return _divide(above, below)
        if name == "binom":
            above, below = self.argument(), self.argument()
            return mpmath.binomial(above, below)
        if name == "sqrt":
            degree = self.group("[", "]") if self.peek() == "[" else 2
            return (
                mpmath.root(self.argument(), degree)
                if degree != 2
                else mpmath.sqrt(self.argument())
            )
        if name == "log":
            return self.logarithm()
        if name in _FUNCTIONS:
            exponent = None
            if self.peek() == "^":
                self.take()
                exponent = self.argument()
            value = _FUNCTIONS[name](self.operand())
            return value if exponent is None else value**exponent
        raise Unreadable

    def logarithm(self) -> Any:
        base = 10
        if self.peek() == "_":
            self.take()
            base = self.argument()
        return mpmath.log(self.operand()) / mpmath.log(base)

    def operand(self) -> Any:
        """What a function applies to: a bracket, or the product that follows."""
        if self.peek() in ("(", "{"):
            return self.power()
        value = self.power()
        while (token := self.peek()) is not None and (token.isalnum() or token == "\\pi"):
            value = value * self.power()
        return value


def _starts(token: str) -> bool:
    return (
        token[0].isalnum()
        or token in ("(", "[", "{")
        or (token.startswith("\\") and token[1:2].isalpha())
    )


def _number(token: str) -> Any:
    return int(token) if token.isdigit() else mpmath.mpf(token)


def _divide(above: Any, below: Any) -> Any:
    if isinstance(above, int) and isinstance(below, int) and below and above % below == 0:
        return above // below
    return mpmath.mpf(above) / below if isinstance(above, int) else above / below


def _raise(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and 0 <= exponent <= 20_000:
        if base.bit_length() * exponent > 1_000_000:
            raise Unreadable
        return base**exponent
    return mpmath.power(base, exponent)


def _factorial(value: Any) -> Any:
    if isinstance(value, int) and 0 <= value <= 2000:
        return math.factorial(value)
    if isinstance(value, int):
        raise Unreadable
    return mpmath.factorial(value)
