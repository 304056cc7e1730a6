"""A value with what follows it: a unit, a percent sign, a modulus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from opdlab_evaluators.answers.expression import parse
from opdlab_evaluators.answers.thing import Context, Thing
from opdlab_evaluators.answers.tokens import FUNCTIONS, Token, Unread
from opdlab_evaluators.answers.trees import OF_ANGLES, Tree, mentions
from opdlab_evaluators.answers.units import ADJECTIVES, LETTERS, PER, PREFIX, TAILS, Unit, unit
from opdlab_evaluators.answers.words import MEANING, scaled, worded

_TAILS_BY_WORD = {tail[-1]: tuple(one for one in TAILS if one[-1] == tail[-1]) for tail in TAILS}


NEGATIVE = ("negative", "minus")
MOST_OF_UNIT = 30
"""Tokens of the longest unit."""


class Measures:
    """Reads quantities in the context of the other answer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def quantity(self, tokens: Sequence[Token]) -> Thing:
        """A value with what may follow it: a unit, a percent sign, `\\pmod`."""
        tokens, modulus = self._modulus(list(tokens))
        if tokens and str(tokens[0]) == "\\dollar":
            tokens = _thousands(tokens)
            found = self.quantity(tokens[1:])
            sized = found.unit is not None and found.unit.dimension
            return replace(found, unit=found.unit if sized else unit("dollar"), modulus=modulus)
        if len(tokens) > 1 and tokens[0].text == "-" and str(tokens[1]) == "\\dollar":
            return replace(self.quantity([tokens[0], *tokens[2:]]), unit=unit("dollar"))
        if len(tokens) > 1 and tokens[0].kind == "word" and tokens[0].text.lower() in NEGATIVE:
            return _negated(self.quantity(tokens[1:]))
        tokens, percent = _percent(self._without_tail(tokens))
        tokens, tail = self._unit(tokens)
        if tail is not None and not percent and tail.dimension in ((), (("time", -1),)):
            # `5 % per year`
            tokens, percent = _percent(tokens)
        if not tokens:
            raise Unread("a unit without a number")
        tokens, scale = scaled(tokens)
        word = worded(tokens)
        tree = parse(tokens) if word is None else word
        if scale != 1:
            tree = ("times", tree, ("number", Fraction(scale)))
        if tail is None and mentions(tree, "degrees") and not _inside_angles(tree):
            tail = unit("degree")
        return Thing("value", (tree,), unit=tail, percent=percent, modulus=modulus)

    def _modulus(self, tokens: list[Token]) -> tuple[list[Token], Tree | None]:
        texts = [str(token) for token in tokens]
        for place, text in enumerate(texts):
            if text == "\\pmod" and place:
                return tokens[:place], parse(tokens[place + 1 :])
            if (
                text == "("
                and texts[place + 1 : place + 2] in (["\\mod"], ["\\bmod"], ["mod"])
                and place
            ):
                return tokens[:place], parse(tokens[place + 2 : -1])
            if text == "mod" and place:
                return tokens[:place], parse(tokens[place + 1 :])
        return tokens, None

    def _unit(self, tokens: Sequence[Token]) -> tuple[list[Token], Unit | None]:
        """The tokens before a unit that ends them, and the unit."""
        tokens = list(tokens)
        tokens = self._without_tail(tokens)
        if tokens and str(tokens[-1]) == "\\dollar":
            return tokens[:-1], unit("dollar")
        marks = 0
        while tokens and str(tokens[-1]) == "'" and marks < 2:
            tokens, marks = tokens[:-1], marks + 1
        if marks and tokens and tokens[-1].kind == "number":
            return tokens, unit("foot" if marks == 1 else "inch")
        found = _fraction_of_units(tokens)
        if found is not None:
            above, below = self._units_from(found[1]), self._units_from(found[2])
            if above is not None and below is not None:
                return found[0], above.times(below, -1)
        for place in range(max(1, len(tokens) - MOST_OF_UNIT), len(tokens)):
            if self._may_begin_unit(tokens, place):
                # `$18 per day`, `$18 a day`
                each = tokens[place].text.lower() in ("per", "every", "each", "/") or _in_each(
                    tokens[place:]
                )
                found = self._units_from(tokens[place + each :])
                if found is not None:
                    return tokens[:place], Unit().times(found, -1) if each else found
        return tokens, None

    def _without_tail(self, tokens: list[Token]) -> list[Token]:
        if not tokens or tokens[-1].kind != "word":
            return tokens
        for tail in _TAILS_BY_WORD.get(tokens[-1].text.lower(), ()):
            words = tuple(token.text.lower() for token in tokens[-len(tail) :])
            before = tokens[-len(tail) - 1].text.lower() if len(tokens) > len(tail) else "times"
            if words == tail and before != "times":
                return tokens[: -len(tail)]
        return tokens

    def _may_begin_unit(self, tokens: Sequence[Token], place: int) -> bool:
        token, before = tokens[place], tokens[place - 1]
        if token.text == "/" and place + 1 < len(tokens):
            # `12/day`
            return before.kind == "number" and tokens[place + 1].kind == "word"
        if token.kind not in ("word", "letter") or str(before) in (
            "+", "-", "*", "/", "^", "_", "(", "[", "\\cdot", "\\times", "\\sqrt", "\\frac", "{",
        ):  # fmt: skip
            return False
        if token.text in FUNCTIONS:
            # `204 min` ends with minutes; a minimum has numbers behind it. So is `12 sec` no secant.
            is_last = token.text in ("min", "sec") and place == len(tokens) - 1
            return is_last and (token.upright or before.kind == "number")
        if len(token.text) == 1:
            if token.text in self.context.letters:
                return False
            if _in_each(tokens[place:]):
                return True
            # `10 m` as it is typed; `10m` may be a product.
            typed = token.spaced and before.kind == "number" and token.text in "mgshL"
            return token.upright or typed or self._is_units_letter(token)
        if not token.upright and not token.spaced and before.kind != "number":
            return False
        return not set(token.text) <= self.context.letters

    def _units_from(self, tokens: Sequence[Token]) -> Unit | None:
        r"""The unit that tokens are: `cm^2`, `square feet`, `km/h`, `dollars per hour`; or None."""
        made, place, sign, prefix = Unit(), 0, 1, 1
        expecting = True
        while place < len(tokens):
            token = tokens[place]
            text = token.text
            if text in ("/", "per", "a", "an", "each", "every") and not expecting and text in PER:
                sign, expecting, place = -1, True, place + 1
                continue
            if str(token) in ("\\cdot", "\\times", "*") and not expecting:
                expecting, place = True, place + 1
                continue
            if text.lower() in ADJECTIVES and expecting and place + 1 < len(tokens):
                place += 1
                continue
            if text.lower() == "of" and not expecting and _is_stuff(tokens[place + 1 :]):
                return made
            if text.lower() in PREFIX and token.kind == "word":
                prefix, place = PREFIX[text.lower()], place + 1
                continue
            one = self._known(token)
            if one is None:
                return None
            place += 1
            raised, place = _exponent(tokens, place, one)
            if raised == 0:
                return None
            exponent = raised or prefix
            made = made.times(one, sign * exponent)
            prefix, expecting = 1, False
        return None if expecting and prefix == 1 and not made.dimension and place == 0 else made

    def _is_units_letter(self, token: Token) -> bool:
        """Whether a letter that is not upright stands for the kind of unit that the gold has."""
        wanted, found = self.context.unit, unit(token.text)
        return bool(
            wanted
            and found
            and token.text in LETTERS
            and wanted.dimension
            and {kind for kind, _ in found.dimension} <= {kind for kind, _ in wanted.dimension}
        )

    def _known(self, token: Token) -> Unit | None:
        if token.kind == "letter" and token.text not in LETTERS:
            return None
        if token.kind not in ("word", "letter"):
            return None
        if token.kind == "word" and len(token.text) == 1 and token.text not in LETTERS:
            return None
        found = unit(token.text)
        if found is not None:
            return found
        if token.text.lower() in self.context.own_units:
            return Unit()
        if (
            self.context.is_gold
            and token.upright
            and token.text.lower() not in MEANING
            and len(token.text) > 2
        ):
            return Unit()
        return None


