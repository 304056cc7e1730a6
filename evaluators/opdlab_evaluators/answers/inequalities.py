"""The numbers that an answer holds: intervals, inequalities, and what joins them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mpmath

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.expression import Tree, letters, value
from opdlab_evaluators.answers.quantity import Beyond, Undefined, real
from opdlab_evaluators.answers.region import Region
from opdlab_evaluators.answers.thing import Thing
from opdlab_evaluators.answers.tokens import Unread

RELATIONS = {
    "<": "<", "\\lt": "<", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\leqq": "<=",
    ">": ">", "\\gt": ">", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=",
    "\\ne": "!=", "\\neq": "!=",
}  # fmt: skip
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
    """Where an inequality holds that is linear in its letter, inside of bars or not; None for others."""
    if left == ("minus", ("constant", "infinity")) or right == ("constant", "infinity"):
        return regions.EVERYTHING if sign in ("<", "<=") else None
    if right == ("minus", ("constant", "infinity")) or left == ("constant", "infinity"):
        return regions.EVERYTHING if sign in (">", ">=") else None
    if right[0] == "absolute" and not letters(left):
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}[sign]
        left, right, sign = right, left, turned
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
        at = [real(value(difference, {name: Fraction(x)})) for x in (0, 1, 2, 7)]
    except (Undefined, Beyond):
        return None
    if any(mpmath.im(x) != 0 or not mpmath.isfinite(x) for x in at):
        return None
    slope = at[1] - at[0]
    scale = max(1, *[abs(x) for x in at])
    if slope == 0 or any(
        abs(at[0] + slope * x - y) > regions.CLOSE * scale for x, y in ((2, at[2]), (7, at[3]))
    ):
        return None
    return _half_line(-at[0] / slope, sign, slope > 0)


def _half_line(bound: Any, sign: str, upwards: bool) -> Region:
    if sign == "!=":
        return regions.without(regions.EVERYTHING, regions.points([bound]))
    closed = sign in ("<=", ">=")
    if (sign in ("<", "<=")) == upwards:
        return regions.interval(-regions.INFINITY, bound, False, closed)
    return regions.interval(bound, regions.INFINITY, closed, False)
