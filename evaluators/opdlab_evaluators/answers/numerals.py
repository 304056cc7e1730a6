"""Names on the left of an equation, and numbers with a base behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opdlab_evaluators.answers.sentences import names_a_thing
from opdlab_evaluators.answers.thing import Thing
from opdlab_evaluators.answers.tokens import Token

_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_BASES |= {"ten": 10, "twelve": 12, "sixteen": 16}


def named(tokens: Sequence[Token]) -> str | None:
    """The variable or function, `x`, `x_1`, `f(x)`, that the left side of an equation names."""
    texts = [str(token) for token in tokens]
    if not texts or (
        tokens[0].kind != "letter" and texts[0] not in ("\\theta", "\\alpha", "\\lambda")
    ):
        return None
    if texts[1:6] == ["^", "{", "-", "1", "}"] and "(" in texts[6:7]:
        # `f^{-1}(x)`
        tokens = [tokens[0], *tokens[6:]]
        texts = [texts[0], *texts[6:]]
    while len(texts) > 1 and texts[1] == "'":
        # `f'(x)`, `y''`
        tokens, texts = [tokens[0], *tokens[2:]], [texts[0], *texts[2:]]
    rest = texts[1:]
    name = texts[0]
    if rest[:1] == ["_"]:
        end = 2 if rest[1:2] != ["{"] else (rest.index("}") + 1 if "}" in rest else len(rest))
        name += "_" + "".join(t for t in rest[1:end] if t not in "{}")
        rest = rest[end:]
    if not rest:
        return None if name in ("e", "i") else name
    if (
        rest[0] == "("
        and rest[-1] == ")"
        and all(
            t.kind == "letter" or t.text == "," for t in tokens[len(texts) - len(rest) + 1 : -1]
        )
    ):
        return "".join(texts)
    return None


_MARKS = ("\\angle", "\\triangle", "\\measuredangle", "\\odot", "\\det", "\\deg", "\\dim")
_OVER = (
    "\\overline",
    "\\overrightarrow",
    "\\overleftrightarrow",
    "\\widehat",
    "\\vec",
    "\\overset",
)
_OF_EVENTS = ("P", "Pr", "E", "Var", "\\Pr", "\\mathbb P", "\\mathbb E", "\\operatorname")
# `f(g(x))`, `f^{-1}(7)`, `det(A)`, `f(2)`; of one function the inner ones' letters are no factors.
_APPLIED = re.compile(
    r"[fgh]\^\{-1\}\(-?\d+\)|(?:[fgh]\()+[a-zA-Z\d]+\)\)+|(?:det|rank|tr|deg|dim|gcd|lcm)\([A-Z]+\)"
)
_OF_ANGLES = ("\\sin", "\\cos", "\\tan", "\\cot", "\\sec", "\\csc")
_DERIVATIVE = re.compile(r"\\frac \{ (?:d ?[a-zA-Z]|d \^ 2 ?[a-zA-Z]) \} \{ d ?[a-z](?: \^ 2)? \}")


def is_label(tokens: Sequence[Token]) -> bool:
    r"""Whether the left side of an equation only names a thing: `\angle A`, `\text{Area}`, `P(A|B)`."""
    texts = [str(token) for token in tokens]
    if not texts:
        return False
    if texts[0] in _OF_EVENTS and texts[1:2] in (["("], ["["]) and texts[-1] in (")", "]"):
        inside = texts[2:-1]
        if (
            len(inside) == 1
            and len(inside[0]) == 1
            and inside[0].islower()
            and texts[0] in ("P", "E")
        ):
            return False  # a function of a letter
        return not {"(", ")", "[", "]"} & set(inside)
    if _APPLIED.fullmatch("".join(texts)):
        return True
    if _DERIVATIVE.fullmatch(" ".join(texts)):
        return True
    if texts[0] in _OF_ANGLES and texts[1:2] == ["\\angle"]:
        texts, tokens = texts[1:], tokens[1:]
    if texts[:2] == ["m", "\\angle"]:
        texts, tokens = texts[1:], tokens[1:]
    marks = (*_MARKS, *_OVER)
    if texts[0] not in marks:
        return names_a_thing(tokens)
    plain = (*marks, "{", "}", "_", "'")
    return all(
        text in plain or token.kind == "letter" or (text.isupper() and len(text) < 5)
        for text, token in zip(texts, tokens, strict=True)
    )


def numeral(tokens: Sequence[Token]) -> Thing | None:
    """Digits with a base behind them: `10101_2`, `1A_{16}`, `52_{\\text{eight}}`, `(101)_2`."""
    texts = [str(token) for token in tokens]
    if "_" in texts:
        place = texts.index("_")
        if texts[0] == "\\overline":
            texts, tokens, place = texts[1:], tokens[1:], place - 1
        digits = [t for t in texts[:place] if t not in ("(", ")", "{", "}")]
        base = [t for t in texts[place + 1 :] if t not in ("{", "}", "(", ")", "base")]
    elif "base" in texts:
        place = texts.index("base")
        digits, base = texts[:place], texts[place + 1 :]
        if digits[-1:] == ["in"]:
            digits = digits[:-1]
    else:
        return None
    if (
        not digits
        or len(base) != 1
        or not all(
            t.kind in ("number", "letter", "word") or str(t) in "(){}" for t in tokens[:place]
        )
    ):
        return None
    written = "".join(digits).upper()
    number = int(base[0]) if base[0].isdigit() and len(base[0]) < 3 else _BASES.get(base[0].lower())
    if number is None or not 2 <= number <= 36 or (not digits[0][0].isdigit() and number <= 10):
        return None
    if not written.isalnum() or len(written) > 1000:
        return None
    return Thing("numeral", name=written, base=number)