_RAISED = {"squared": 2, "cubed": 3}


def _in_each(tokens: Sequence[Token]) -> bool:
    """Whether `a day` comes, and nothing behind it."""
    time = unit(tokens[1].text) if len(tokens) == 2 and tokens[0].spaced else None
    return tokens[0].text in ("a", "an") and time is not None and time.dimension == (("time", 1),)


def _is_stuff(tokens: Sequence[Token]) -> bool:
    """Whether words are what there is some of: `cups of flour`."""
    return 0 < len(tokens) <= 4 and all(
        token.kind == "word" and len(token.text) > 2 and token.text.lower() not in MEANING
        for token in tokens
    )


def _fraction_of_units(
    tokens: Sequence[Token],
) -> tuple[list[Token], list[Token], list[Token]] | None:
    r"""What stands before `\frac{\text{miles}}{\text{hour}}` at the end, and its two parts."""
    texts = [str(token) for token in tokens]
    if texts[-1:] != ["}"] or "\\frac" not in texts[1:]:
        return None
    place = len(texts) - 1 - texts[::-1].index("\\frac")
    inside = texts[place + 1 :]
    if inside[:1] != ["{"] or inside.count("{") != 2 or inside.count("}") != 2:
        return None
    middle = place + 1 + inside.index("}")
    if texts[middle + 1] != "{" or tokens[place + 2].kind not in ("word", "letter"):
        return None
    return list(tokens[:place]), list(tokens[place + 2 : middle]), list(tokens[middle + 2 : -1])


