"""Trees of expressions: their letters, what they mention, and their value where the letters have values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import reduce
from typing import Any

import mpmath

from opdlab_evaluators.answers import quantity
from opdlab_evaluators.answers.quantity import Number, Undefined

Tree = tuple
"""An operation and what it is of: ("add", left, right), ("number", Fraction), ("letter", name) ..."""


def letters(tree: Any) -> frozenset[str]:
    """Names of the letters in a tree."""
    found: set[str] = set()
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, tuple):
            if one and one[0] == "letter":
                found.add(one[1])
            waiting.extend(one)
    return frozenset(found)


def mentions(tree: Any, *kinds: Any) -> bool:
    """Whether a tree has a node, or a name in one, of these."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, tuple):
            waiting.extend(one)
        elif isinstance(one, str) and one in kinds:
            return True
    return False


def is_dear(tree: Any, inside: bool = False) -> bool:
    """Whether powers stand in exponents, or a power, factorial or binomial has a number above 1,000."""
    if not isinstance(tree, tuple) or not tree:
        return False
    kind = tree[0]
    if inside and kind == "number" and abs(tree[1]) > 1000:
        return True
    if kind == "power":
        above = tree[2]
        if mentions(above, "power", "factorial", "binomial", "arrangements"):
            return True
        return is_dear(tree[1], inside) or is_dear(above, True)
    growing = kind in ("factorial", "binomial", "arrangements")
    if growing and mentions(tree[1:], "power", "factorial", "binomial"):
        return True
    return any(is_dear(part, inside or growing) for part in tree if isinstance(part, tuple))


def radians(degrees: Tree) -> Tree:
    """As many degrees in radians."""
    return ("over", ("times", degrees, ("constant", "pi")), ("number", Fraction(180)))


def value(tree: Tree, at: Mapping[str, Fraction], angle: bool = False) -> Number:
    """The value of a tree, exact where only fractions are met.

    Args:
        at: values of its letters.
        angle: inside a function of angles, where degrees are turned into radians.

    Raises:
        Undefined: it has none there; Beyond: it is too large to be worked out.
    """
    kind, *parts = tree
    if kind == "number":
        return parts[0]
    if kind == "letter":
        return at[parts[0]]
    if kind == "constant":
        return _constant(parts[0])
    if kind == "degrees":
        inside = value(parts[0], at, angle)
        return quantity.multiply(inside, mpmath.pi / 180) if angle else inside
    if kind == "function":
        return quantity.function(parts[0], value(parts[1], at, parts[0] in OF_ANGLES))
    if kind == "several":
        return _several(parts[0], [value(part, at) for part in parts[1]])
    if kind == "factorial":
        return quantity.factorial(value(parts[0], at), parts[1])
    values = [value(part, at, angle) for part in parts]
    return _OPERATIONS[kind](*values)


OF_ANGLES = ("cis", "sin", "cos", "tan", "cot", "sec", "csc")


def _constant(name: str) -> Number:
    return {
        "pi": lambda: +mpmath.pi,
        "e": lambda: +mpmath.e,
        "i": lambda: mpmath.mpc(0, 1),
        "infinity": lambda: mpmath.inf,
    }[name]()


def _several(name: str, values: list[Number]) -> Number:
    if name in ("gcd", "lcm"):
        if not all(isinstance(v, Fraction) and v.denominator == 1 for v in values):
            raise Undefined(f"{name} of what is no integer")
        return Fraction(reduce(math.gcd if name == "gcd" else math.lcm, map(int, values)))
    if any(mpmath.im(quantity.real(v)) != 0 for v in values):
        raise Undefined(f"{name} of what is not real")
    return (max if name == "max" else min)(values, key=quantity.real)


def _absolute(a: Number) -> Number:
    return abs(a)


def _modulo(a: Number, b: Number) -> Number:
    if not all(isinstance(x, Fraction) and x.denominator == 1 for x in (a, b)) or b <= 0:
        raise Undefined("a remainder of what are no integers")
    return a % b


def _logarithm(a: Number, base: Number) -> Number:
    return quantity.divide(quantity.function("ln", a), quantity.function("ln", base))


def _root(a: Number, degree: Number) -> Number:
    return quantity.power(a, quantity.divide(Fraction(1), degree))


_OPERATIONS = {
    "add": quantity.add,
    "minus": lambda a: -a,
    "times": quantity.multiply,
    "over": quantity.divide,
    "power": quantity.power,
    "root": _root,
    "binomial": quantity.binomial,
    "arrangements": quantity.arrangements,
    "absolute": _absolute,
    "modulo": _modulo,
    "logarithm": _logarithm,
}
