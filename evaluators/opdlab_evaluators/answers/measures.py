"""A value with what follows it: a unit, a percent sign, a modulus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opdlab_evaluators.answers.expression import OF_ANGLES, Tree, mentions, parse
from opdlab_evaluators.answers.thing import Context, Thing
from opdlab_evaluators.answers.tokens import FUNCTIONS, Token, Unread
from opdlab_evaluators.answers.units import LETTERS, PER, PREFIX, TAILS, Unit, unit
from opdlab_evaluators.answers.words import MEANING, worded


class Measures:
    """Reads quantities in the context of the other answer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def quantity(self, tokens: Sequence[Token]) -> Thing:
        """A value with what may follow it: a unit, a percent sign, `\\pmod`."""
        tokens, modulus = self._modulus(list(tokens))
        if tokens and str(tokens[0]) == "\\dollar":
            tail = unit("dollar")
            rest, own = self._unit(tokens[1:])
            return Thing(
                "value",
                (parse(rest),),
                unit=own if own and own.dimension else tail,
                modulus=modulus,
            )
        if len(tokens) > 1 and tokens[0].text == "-" and str(tokens[1]) == "\\dollar":
            return replace(self.quantity([tokens[0], *tokens[2:]]), unit=unit("dollar"))
        tokens, percent = _percent(tokens)
        tokens, tail = self._unit(tokens)
        if not tokens:
            raise Unread("a unit without a number")
        word = worded(tokens)
        tree = parse(tokens) if word is None else word
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
        for place in range(1, len(tokens)):
            if self._may_begin_unit(tokens, place):
                found = self._units_from(tokens[place:])
                if found is not None:
                    return tokens[:place], found
        return tokens, None

    def _without_tail(self, tokens: list[Token]) -> list[Token]:
        for tail in TAILS:
            words = tuple(token.text.lower() for token in tokens[-len(tail) :])
            if words == tail and len(tokens) > len(tail) and tokens[-1].kind == "word":
                return tokens[: -len(tail)]
        return tokens

    def _may_begin_unit(self, tokens: Sequence[Token], place: int) -> bool:
        token, before = tokens[place], tokens[place - 1]
        if token.kind not in ("word", "letter") or str(before) in (
            "+", "-", "*", "/", "^", "_", "(", "[", "\\cdot", "\\times", "\\sqrt", "\\frac", "{",
        ):  # fmt: skip
            return False
        if token.text in FUNCTIONS:
            return False
        if len(token.text) == 1:
            return token.upright and token.text not in self.context.letters
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
            if text.lower() in PREFIX and token.kind == "word":
                prefix, place = PREFIX[text.lower()], place + 1
                continue
            one = self._known(token)
            if one is None:
                return None
            place += 1
            exponent = prefix
            if place < len(tokens) and tokens[place].text == "^":
                exponent, place = _small_exponent(tokens, place + 1)
                if exponent == 0:
                    return None
            made = made.times(one, sign * exponent)
            prefix, expecting = 1, False
        return None if expecting and prefix == 1 and not made.dimension and place == 0 else made

    def _known(self, token: Token) -> Unit | None:
        if token.kind == "letter" and (not token.upright or token.text not in LETTERS):
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
