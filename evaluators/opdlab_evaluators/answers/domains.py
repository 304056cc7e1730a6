"""Sets of real numbers told in words: `nonnegative reals`, `all real numbers greater than 5`."""

from __future__ import annotations

from collections.abc import Sequence

import mpmath

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.tokens import Token, names_of

_EXCEPTING = (
    ["all", "real", "numbers", "except"],
    ["all", "reals", "other", "than"],
    ["real", "numbers", "except"],
)


def but_for(tokens: Sequence[Token]) -> list[Token] | None:
    """What `all real numbers except those in` leaves out; None of other words."""
    lead = [token.text.lower() for token in tokens[:4]]
    for words in _EXCEPTING:
        if lead[: len(words)] == words:
            rest = list(tokens[len(words) :])
            return rest[2:] if [token.text for token in rest[:2]] == ["those", "in"] else rest
    return None


_COMPARISONS = {
    ("greater", "than"): ">", ("more", "than"): ">", ("larger", "than"): ">", ("less", "than"): "<",
    ("smaller", "than"): "<", ("at", "least"): "\\ge", ("at", "most"): "\\le",
}  # fmt: skip
_COMPARED = frozenset(
    names_of("all any real reals number numbers value values of is are that which be must x =")
)


def with_signs(tokens: Sequence[Token]) -> Sequence[Token]:
    """`all real numbers greater than 5`, `x is at least 5` with signs; other tokens as they are."""
    words = [token.text.lower() for token in tokens]
    place = next((n for n in range(1, len(words)) if tuple(words[n : n + 2]) in _COMPARISONS), 0)
    names = [token for token in tokens[:place] if token.kind == "letter"]
    told = {"reals", "numbers"} & set(words[:place]) or len(names) == 1
    if not place or not told or len(names) > 1:
        return tokens
    if not set(words[:place]) - {name.text.lower() for name in names} <= _COMPARED:
        return tokens
    sign, rest = _COMPARISONS[words[place], words[place + 1]], tokens[place + 2 :]
    if words[place + 2 : place + 5] == ["or", "equal", "to"] and sign in "<>":
        sign, rest = {"<": "\\le", ">": "\\ge"}[sign], tokens[place + 5 :]
    name = names[0] if names else Token("letter", "x")
    return [name, Token("command", sign[1:]) if sign[1:] else Token("symbol", sign), *rest]


def half_of_reals(texts: list[str]) -> regions.Region | None:
    """`\\mathbb{R}_{\\ge 0}`, `\\mathbb{R}^+`, `positive real numbers`."""
    words = " ".join(texts).lower().removeprefix("all ").replace("non - ", "non")
    bare = "".join(text for text in texts if text not in ("{", "}"))
    closed = bare in ("\\mathbb R_\\ge0", "\\mathbb R_\\geq0", "\\mathbb R_\\geqslant0")
    if closed or words in ("nonnegative real numbers", "nonnegative reals"):
        return regions.interval(mpmath.mpf(0), regions.INFINITY, True, False)
    if bare in ("\\mathbb R_>0", "\\mathbb R^+") or words in (
        "positive real numbers",
        "positive reals",
    ):
        return regions.interval(mpmath.mpf(0), regions.INFINITY, False, False)
    if words in ("negative real numbers", "negative reals"):
        return regions.interval(-regions.INFINITY, mpmath.mpf(0), False, False)
    if words in ("nonzero real numbers", "nonzero reals"):
        return regions.without(regions.EVERYTHING, regions.points([mpmath.mpf(0)]))
    return None