def _thousands(tokens: list[Token]) -> list[Token]:
    """`$70K` as `$70 thousand`."""
    scale = {"K": "thousand", "k": "thousand", "M": "million", "B": "billion"}.get(tokens[-1].text)
    if scale is None or tokens[-2].kind != "number":
        return tokens
    return [*tokens[:-1], Token("word", scale, spaced=True)]


def _negated(thing: Thing) -> Thing:
    """`negative 3`; a sum behind the word may be meant whole or not."""
    if thing.trees[0][0] not in ("number", "over", "root", "constant"):
        raise Unread("a negative of what is no number")
    return replace(thing, trees=(("minus", thing.trees[0]),))


def _percent(tokens: list[Token]) -> tuple[list[Token], bool]:
    if tokens and (
        str(tokens[-1]) == "%"
        or (tokens[-1].kind == "word" and tokens[-1].text.lower() == "percent")
    ):
        return tokens[:-1], True
    words = [token.text.lower() for token in tokens[-2:]]
    if words == ["per", "cent"]:
        return tokens[:-2], True
    return tokens, False


def _exponent(tokens: Sequence[Token], place: int, of: Unit) -> tuple[int | None, int]:
    """The exponent behind a unit, 0 for one that is not read, None without one; and the place behind it."""
    text = tokens[place].text.lower() if place < len(tokens) else ""
    if text == "^":
        return _small_exponent(tokens, place + 1)
    if text in _RAISED and of.dimension == (("length", 1),):
        return _RAISED[text], place + 1
    return None, place


def _small_exponent(tokens: Sequence[Token], place: int) -> tuple[int, int]:
    texts = [str(token) for token in tokens[place : place + 4]]
    if texts[:1] and texts[0].isdigit() and len(texts[0]) == 1:
        return int(texts[0]), place + 1
    if texts[:1] == ["{"] and texts[2:3] == ["}"] and texts[1].isdigit() and len(texts[1]) == 1:
        return int(texts[1]), place + 3
    if texts[0:2] == ["{", "-"] and texts[3:4] == ["}"] and texts[2].isdigit():
        return -int(texts[2]), place + 4
    return 0, place


def _inside_angles(tree: Any) -> bool:
    """Whether all degrees of a tree stand in functions of angles."""
    if not isinstance(tree, tuple):
        return True
    if tree and tree[0] == "degrees":
        return False
    if tree[:1] == ("function",) and tree[1] in OF_ANGLES:
        return True
    return all(_inside_angles(part) for part in tree)
