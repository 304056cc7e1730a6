"""The numbers that an answer holds: intervals, inequalities, and what joins them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.quantity import Beyond, Undefined, real
from opdlab_evaluators.answers.region import Region
from opdlab_evaluators.answers.thing import Thing
from opdlab_evaluators.answers.tokens import Unread
from opdlab_evaluators.answers.trees import Tree, letters, value

RELATIONS = {
    "<": "<", "\\lt": "<", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\leqq": "<=",
    ">": ">", "\\gt": ">", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=",
    "\\ne": "!=", "\\neq": "!=",
}  # fmt: skip
MOST_DEGREE = 4
"""Of a polynomial whose sign is looked at."""
OR = ("or", "\\lor", "\\vee")
AND = ("and", "\\land", "\\wedge")


def joined(things: Sequence[Thing], ways: Sequence[str]) -> Thing:
    """Regions joined by `or`, `and` or commas; a comma means both where both can be."""
    names = {thing.name for thing in things if thing.name}
    if len(names) > 1:
        raise Unread("regions of several variables")
    found = as_region(things[0])
    for way, thing in zip(ways, things[1:], strict=True):
        other = as_region(thing)
        if way in (*OR, "or"):
            found = regions.union(found, other)
        elif way in (*AND, "and"):
            found = regions.intersection(found, other)
        else:
            found = regions.intersection(found, other) or regions.union(found, other)
    return Thing("region", region=found, name=names.pop() if names else "")


def number_of(tree: Tree) -> Any:
    """The real value of a tree without letters.

    Raises:
        Unread: it has letters, or is not real.
    """
    if letters(tree):
        raise Unread("a bound with letters")
    try:
        found = real(value(tree, {}))
    except Undefined as error:
        raise Unread(str(error)) from error
    if mpmath.im(found) != 0 or mpmath.isnan(found):
        raise Unread("a bound that is not real")
    return mpmath.re(found)


def as_interval(thing: Thing) -> Thing:
    """A tuple of two bounds as the interval that it may be; others as they are."""
    if thing.kind != "tuple" or len(thing.items) != 2:
        return thing
    low, high = (number_of(item.trees[0]) for item in thing.items if item.trees)
    opening, closing = thing.brackets
    if (mpmath.isinf(low) and opening == "[") or (mpmath.isinf(high) and closing == "]"):
        raise Unread("infinity as a number of an interval")
    shape = regions.interval(low, high, opening == "[", closing == "]")
    if not shape:
        raise Unread("an interval that is empty")
    return Thing("region", region=shape, name=thing.name)


def as_region(thing: Thing) -> Region:
    """The numbers that a thing holds.

    Raises:
        Unread: it holds no numbers.
    """
    thing = as_interval(thing)
    if thing.region is not None:
        return thing.region
    if thing.kind == "value":
        return regions.points([number_of(thing.trees[0])])
    if thing.kind == "equation" and len(thing.trees) == 2 and thing.name:
        return regions.points([number_of(thing.trees[1])])
    if thing.kind in ("set", "list"):
        return regions.points([number_of(i.trees[0]) for i in thing.items if i.trees])
    raise Unread(f"a {thing.kind} where numbers were expected")


def solved(left: Tree, sign: str, right: Tree, name: str) -> Region | None:
    """Where an inequality of polynomials, or of a linear one in bars, holds; None for others."""
    if left == ("minus", ("constant", "infinity")) or right == ("constant", "infinity"):
        return regions.EVERYTHING if sign in ("<", "<=") else None
    if right == ("minus", ("constant", "infinity")) or left == ("constant", "infinity"):
        return regions.EVERYTHING if sign in (">", ">=") else None
    if right[0] == "absolute" and not letters(left):
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}[sign]
        left, right, sign = right, left, turned
    if left[0] == "add" and left[1][0] == "absolute" and not letters(left[2]):
        # `|x| - 5 < 0`
        left, right = left[1], ("add", right, ("minus", left[2]))
    if left[0] == "absolute" and not letters(right):
        inside, bound = left[1], number_of(right)
        both = [
            solved(inside, sign, ("number", bound), name),
            solved(("minus", inside), sign, ("number", bound), name),
        ]
        if None in both:
            return None
        join = regions.union if sign in (">", ">=") else regions.intersection
        return join(*both)  # pyright: ignore[reportArgumentType]
    difference = ("add", left, ("minus", right))
    try:
        at = [real(value(difference, {name: Fraction(x)})) for x in range(MOST_DEGREE + 3)]
    except (Undefined, Beyond):
        return None
    if any(mpmath.im(x) != 0 or not mpmath.isfinite(x) for x in at):
        return None
    return _where(_coefficients(at), sign)


def _coefficients(at: Sequence[Any]) -> list[Any]:
    """Of the polynomial that has these values at 0, 1, 2, ..., from the highest power on."""
    # Newton's form: each difference is the factor of x (x - 1) ... (x - n + 1) / n!.
    scale = max(1, *map(abs, at))
    factors, row = [], list(at)
    while row:
        factors.append(row[0])
        row = [b - a for a, b in pairwise(row)]
    while factors and abs(factors[-1]) <= regions.CLOSE * scale:
        factors.pop()
    found: list[Any] = []
    for n in reversed(range(len(factors))):
        # (found) * (x - n) / (n + 1) + factor
        shifted = [mpmath.mpf(c) / (n + 1) for c in found]
        found = [a - n * b for a, b in zip([*shifted, 0], [0, *shifted], strict=True)]
        found[-1] += factors[n]
    return found


def _where(polynomial: list[Any], sign: str) -> Region | None:
    """Where a polynomial is below zero, say; None of a constant, and of what is no polynomial."""
    if not 2 <= len(polynomial) <= MOST_DEGREE + 1:
        return None
    try:
        # Two equal roots need more steps, and twice the digits.
        found = mpmath.polyroots(polynomial, maxsteps=400, extraprec=250)
    except mpmath.mp.NoConvergence:
        return None
    roots = regions.points(mpmath.re(x) for x in found if abs(mpmath.im(x)) <= regions.CLOSE)
    if sign == "!=":
        return regions.without(regions.EVERYTHING, roots)
    wanted = -1 if sign in ("<", "<=") else 1
    edges = [-regions.INFINITY, *(root.low for root in roots), regions.INFINITY]
    shapes = [roots] if sign in ("<=", ">=") else []
    for low, high in pairwise(edges):
        inside = mpmath.polyval(polynomial, regions.between(low, high))
        if inside * wanted > 0:
            shapes.append(regions.interval(low, high, False, False))
    return regions.union(*shapes)
