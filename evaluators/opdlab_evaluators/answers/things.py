"""Reads an answer from the outside in: what it is, then what its parts are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.brackets import enclosed, readings, split, with_usual_ends
from opdlab_evaluators.answers.domains import but_for, half_of_reals, with_signs
from opdlab_evaluators.answers.expression import UNSUPPORTED, Unsupported, parse
from opdlab_evaluators.answers.inequalities import (
    AND,
    OR,
    RELATIONS,
    as_interval,
    as_region,
    joined,
    number_of,
    solved,
)
from opdlab_evaluators.answers.layout import APART, tidy
from opdlab_evaluators.answers.matrices import Matrices
from opdlab_evaluators.answers.numerals import is_label, named, numeral
from opdlab_evaluators.answers.outline import outlined
from opdlab_evaluators.answers.repeating import with_bar
from opdlab_evaluators.answers.sentences import core
from opdlab_evaluators.answers.thing import Context, Thing
from opdlab_evaluators.answers.tokens import Token, Unread, tokens_of
from opdlab_evaluators.answers.trees import Tree, letters, mentions, radians
from opdlab_evaluators.answers.units import unit
from opdlab_evaluators.answers.words import ALL_REALS, NOTHING, without_lead

DIGITS = 60
"""To which bounds of regions are known."""


def read(text: str, context: Context | None = None) -> Thing:
    """What a text says.

    Raises:
        Unread: some of it is not understood.
        Beyond: a bound of a region is too large to be worked out.
    """
    context = context or Context()
    neat = tidy(text)
    tokens = tokens_of(neat, context.grouping, context.e_is_constant)
    if context.vectors:
        tokens = [_vector(token) for token in tokens]
    if context.j_is_imaginary:
        tokens = [_imaginary(token) for token in tokens]
    if "p" not in context.letters:
        tokens = [_typed(token) for token in tokens]
    if not tokens:
        raise Unread("nothing")
    # Bounds of regions are worked out while reading.
    with mpmath.workdps(DIGITS):
        said = with_usual_ends(core(tokens))
        try:
            return _Structure(context).thing(said)
        except Unsupported:
            raise
        except Unread:
            value = None if context.is_gold else outlined(said)
            if value is None:
                raise
            return _Structure(context).thing(value)


_DIFFERENCES = [(a, "\\{") for a in ("\\mathbb R", ")", "]")]
_DIFFERENCES += [("\\mathbb R", "["), ("\\mathbb R", "(")]


def _vector(token: Token) -> Token:
    if token.kind == "letter" and token.text in ("i", "j", "k"):
        return replace(token, text=f"vector {token.text}")
    return token


def _imaginary(token: Token) -> Token:
    is_j = (token.kind, token.text, token.upright) == ("letter", "j", False)
    return replace(token, text="i") if is_j else token


def _typed(token: Token) -> Token:
    """`2pi` and `oo` as they are typed."""
    name = _TYPED.get(token.text) if token.kind == "word" else None
    return Token("command", name, token.spaced) if name else token


_TYPED = {"pi": "pi", "oo": "infty", "inf": "infty"}


class _Structure(Matrices):
    """Reads tokens from the outside in."""

    def thing(self, tokens: Sequence[Token], depth: int = 0) -> Thing:
        if not tokens or depth > 30:
            raise Unread("nothing where something was expected")
        excepted = but_for(tokens)
        if excepted is not None:
            shape = as_region(self.thing(excepted, depth + 1))
            return Thing("region", region=regions.without(regions.EVERYTHING, shape))
        tokens = with_signs(tokens)
        parts, separators = split(tokens, ",", ";", *OR, *AND)
        if (
            len(parts) > 1
            and [str(t) for t in parts[0][1:2]] in (["\\ne"], ["\\neq"])
            and all(all(t.kind not in ("letter", "word") for t in part) for part in parts[1:])
        ):
            # `x \\ne -2, 3`
            parts = [parts[0], *([*parts[0][:2], *part] for part in parts[1:])]
        if len(parts) > 1:
            return self._several(parts, separators, depth)
        both = readings(tokens)
        if len(both) > 1:
            things = [self._one(reading, depth) for reading in both]
            return self._gathered(things)
        return self._one(tokens, depth)

    def _gathered(self, things: list[Thing]) -> Thing:
        r"""The readings of a \pm: two values, or twice the items of a list."""
        if all(t.kind == "equation" and len(t.trees) == 2 for t in things):
            left = {t.trees[0] for t in things}
            if len(left) == 1 and next(iter(left))[0] == "letter":
                name = next(iter(left))[1]
                things = [Thing("value", (t.trees[1],)) for t in things]
                return Thing("list", items=tuple(things), name=name)
        if all(t.kind == "set" for t in things):
            return Thing("set", items=tuple(i for t in things for i in t.items))
        return Thing("list", items=tuple(things))

    def _several(  # noqa: C901
        self, parts: list[list[Token]], separators: list[str], depth: int
    ) -> Thing:
        if not parts[-1] and separators[-1] in (",", ";"):
            parts, separators = parts[:-1], separators[:-1]
        # `a, b, and c`: the comma before the word separates nothing.
        kept: list[list[Token]] = []
        ways: list[str] = []
        for number, part in enumerate(parts):
            if not part and number and separators[number - 1] == ",":
                ways[-1] = separators[number] if number < len(separators) else ways[-1]
                continue
            if not part:
                raise Unread("nothing between two commas")
            kept.append(part)
            if number < len(separators):
                ways.append(separators[number])
        things = []
        for part in kept:
            inner = self.thing(without_lead(part), depth + 1)
            things.append(inner)
        if len(things) == 1:
            return things[0]
        shaped = [t.kind == "region" for t in things]
        if any(shaped) and all(
            s or t.kind == "equation" or _is_real(t) for s, t in zip(shaped, things, strict=True)
        ):
            ways = ways[: len(things) - 1]
            if all(enclosed(part) for part in kept):
                # Intervals beside one another: `(1, 2)` and `(3, 4)`.
                ways = ["or" if way in AND else way for way in ways]
            return joined(things, ways)
        things = _with_compounds(things, ways)
        if len(things) == 1:
            return things[0]
        items: list[Thing] = []
        for thing in things:
            # 3, \pm 2
            items += thing.items if thing.kind == "list" else [thing]
        shared = things[-1].unit
        if shared is not None and all(t.kind == "value" for t in items):
            # `3 and 5 cm`
            items = [replace(t, unit=shared) if t.unit is None else t for t in items]
        return Thing("list", items=tuple(items))

    def _one(self, tokens: Sequence[Token], depth: int) -> Thing:  # noqa: C901
        texts = [str(token) for token in tokens]
        found = self.of_rows(tokens, depth)
        if found is not None:
            return found
        if texts[1:2] == ["\\notin"] and tokens[0].kind == "letter":
            inside = as_region(self.thing(tokens[2:], depth + 1))
            outside = regions.without(regions.EVERYTHING, inside)
            return Thing("region", region=outside, name=texts[0])
        for separator, rule in (("\\cup", "or"), ("\\cap", "and")):
            parts, found = split(tokens, separator)
            if found:
                things = [self.thing(part, depth + 1) for part in parts]
                return joined(things, [rule] * len(found))
        for n in range(1, len(texts) - 1):
            sets = texts[n - 1], texts[n + 1]
            if texts[n] == "-" and sets in _DIFFERENCES:
                tokens = [*tokens[:n], Token("command", "setminus"), *tokens[n + 1 :]]
        parts, found = split(tokens, "\\setminus", "\\backslash")
        if len(found) == 1:
            a, b = (self.thing(part, depth + 1) for part in parts)
            return Thing("region", region=regions.without(as_region(a), as_region(b)))
        parts, found = split(tokens, "\\in", "\\isin")
        if len(found) == 1 and len(parts[0]) == 1 and parts[0][0].kind == "letter":
            inside = self.thing(parts[1], depth + 1)
            return replace(as_interval(inside), name=parts[0][0].text)
        if len(found) == 1 and _is_point(parts[0]):
            return self.thing(parts[1], depth + 1)
        if " ".join(texts).lower() in ALL_REALS:
            return Thing("region", region=regions.EVERYTHING)
        half = half_of_reals(texts)
        if half is not None:
            return Thing("region", region=half)
        if texts in (["\\mathbb R"], ["\\R"], ["\\mathbf R"]):
            return Thing("region", region=regions.EVERYTHING)
        nothing = (["\\emptyset"], ["\\varnothing"], ["\\{", "\\}"])
        if texts in nothing or " ".join(texts).lower() in NOTHING:
            return Thing("set")
        around = enclosed(tokens)
        if around is not None:
            inner = self._bracketed(tokens[1:-1], around, depth)
            if inner is not None:
                return inner
        if _is_named_point(tokens, self.context.is_point):
            return self.thing(tokens[1:], depth + 1)
        if texts[0] in ("]", "[") and texts[-1] in ("]", "["):
            inner = self._reversed(tokens, depth)
            if inner is not None:
                return inner
        return self._statement(tokens, depth)

    def _bracketed(
        self, inside: Sequence[Token], around: tuple[str, str], depth: int
    ) -> Thing | None:
        opening, closing = around
        if opening in ("\\{", "\\lbrace"):
            built = self._builder(inside, depth)
            if built is not None:
                return built
            parts, _ = split(inside, ",", ";")
            things = [self.thing(part, depth + 1) for part in parts]
            items = [i for t in things for i in (t.items if t.kind == "list" else (t,))]
            return Thing("set", items=tuple(items))
        if opening == "{" and [str(t) for t in inside[1:2]] in (
            ["|"], [":"], ["\\mid"], ["\\in"],
        ):  # fmt: skip
            return self._builder(inside, depth)
        if opening == "{":
            return self.thing(inside, depth + 1) if closing == "}" else None
        parts, _ = split(inside, ",", ";")
        if len(parts) < 2:
            starts_matrix = str(inside[0]).startswith("\\begin ") if inside else False
            if starts_matrix or split(inside, *RELATIONS, "=", *OR, *AND)[1] or enclosed(inside):
                return self.thing(inside, depth + 1)
            return None
        if readings(inside) != [list(inside)]:
            return None
        items = tuple(self.thing(part, depth + 1) for part in parts)
        made = Thing("tuple", items=items, brackets=opening + closing)
        ends_in_infinity = any(mentions(t.trees, "infinity") for t in items)
        if opening + closing in ("(]", "[)") or (len(items) == 2 and ends_in_infinity):
            return as_interval(made)
        return made

    def _reversed(self, tokens: Sequence[Token], depth: int) -> Thing | None:
        """`]1, 3]`, as some countries write an open end."""
        first, last = str(tokens[0]), str(tokens[-1])
        if first == "[" and last == "]":
            return None
        parts, _ = split(tokens[1:-1], ",", ";")
        if len(parts) != 2:
            return None
        items = tuple(self.thing(part, depth + 1) for part in parts)
        brackets = ("(" if first == "]" else "[") + (")" if last == "[" else "]")
        return as_interval(Thing("tuple", items=items, brackets=brackets))

    def _builder(self, inside: Sequence[Token], depth: int) -> Thing | None:
        r"""`\{x : x > 3\}`, `\{x \in \mathbb{R} \mid x > 3\}`."""
        if not inside or inside[0].kind != "letter":
            return None
        domain: list[Token] = []
        rest = list(inside[1:])
        if rest and str(rest[0]) == "\\in":
            place = next(
                (n for n, t in enumerate(rest) if str(t) in (":", "|", "\\mid")), len(rest)
            )
            domain, rest = rest[1:place], rest[place:]
        if not rest or str(rest[0]) not in (":", "|", "\\mid"):
            return None
        found = self.thing(rest[1:], depth + 1)
        shape = as_region(found)
        if domain:
            shape = regions.intersection(shape, as_region(self.thing(domain, depth + 1)))
        if found.name not in ("", inside[0].text):
            raise Unread("a set of another variable")
        return Thing("region", region=shape)

    def _about(self, parts: list[list[Token]], depth: int) -> Thing:
        r"""`\frac{7}{12} \approx 0.583`: the value, if the decimal is that value rounded."""
        end = self.quantity(parts[-1])
        digits = next((t.text for t in parts[-1] if t.kind == "number"), "")
        if not parts[0] or named(parts[0]) or is_label(parts[0]):
            return replace(end, rounded=end.trees[0])
        found = self.thing(parts[0], depth + 1)
        if found.kind not in ("value", "equation") or len(parts) != 2:
            raise Unread("several values that are about the same")
        exact, near = (number_of(thing.trees[-1]) for thing in (found, end))
        if end.percent and not found.percent:
            near /= 100
        if found.percent and not end.percent:
            exact /= 100
        if not digits or not _rounds_to(exact, near, digits):
            raise Unread("a rounded value of another number")
        return found

    def _statement(self, tokens: Sequence[Token], depth: int) -> Thing:
        parts, found = split(tokens, "\\approx", "\\simeq", "\\thickapprox")
        if found:
            return self._about(parts, depth)
        parts, found = split(tokens, *RELATIONS)
        if found:
            return self._relation(parts, [RELATIONS[sign] for sign in found])
        parts, found = split(tokens, "=", "\\equiv")
        if found:
            return self._equation(parts, depth)
        tokens = with_bar(tokens)
        written = numeral(tokens)
        if written is not None:
            return written
        parts, found = split(tokens, ":", "to")
        if found:
            return self._ratio(parts)
        breaks = [n for n in range(2, len(tokens)) if _is_next_unit(tokens, n)]
        if breaks:
            ends = pairwise([0, *breaks, len(tokens)])
            compound = _compound([self.quantity(tokens[a:b]) for a, b in ends])
            if compound is None:
                raise Unread("quantities that stand apart")
            return compound
        return self.quantity(tokens)

    def _ratio(self, parts: list[list[Token]]) -> Thing:
        last, tail = self._unit(parts[-1])
        trees = [parse(part) for part in [*parts[:-1], last]]
        return Thing("ratio", tuple(trees), unit=tail)

    def _equation(self, parts: list[list[Token]], depth: int) -> Thing:
        if len(parts) == 2 and _is_point(parts[0]):
            return self.thing(parts[1], depth + 1)
        if (is_label(parts[0]) or _is_power_of_matrix(parts)) and all(parts[1:]):
            rest = [token for part in parts[1:] for token in (Token("symbol", "="), *part)]
            return self.thing(rest[1:], depth + 1)
        name = named(parts[0])
        if len(parts) == 2 and name:
            right = self.thing(parts[1], depth + 1)
            if right.kind != "value":
                return replace(right, name=name) if right.kind != "equation" else right
            return replace(
                right, kind="equation", name=name, trees=(("letter", name), *right.trees)
            )
        if not name and any(map(numeral, parts)):
            return self._in_bases(parts)
        known = parts if self.context.is_gold else _worked_out(parts)
        if len(known) < len(parts):
            joint = [token for part in known for token in (Token("symbol", "="), *part)]
            return self.thing(joint[1:], depth + 1)
        return self._chain(parts, name or "")

    def _chain(self, parts: list[list[Token]], name: str) -> Thing:
        """Sides that are quantities."""
        *others, last = parts
        things = [self.quantity(part) for part in others if named(part) is None]
        end = self.quantity(last)
        if end.modulus is not None and not name and not any(letters(t.trees) for t in things):
            # A remainder of a number: `2^{100} \equiv 2 \pmod 7`.
            return end
        if len(things) == 1 and not name:
            if _is_same_amount(things[0], end):
                # `1.5 hours = 90 minutes`
                return replace(things[0], finest=end.unit)
            if _is_in_radians(things[0], end):
                # `30^\circ = \pi/6`
                return things[0]
            if _is_in_radians(end, things[0]):
                return end
        if len({thing.percent for thing in (*things, end)}) > 1:
            # `0.75 = 75 %`
            things, end = [_fraction_of(thing) for thing in things], _fraction_of(end)
        trees = (*(t.trees[0] for t in things), end.trees[0])
        if name and things:
            trees = (("letter", name), *trees)
        return replace(end, kind="equation", name=name, trees=trees)

    def _in_bases(self, parts: list[list[Token]]) -> Thing:
        """`2516_8 = 1358_{10} = 1358`: the last, if all are the same number."""
        things = [numeral(part) or self.quantity(part) for part in parts]
        try:
            worths = {
                int(t.name, t.base) if t.kind == "numeral" else number_of(t.trees[0])
                for t in things
            }
        except ValueError as error:
            raise Unread("a digit that the base does not have") from error
        if len(worths) != 1:
            raise Unread("numerals of different numbers")
        return things[-1]

    def _relation(self, parts: list[list[Token]], signs: list[str]) -> Thing:
        trees = [parse(self._unit(part)[0]) for part in parts]
        names = {name for tree in trees for name in letters(tree)}
        if len(names) == 1:
            (name,) = names
            shapes = []
            for left, sign, right in zip(trees, signs, trees[1:], strict=False):
                shape = solved(left, sign, right, name)
                if shape is None:
                    break
                shapes.append(shape)
            else:
                return Thing("region", region=regions.intersection(*shapes), name=name)
        if len(signs) != 1 or not names:
            raise Unread("inequalities that are not solved")
        left, right, sign = trees[0], trees[1], signs[0]
        if sign in (">", ">="):
            left, right, sign = right, left, {">": "<", ">=": "<="}[sign]
        return Thing("relation", (("add", left, ("minus", right)),), sign=sign)


def _is_named_point(tokens: Sequence[Token], expected: bool) -> bool:
    """`V(1, -4)`; `C(5, 2)` and `P(5, 2)` are numbers, unless a point is expected."""
    named = tokens[0].kind == "letter" and tokens[0].text.isupper()
    named = named and (expected or tokens[0].text not in "CP")
    around = enclosed(tokens[1:]) if named else None
    return around == ("(", ")") and bool(split(tokens[2:-1], ",")[1])


def _is_point(tokens: Sequence[Token]) -> bool:
    """Whether letters with commas stand in brackets: `(x, y)`."""
    if not enclosed(tokens) or not any(token.text == "," for token in tokens):
        return False
    names, _ = split(tokens[1:-1], ",")
    greek = ("\\theta", "\\phi", "\\varphi", "\\rho", "\\alpha", "\\beta", "\\lambda")
    return all(len(n) == 1 and (n[0].kind == "letter" or str(n[0]) in greek) for n in names)


def _is_same_amount(a: Thing, b: Thing) -> bool:
    """Whether two quantities in different units of one kind are equal."""
    x, y = a.unit, b.unit
    if x is None or y is None or x == y or not x.dimension or x.dimension != y.dimension:
        return False
    sizes = [("times", t.trees[0], ("number", u.scale)) for t, u in ((a, x), (b, y))]
    return _are_equal(*sizes)


def _is_in_radians(degrees: Thing, other: Thing) -> bool:
    """Whether one is an angle in degrees, and the other one the same angle in radians."""
    if degrees.unit != unit("degree") or not mentions(other.trees, "pi"):
        return False
    if other.unit not in (None, unit("radian")) or letters((degrees.trees, other.trees)):
        return False
    return _are_equal(radians(degrees.trees[0]), other.trees[0])


def _are_equal(one: Tree, other: Tree) -> bool:
    a, b = number_of(one), number_of(other)
    return bool(abs(a - b) <= regions.CLOSE * abs(a))


def _is_next_unit(tokens: Sequence[Token], place: int) -> bool:
    """Whether a number begins here behind a number with a unit: `2 hours 40 minutes`."""
    before = tokens[place - 1]
    sized = unit(before.text) if before.kind in ("word", "letter") and before.upright else None
    if before.kind == "word" and not before.upright and len(before.text) > 1:
        sized = unit(before.text)
    numbers = tokens[place].kind == tokens[place - 2].kind == "number"
    return numbers and sized is not None and bool(sized.dimension)


def _fraction_of(thing: Thing) -> Thing:
    """A percentage as the number that it is."""
    if not thing.percent:
        return thing
    return replace(
        thing, percent=False, trees=(("over", thing.trees[0], ("number", Fraction(100))),)
    )


def _compound(things: Sequence[Thing]) -> Thing | None:
    """`18 dollars and 90 cents` as one quantity in the first unit; None for what is none."""
    if len(things) < 2 or any(t.kind != "value" or t.unit is None for t in things):
        return None
    first = things[0].unit
    tree: Tree = things[0].trees[0]
    for before, thing in pairwise(things):
        a, b = before.unit, thing.unit
        if not (first and a and b and a.dimension == b.dimension and a.scale > b.scale):
            return None
        size = thing.trees[0]
        if not a.dimension or size[0] != "number" or not 0 <= size[1] * b.scale < a.scale:
            return None
        tree = ("add", tree, ("times", size, ("number", b.scale / first.scale)))
    return replace(things[0], trees=(tree,), finest=things[-1].unit)


def _with_compounds(things: Sequence[Thing], ways: Sequence[str]) -> list[Thing]:
    """Things joined by `or` or commas, those that `and` joins to one quantity as one."""
    kept = [things[0]]
    for way, thing in zip(ways, things[1:], strict=False):
        both = _compound([kept[-1], thing]) if way in (",", "and") else None
        if both is None:
            kept.append(thing)
        else:
            kept[-1] = both
    return kept


def _rounds_to(exact: Any, near: Any, digits: str) -> bool:
    """Whether a number, rounded or cut off after the digits that were written, is the other.

    Args:
        digits: of `near` as they were written, up to a power of ten or a percent sign.
    """
    written = mpmath.mpf(digits)
    if not written:
        return abs(exact) < 1
    places = len(digits.partition(".")[2])
    zeros = len(digits) - len(digits.rstrip("0")) if "." not in digits else 0
    unit = abs(near / written) * mpmath.mpf(10) ** (zeros - places)
    tolerance = unit * mpmath.mpf(10) ** -12
    is_cut = -tolerance <= abs(exact) - abs(near) < unit and exact * near > 0
    return is_cut or abs(exact - near) <= unit / 2 + tolerance


def _is_power_of_matrix(parts: Sequence[Sequence[Token]]) -> bool:
    r"""`A^{-1} = \begin{pmatrix} ...`."""
    named = parts[0] and parts[0][0].kind == "letter" and parts[0][0].text.isupper()
    raised = [str(token) for token in parts[0][1:2]] == ["^"]
    return bool(named and raised and parts[1] and str(parts[1][0]).startswith("\\begin "))


def _worked_out(parts: list[list[Token]]) -> list[list[Token]]:
    """The sides of an equation without those of which only the value is read, and the last side."""
    return [*(part for part in parts[:-1] if not _is_beyond(part)), parts[-1]]


def _is_beyond(tokens: Sequence[Token]) -> bool:
    """Whether an integral, or a sum with dots, which this reader does not work out, stands here."""
    texts = [str(token) for token in tokens]
    if not _BEYOND & set(texts):
        return False
    dotted = any(
        text in _DOTS and {*texts[n - 1 : n], *texts[n + 1 : n + 2]} <= _ADDED
        for n, text in enumerate(texts)
    )
    try:
        parse(tokens)
    except Unsupported:
        return True
    except Unread:
        return dotted
    return False


_DOTS = ("\\dots", "\\ldots", "\\cdots", "\\dotsb")
_BEYOND = frozenset((*_DOTS, *(f"\\{name}" for name in UNSUPPORTED)))
_ADDED = frozenset(("+", "-", "\\cdot", "\\times", "*"))


def _is_real(thing: Thing) -> bool:
    return thing.kind in ("value", "set", "tuple")


def ambiguous_list(text: str) -> bool:
    """Whether a gold such as `100,200` may be two numbers as well as one."""
    groups = text.replace(APART, "").split(",")
    return len(groups) > 1 and all(re.fullmatch(r"[1-9]\d\d", group.strip()) for group in groups)
