"""Whether two answers that were read are the same thing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.inequalities import as_region
from opdlab_evaluators.answers.quantity import Beyond, Number, Undefined, real
from opdlab_evaluators.answers.thing import Thing
from opdlab_evaluators.answers.tokens import Unread
from opdlab_evaluators.answers.trees import Tree, letters, mentions, radians, value
from opdlab_evaluators.answers.units import Unit

PRECISIONS = (60, 300)
"""Digits of the first look, and of the one that tells noise from a small difference."""
POINTS = 4
GLANCE, LARGE = 1e-9, 1e100
"""Relative difference of numbers that are told apart by a glance, and numbers that are not."""
GROUPS = ("list", "tuple", "set")


Lettered = tuple[Tree, frozenset[str]]
"""An expression and its letters."""


class Matching:
    """One comparison; `exact` tells whether only fractions were compared."""

    def __init__(self) -> None:
        self.exact = True
        self.too_large = False
        # Of each expression that was met, at each point and precision: one of many is compared with all.
        self.known: dict[tuple[int, int, int], tuple[Tree, Number | None]] = {}
        self.sketches: dict[int, tuple[Thing, complex | None]] = {}

    def same(self, gold: Thing, answer: Thing) -> bool:  # noqa: C901
        """Whether the answer is what the gold says."""
        if answer.rounded is not None and gold.rounded is None and not _is_decimal(gold):
            return False
        kinds = gold.kind, answer.kind
        if gold.kind != answer.kind:
            a, b = _vector(gold), _vector(answer)
            if gold.kind == "matrix":
                b = _written_column(answer) or b
            if a is not None and b is not None:
                return len(a) == len(b) and all(map(self.same, a, b))
        if "region" in kinds:
            return self._regions(gold, answer)
        if kinds == ("row", "row"):
            return len(gold.items) == len(answer.items) and all(
                map(self.same, gold.items, answer.items)
            )
        if gold.kind in GROUPS or answer.kind in GROUPS:
            return self._groups(gold, answer)
        if kinds == ("value", "value"):
            return self._values(gold, answer)
        if "numeral" in kinds:
            return self._numerals(gold, answer)
        if "equation" in kinds and set(kinds) <= {"equation", "value"}:
            return self._equations(gold, answer)
        if kinds == ("matrix", "matrix"):
            return self._matrices(gold, answer)
        if kinds == ("ratio", "ratio"):
            return self._ratios(gold, answer)
        if kinds == ("value", "ratio"):
            return self._fraction(gold, answer)
        if kinds == ("relation", "relation"):
            return gold.sign == answer.sign and self._proportional(
                gold.trees[0], answer.trees[0], positive=gold.sign != "!="
            )
        return False

    def equal(self, a: Tree, b: Tree) -> bool:
        """Whether two expressions have the same value at every point that is tried."""
        if a == b:
            return True
        own = letters(a), letters(b)
        met = 0
        for number in range(POINTS if any(own) else 1):
            found = self._equal_at((a, own[0]), (b, own[1]), number)
            if found is False:
                return False
            met += found is True
        return met > 0

    def _equal_at(self, a: Lettered, b: Lettered, number: int) -> bool | None:
        """Whether they are equal at a point; None where both have no value there."""
        for digits in PRECISIONS:
            with mpmath.workdps(digits):
                x, y = (self._remembered(each, number, digits) for each in (a, b))
                if x is None or y is None:
                    return None if x is y else False
                if isinstance(x, Fraction) and isinstance(y, Fraction):
                    return x == y
                self.exact = False
                if not _close(real(x), real(y), digits):
                    return False
        return True

    def _remembered(self, one: Lettered, number: int, digits: int) -> Number | None:
        tree, names = one
        key = id(tree), number, digits
        if key not in self.known:
            at = {name: point(name, number) for name in names}
            self.known[key] = tree, self._value(tree, at)
        return self.known[key][1]

    def _value(self, tree: Tree, at: dict[str, Fraction]) -> Number | None:
        try:
            return value(tree, at)
        except Undefined:
            return None
        except Beyond:
            self.too_large = True
            raise

    def _values(self, gold: Thing, answer: Thing) -> bool:
        if not self._moduli(gold, answer):
            return False
        a, b = gold.trees[0], answer.trees[0]
        x, y = gold.unit, answer.unit
        if gold.percent or answer.percent:
            return _may_be_shares(gold, answer) and self._percents(gold, answer)
        if x is not None and y is not None and _is_measure(x) and _is_measure(y):
            if {x.dimension, y.dimension} == {_DEGREES, _RADIANS}:
                one, other = (radians(a), b) if x.dimension == _DEGREES else (a, radians(b))
                return self.equal(one, other)
            return x.dimension == y.dimension and self.equal(_times(a, x.scale), _times(b, y.scale))
        if self._is_turned(gold, answer):
            return False
        if self.equal(a, b) or (_has_constant(a) and self.equal(a, _put(b, _CONSTANT))):
            return True
        if answer.finest is not None and answer.unit is not None and x is None:
            # 160 is 2 hours 40 minutes, if minutes were asked for.
            return self.equal(a, _times(b, answer.unit.scale / answer.finest.scale))
        # A right angle is 90 degrees and pi / 2.
        if _is_angle(answer) and x is None and mentions(a, "pi"):
            return self.equal(a, radians(b))
        if _is_angle(gold) and y is None and mentions(b, "pi"):
            return self.equal(radians(a), b)
        return False

    def _is_turned(self, gold: Thing, answer: Thing) -> bool:
        r"""Whether degrees are said of an angle in radians: `\frac{\pi}{6}^\circ` for `\frac{\pi}{6}`."""
        if not _is_angle(answer) or gold.unit is not None or not mentions(gold.trees[0], "pi"):
            return False
        pi = ("constant", "pi")
        one, two = (_put(gold.trees[0], {pi: ("number", Fraction(n))}) for n in (1, 2))
        # A multiple of pi; 180 / pi may be a number of degrees.
        return self.equal(_times(one, Fraction(2)), two) and not self.equal(
            gold.trees[0], radians(answer.trees[0])
        )

    def _moduli(self, gold: Thing, answer: Thing) -> bool:
        if gold.modulus is None or answer.modulus is None:
            return True
        return self.equal(gold.modulus, answer.modulus)

    def _percents(self, gold: Thing, answer: Thing) -> bool:
        a, b = gold.trees[0], answer.trees[0]
        if gold.percent == answer.percent:
            return self.equal(a, b)
        hundredth = Fraction(1, 100)
        if gold.percent:
            return self.equal(a, b) or self.equal(_times(a, hundredth), b)
        if self.equal(a, _times(b, hundredth)):
            return True
        # Of a whole number the sign may be left out; 0.5 is no 0.5 %, and 7.4 is no 7.4 %.
        return _is_whole(a) and self.equal(a, b)

    def _regions(self, gold: Thing, answer: Thing) -> bool:
        if gold.name and answer.name and gold.name != answer.name:
            return False
        try:
            with mpmath.workdps(PRECISIONS[0]):
                return regions.same(as_region(gold), as_region(answer))
        except Unread:
            return False

    def _groups(self, gold: Thing, answer: Thing) -> bool:  # noqa: C901
        if gold.name and answer.name and gold.name != answer.name:
            return False
        a, b = _items(gold), _items(answer)
        if gold.kind == "list" and _are_of_several(a) and not any(item.name for item in b):
            return self._in_order(a, answer)
        if gold.kind == answer.kind == "set":
            a, b = self._distinct(a), self._distinct(b)
        elif gold.kind == "set":
            a = self._distinct(a)
        elif answer.kind == "set":
            b = self._distinct(b)
        if gold.kind not in GROUPS and answer.kind == "list":
            # One value written in several ways: `15 39/40` and `639/40`, `3` and `x = 3`.
            return all(self.same(gold, item) for item in b)
        if len(a) != len(b):
            return False
        if {gold.kind, answer.kind} == {"set", "tuple"}:
            return False
        if gold.kind == answer.kind == "tuple" and gold.brackets != answer.brackets:
            return False
        if gold.kind == "tuple":
            return all(self.same(x, y) for x, y in zip(a, _by_name(b), strict=True))
        if (gold.kind, answer.kind) == ("list", "tuple"):
            if answer.brackets == "()":
                # Parentheses hold a point, whose coordinates have an order.
                return all(self.same(x, y) for x, y in zip(a, b, strict=True))
            if len(a) == 2:
                # An interval is not its two ends.
                return False
        rest = list(b)
        for x in a:
            found = next((n for n, y in enumerate(rest) if self._may_be(x, y)), None)
            if found is None:
                return False
            del rest[found]
        return True

    def _in_order(self, golds: list[Thing], answer: Thing) -> bool:
        """Bare values for those of letters: `(1, 2)` and `1, 2` for `x = 1, y = 2`, not `2, 1`."""
        if answer.kind == "set" or answer.brackets not in ("", "()"):
            return False
        found = _items(answer)
        orders = [_by_name(golds)]
        if not {item.name for item in golds} <= set("xyz"):
            orders.append(golds)
        return any(
            len(order) == len(found)
            and all(self.same(x, y) for x, y in zip(order, found, strict=True))
            for order in orders
        )

    def _distinct(self, items: Sequence[Thing]) -> list[Thing]:
        kept: list[Thing] = []
        for item in items:
            if not any(self._may_be(item, other) for other in kept):
                kept.append(item)
        return kept

    def _may_be(self, gold: Thing, answer: Thing) -> bool:
        """`same` of two items of many, most of which a glance tells apart."""
        if (gold.kind == "set") != (answer.kind == "set"):
            # The sets `\\{2\\}, \\{4\\}` are not the numbers 2 and 4.
            return False
        x, y = self._sketch(gold), self._sketch(answer)
        if x is not None and y is not None and abs(x - y) > GLANCE * max(1, abs(x), abs(y)):
            self.exact = self.exact and _is_fraction(gold) and _is_fraction(answer)
            return False
        return self.same(gold, answer)

    def _sketch(self, thing: Thing) -> complex | None:
        """The value of a plain number, roughly; None for what says more, or is no usual number."""
        if id(thing) not in self.sketches:
            self.sketches[id(thing)] = thing, self._roughly(thing)
        return self.sketches[id(thing)][1]

    def _roughly(self, thing: Thing) -> complex | None:
        said = (thing.unit, thing.modulus, thing.rounded, thing.finest)
        if thing.kind != "value" or thing.percent or said != (None,) * 4 or letters(thing.trees):
            return None
        try:
            with mpmath.workdps(PRECISIONS[0]):
                found = self._remembered((thing.trees[0], frozenset()), 0, PRECISIONS[0])
                rough = None if found is None else complex(real(found))
        except OverflowError:
            return None
        return rough if rough is not None and abs(rough) < LARGE else None

    def _numerals(self, gold: Thing, answer: Thing) -> bool:
        if gold.kind == answer.kind:
            return (gold.name, gold.base) == (answer.name, answer.base)
        if gold.kind == "numeral":
            # The base is known from the question and may be left out.
            written = answer.trees[0] if answer.kind == "value" else ()
            return gold.name.isdigit() and written == ("number", Fraction(int(gold.name)))
        try:
            worth = Fraction(int(answer.name, answer.base))
        except ValueError:
            return False
        return gold.kind == "value" and self.equal(gold.trees[0], ("number", worth))

    def _equations(self, gold: Thing, answer: Thing) -> bool:
        answer = _renamed(answer, gold)
        gold = _renamed(gold, answer)
        if gold.kind == answer.kind:
            return self._both_equations(gold, answer)
        if gold.kind == "equation":
            right = replace(gold, kind="value", trees=gold.trees[-1:], name="")
            return bool(gold.name) and len(gold.trees) == 2 and self._values(right, answer)
        right = replace(answer, kind="value", trees=answer.trees[-1:], name="")
        sides = answer.trees[:-1]
        if any(not letters(side) and not self.equal(side, answer.trees[-1]) for side in sides):
            return False
        if answer.name and answer.name in letters(gold.trees[0]):
            return False
        if not answer.name and not self._stands_for(sides, gold, answer):
            return False
        return self._values(gold, right)

    def _both_equations(self, gold: Thing, answer: Thing) -> bool:
        if len(gold.trees) == len(answer.trees) == 2:
            if gold.name and answer.name.startswith(f"{gold.name}_"):
                # Solutions with numbers: `x_1 = 2` where `x = 2` is one of several.
                return self.equal(gold.trees[1], answer.trees[1])
            if _name_functions(gold, answer):
                return self.equal(gold.trees[1], answer.trees[1])
            return self._proportional(_difference(gold), _difference(answer))
        if len(answer.trees) > 2 and gold.name and gold.name == answer.name:
            return self.equal(gold.trees[-1], answer.trees[-1])
        return False

    def _stands_for(self, sides: Sequence[Tree], gold: Thing, answer: Thing) -> bool:
        """Whether the last side of an equation is what was asked for, and no side is another value."""
        if not letters(gold.trees[0]):
            return not any(letters(side) and not _is_asked(side) for side in sides)
        # 2x + 3 = 0 is no value of 2x + 3; a chain of rewritings of the gold is.
        is_chain = all(self.equal(side, answer.trees[-1]) for side in sides)
        return is_chain or not any(map(letters, sides))

    def _proportional(self, a: Tree, b: Tree, positive: bool = False) -> bool:
        """Whether one is the other times a number that is not zero."""
        names = sorted(letters(a) | letters(b))
        if letters(a) != letters(b):
            return False
        factor: Tree | None = None
        for number in range(POINTS):
            at = {name: point(name, number) for name in names}
            x, y = self._value(a, at), self._value(b, at)
            if x is None or y is None or x == 0 or y == 0:
                return False
            numbers = _numbers(at)
            fixed = _put(a, numbers), _put(b, numbers)
            if factor is None:
                factor = ("over", fixed[1], fixed[0])
                if positive and mpmath.re(real(y) / real(x)) <= 0:
                    return False
            elif not self.equal(factor, ("over", fixed[1], fixed[0])):
                return False
        return factor is not None

    def _matrices(self, gold: Thing, answer: Thing) -> bool:
        rows, others = gold.items, answer.items
        if gold.brackets != answer.brackets or len(rows) != len(others):
            return False
        return all(
            len(a.items) == len(b.items)
            and all(self.same(x, y) for x, y in zip(a.items, b.items, strict=True))
            for a, b in zip(rows, others, strict=True)
        )

    def _ratios(self, gold: Thing, answer: Thing) -> bool:
        if len(gold.trees) != len(answer.trees):
            return False
        if gold.unit and answer.unit and gold.unit.dimension != answer.unit.dimension:
            return False
        if all(self.equal(a, b) for a, b in zip(gold.trees, answer.trees, strict=True)):
            return True
        if _is_time(gold) or gold.unit is not None or answer.unit is not None:
            return False
        a, b = gold.trees, answer.trees
        return all(
            self.equal(("times", a[0], y), ("times", b[0], x))
            for x, y in zip(a[1:], b[1:], strict=True)
        ) and not any(self.equal(x, ("number", Fraction(0))) for x in b)

    def _fraction(self, gold: Thing, answer: Thing) -> bool:
        """Whether a ratio is the gold, which is written as a fraction of whole numbers."""
        tree = gold.trees[0]
        is_whole = tree[0] == "over" and all(part[0] == "number" for part in tree[1:])
        if not is_whole or gold.unit or gold.percent or answer.unit or len(answer.trees) != 2:
            return False
        return self.equal(tree, ("over", *answer.trees))


@lru_cache(maxsize=4096)
def point(name: str, number: int) -> Fraction:
    """The value of a letter at one of the points: twice positive, once negative, once of either sign."""
    digest = hashlib.sha256(f"{number}/{name}".encode()).digest()
    size = Fraction(101 + int.from_bytes(digest[:2]) % 397, 97)
    negative = number == 2 or (number == 3 and digest[2] % 2 == 0)
    return -size if negative else size


def _put(tree: Any, by: Mapping[Tree, Tree]) -> Any:
    """A tree with others in the place of some of its letters and constants."""
    if not isinstance(tree, tuple):
        return tree
    if len(tree) == 2 and isinstance(tree[1], str):
        return by.get(tree, tree)
    return tuple(_put(part, by) for part in tree)


def _numbers(at: Mapping[str, Fraction]) -> dict[Tree, Tree]:
    """What is put for letters that have values."""
    return {("letter", name): ("number", size) for name, size in at.items()}


_CONSTANT: dict[Tree, Tree] = {("letter", "c"): ("letter", "C")}


def _has_constant(tree: Tree) -> bool:
    """Whether a constant of integration ends a sum: `x^2 + C`, for which `x^2 + c` may stand."""
    return tree[0] == "add" and tree[2] == ("letter", "C") and "c" not in letters(tree)


def _close(x: Any, y: Any, digits: int) -> bool:
    if not (mpmath.isfinite(x) and mpmath.isfinite(y)):
        return bool(x == y)
    return bool(abs(x - y) <= mpmath.mpf(10) ** (15 - digits) * max(1, abs(x), abs(y)))


def _renamed(thing: Thing, other: Thing) -> Thing:
    """`P(t) = t^3` with the one letter that the other thing has."""
    function, _, argument = thing.name.partition("(")
    argument = argument.removesuffix(")")
    wanted = frozenset[str]().union(*map(letters, other.trees[-1:]))
    named = frozenset[str]().union(*map(letters, thing.trees[-1:]))
    if not function or named != {argument} or len(wanted) != 1 or wanted == named:
        return thing
    return replace(thing, trees=_put(thing.trees, {("letter", argument): ("letter", *wanted)}))


def _name_functions(gold: Thing, answer: Thing) -> bool:
    """Whether both say what a function is: `f(x) = 2x`, `f(t) = 2t`, and `y = 2x`, but not `x = 2x`."""
    names = (gold.name, answer.name)
    if not all(names) or any(t.name in letters(t.trees[1]) for t in (gold, answer)):
        return False
    functions = [name.partition("(")[0] for name in names if "(" in name]
    return len(functions) == 1 or (len(functions) == 2 and functions[0] == functions[1])


def _is_asked(tree: Tree) -> bool:
    """Whether a problem asks for this and not for a letter in it: `m + n`, `AB`, `|z|`, `f(2)`, no `2x`."""
    kind, *parts = tree
    if kind in ("letter", "function"):
        return True
    if kind == "times":
        called = parts[0][0] == "letter" and parts[0][1] in _CALLED and not letters(parts[1])
        return called or all(_is_asked(part) for part in parts)
    if kind == "absolute":
        name = parts[0][1] if parts[0][0] == "letter" else ""
        return name in ("z", "w") or name.isupper() or len(letters(parts[0])) > 1
    if kind == "root":
        return len(letters(parts[0])) > 1
    if kind == "modulo":
        return True
    if kind == "minus":
        # Of `-x = 5` the answer is -5.
        return len(letters(tree)) > 1
    if kind in ("add", "over"):
        return len(letters(tree)) > 1 or all(map(_is_asked, parts))
    return False


_CALLED = ("f", "g", "h", "p", "q", "F", "G", "P", "Q", "a", "S", "T")


def _is_fraction(thing: Thing) -> bool:
    return thing.trees[0][0] == "number"


def _is_decimal(thing: Thing) -> bool:
    """Whether a gold is a number with digits behind its point, which may be a rounded one."""
    tree = thing.trees[-1] if thing.trees else ()
    tree = tree[1] if tree[:1] == ("minus",) else tree
    return tree[:1] == ("number",) and tree[1].denominator != 1


def _is_whole(tree: Tree) -> bool:
    tree = tree[1] if tree[0] == "minus" else tree
    return tree[0] == "number" and tree[1].denominator == 1


def _vector(thing: Thing) -> tuple[Thing, ...] | None:
    """The parts of a column, of a tuple or of rows in square brackets; None for others."""
    if thing.kind == "tuple" and thing.brackets == "[]" and _rows(thing):
        return tuple(Thing("row", items=row.items) for row in thing.items)
    if thing.kind == "tuple" and thing.brackets == "()":
        return thing.items
    if thing.kind == "matrix" and thing.brackets == "":
        if all(len(row.items) == 1 for row in thing.items):
            return tuple(row.items[0] for row in thing.items)
        return thing.items
    if thing.kind == "value" and not thing.unit:
        return _combination(thing.trees[0])
    return None


def _written_column(thing: Thing) -> tuple[Thing, ...] | None:
    r"""The numbers of a column as it may be written where one is asked for: `[1, 2]`, `\binom{1}{2}`."""
    if thing.kind == "value" and thing.trees[0][0] == "binomial":
        return tuple(Thing("value", (tree,)) for tree in thing.trees[0][1:])
    flat = thing.kind in ("list", "tuple") and {i.kind for i in thing.items} <= {
        "value",
        "equation",
    }
    return tuple(_by_name(list(thing.items))) if flat else None


def _rows(thing: Thing) -> bool:
    return all(item.kind == "tuple" and item.brackets == "[]" for item in thing.items)


def _combination(tree: Tree) -> tuple[Thing, ...] | None:
    """The coefficients of a sum of the vectors i, j and k; None for others."""
    names = [f"vector {name}" for name in "ijk"]
    if not letters(tree) or not letters(tree) <= set(names):
        return None
    size = 3 if names[2] in letters(tree) else 2
    units = [_numbers({name: Fraction(name == own) for name in names}) for own in names[:size]]
    return tuple(Thing("value", (_put(tree, unit),)) for unit in units)


def _times(tree: Tree, factor: Fraction) -> Tree:
    return tree if factor == 1 else ("times", tree, ("number", factor))


_DEGREES, _RADIANS = (("angle", 1),), (("radian", 1),)


def _is_angle(thing: Thing) -> bool:
    return thing.unit is not None and thing.unit.dimension == _DEGREES


def _may_be_shares(gold: Thing, answer: Thing) -> bool:
    """50 % are not 50 cm, 50 people or 50 degrees, and 5 % per year are not 5 % per month."""
    x, y = gold.unit, answer.unit
    if gold.percent != answer.percent:
        return (y if gold.percent else x) is None
    return x is None or y is None or x == y


def _is_measure(found: Unit) -> bool:
    """Whether it says more than what is counted; hours per week do, though their kinds cancel out."""
    return bool(found.dimension) or found.scale != 1


def _are_of_several(items: list[Thing]) -> bool:
    """Whether each is the value of another letter; solutions with numbers (`x_1`) are of one."""
    names = {item.name for item in items if item.kind == "equation" and item.name.isalpha()}
    return len(names) == len(items) > 1


def _is_time(thing: Thing) -> bool:
    parts = [tree[1] for tree in thing.trees if tree[0] == "number"]
    return len(parts) == len(thing.trees) == 2 and parts[0] <= 24 and 10 <= parts[1] < 60


def _difference(thing: Thing) -> Tree:
    return ("add", thing.trees[0], ("minus", thing.trees[1]))


def _items(thing: Thing) -> list[Thing]:
    return list(thing.items) if thing.kind in GROUPS else [thing]


def _by_name(items: list[Thing]) -> list[Thing]:
    """`y = 2, x = 1` in the order of a point's coordinates."""
    names = [item.name for item in items if item.kind == "equation" and item.name]
    if len(names) == len(items) == len(set(names)):
        return sorted(items, key=lambda item: (item.name.startswith("\\"), item.name))
    return items
