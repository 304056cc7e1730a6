"""The value at a place of a clause, where what stands beside it leaves it what it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opdlab_evaluators.answers.amounts import Amount, Piece, unit_behind
from opdlab_evaluators.answers.statement_clauses import Clause, compares, words_of
from opdlab_evaluators.answers.statement_words import (
    ARTICLES,
    CHANGING,
    COMPARING,
    OPERATORS,
    PREPOSITIONS,
)
from opdlab_evaluators.answers.tokens import DENYING
from opdlab_evaluators.answers.units import unit
from opdlab_evaluators.answers.words import SHARES

# Signs of money that no unit stands for.
RARE_MONEY = re.compile(r"^(?:[¥₹]|Rs\.?|EUR|CA(?=\$)|AU(?=\$))\s?")


def _right_side(text: str) -> str:
    r"""The value of a function, or of a size: `4` of `\gcd(n, 12) = 4`; other formulas are kept."""
    left, _, right = text.rpartition("=")
    return right.strip() if right.strip() and _APPLIED.fullmatch(left.strip()) else text


_APPLIED = re.compile(
    r"(?:\\(?:gcd|max|min|deg|dim|det|(?:operatorname|text|mathrm)\{[a-z]+\})\s?(?:\\left)?\(.*\)|\|.*\||\([a-z]\s?\\circ\s?[a-z]\)\s?\(.*\))\s?(?:=.*)?",
    re.DOTALL,
)


def is_plain_formula(text: str) -> bool:
    """Whether a formula is one value; relations and lists are read as a whole elsewhere."""
    return not re.search(
        r"[<>,;:≤≥≈±]|\\(?:le|ge|leq|geq|ne|neq|in|approx|pm|text|cup|to|equiv|mid|mod|pmod|Rightarrow|implies)(?![a-zA-Z])",
        text,
    )


def value_of(clause: Clause, place: int) -> str | None:
    """The amount as it was written, with its unit; None where what stands beside it may change it."""
    pieces = clause.pieces
    piece = pieces[place]
    if piece.amount is None:
        return None
    text = _right_side(RARE_MONEY.sub("", piece.amount.text))
    if piece.amount.worth is None and (not is_plain_formula(text) or _has_neighbour(pieces, place)):
        return None
    if _has_neighbour(pieces, place):
        return None
    tail = pieces[place + 1 :]
    if not _keeps(tail, piece.amount):
        return None
    behind = unit_behind(pieces, place)
    # `min` is a function elsewhere.
    behind = "minutes" if behind == "min" else behind
    return f"{text} {behind}" if behind and not piece.amount.money else text


def _has_neighbour(pieces: Sequence[Piece], place: int) -> bool:
    """Whether an amount is a part of a longer expression: `3x - 4`, `6 + k`."""
    for n in (place - 1, place + 1):
        if not 0 <= n < len(pieces):
            continue
        near = pieces[n]
        if near.amount is not None:
            return True
        if near.text in OPERATORS or (near.text in ("=", ":") and n > place):
            return True
        single = len(near.text) == 1 and near.text.isalpha() and near.word not in ("a", "i")
        if single and (n > place or near.glued) and unit(near.text) is None:
            return True
        if (
            n > place
            and near.glued
            and near.word[0].isalpha()
            and near.text
            not in (
                "cm",
                "km",
                "kg",
                "m",
                "g",
                "ml",
                "mL",
                "L",
                "h",
                "s",
                "mph",
                "ft",
                "lbs",
                "lb",
                "oz",
                "min",
            )
        ):
            return True
    return False


# Words of what is counted, behind its number: `5 prime factors`, `20 more cups`, `for the next year`.
_COUNTED = frozenset(
    (
        *(
            "factor",
            "factors",
            "divisor",
            "divisors",
            "multiples",
            "digit",
            "digits",
            "pair",
            "pairs",
        ),
        *("more", "another", "other", "next", "square", "past", "year", "should"),
    )
)


_ANOTHER_CLAUSE = re.compile(r"\band (?:he|she|they|it|we(?! are done)|you|i)\b")


_INSTEAD = (["rather", "than"], ["instead", "of"])


def _keeps(tail: Sequence[Piece], value: Amount) -> bool:
    """Whether words behind a value leave it what it is."""
    words = words_of(tail)
    if words[:2] in _INSTEAD or words[1:3] in _INSTEAD:
        # `9 rather than 10`
        plain = words[:2] in _INSTEAD or words[0] not in CHANGING
        return plain and sum(1 for piece in tail if piece.amount) == 1 and len(tail) < 6
    if words[:1] == ["≈"]:
        return True
    if set(words) & (CHANGING | DENYING | {"had"}) - _COUNTED - COMPARING or compares(tail):
        return False
    if any(piece.amount for piece in tail) and {"each", "apiece"} & set(words[1:]):
        # `7 for 3 dollars each`
        return False
    if words[:2] == ["to", "be"] or _ANOTHER_CLAUSE.search(" ".join(words)):
        return False
    if (words and words[0] in SHARES) or any(
        len(w) == 1 and w.isalpha() and w != "a" for w in words
    ):
        return False
    if words[:1] and words[0] in ("pair", "pairs", "times"):
        return False
    if (
        "past" in words[:2]
        or ("out" in words[:2] and (words[1:4] != ["out", "of", "the"] or _has_amount(tail)))
        or re.search(r"\b(?:for|to) every\b", " ".join(words))
    ):
        return False
    return _compares_nothing(tail, words) and all(
        _is_circumstance(tail, n, value) for n, piece in enumerate(tail) if piece.amount
    )


def _has_amount(tail: Sequence[Piece]) -> bool:
    return any(piece.amount for piece in tail)


def _compares_nothing(tail: Sequence[Piece], words: Sequence[str]) -> bool:
    """Whether no other value is told by this one; `11 more points than Ben` says how many more."""
    if "more" in words and words[0] != "more":
        return False
    if "than" not in words:
        return True
    counted = len(words) > 3 and words[0] == "more" and words[1] != "than"
    named = tail[-1].word.isalpha() and len(tail[-1].text) > 1
    return counted and named and not any(piece.amount for piece in tail)


def _is_purpose(tail: Sequence[Piece], place: int) -> bool:
    """`15 hours to clean 45 rooms`: what is done in that time, with that amount."""
    front = [piece.word for piece in tail[:place]]
    named = tail[place + 1 : place + 2]
    if front.count("to") != 1 or not named or not named[0].word.isalpha():
        return False
    done = front[front.index("to") + 1 :]
    if not done or {"and", "than"} & set(front) or done[0] in (*ARTICLES, "get", "have"):
        return False
    if done[0] == "be" and "for" not in front:
        return False
    return len(done) <= 3 and all(word.isalpha() for word in done)


def _is_second(tail: Sequence[Piece], place: int, value: Amount) -> bool:
    """The second amount of `$12 for 5 apples and 6 pears`, at the end."""
    front = [piece.word for piece in tail[:place]]
    counts = [n for n, piece in enumerate(tail) if piece.amount]
    if not value.money or len(counts) != 2 or counts[1] != place or front[:1] != ["for"]:
        return False
    if any(amount.money for piece in tail if (amount := piece.amount)) or counts[0] != 1:
        return False
    words = [piece.word for piece in tail[2:place]]
    following = [piece.word for piece in tail[place + 1 :]]
    return words[-1:] == ["and"] and bool(following) and following[0] not in PREPOSITIONS


def _is_circumstance(tail: Sequence[Piece], place: int, value: Amount) -> bool:
    """Whether an amount behind the value tells when, where or for whom: `34 dollars for 2 children`."""
    front = [piece.word for piece in tail[:place]]
    if _is_purpose(tail, place) or _is_second(tail, place, value):
        return True
    if front[1:] == ["per"] and tail[place].amount and tail[place].text in ("100", "1000", "1,000"):
        # `5 liters per 100 km`
        return bool(unit_behind(tail, place)) and unit(front[0]) is not None
    known = front[-1:] in (["all"], ["the"], ["both"]) and front[-2:-1] != ["to"]
    if known and not {"of", "each", "every", "per"} & set(front):
        return True
    if set(front) & {"each", "every", "per", "plus", "and"} and not {"each", "every"} & set(
        front[-1:]
    ):
        return False
    at = len(front) - 1
    while at >= 0 and front[at] in ARTICLES:
        at -= 1
    if at < 0 or front[at] not in (
        "for",
        "in",
        "on",
        "at",
        "after",
        "from",
        "during",
        "by",
        "with",
        "over",
        "when",
    ):
        return False
    # `1 in 5` is a share; `$120 in 2 days` and `$25 on 5 books` are not.
    told = value.money and front[0] in ("in", "on")
    if at == 0 and not told and front[0] in ("in", "on", "at", "by", "over", "from", "with"):
        return False
    amount = tail[place].amount
    named = tail[place + 1 : place + 2]
    return bool(
        amount
        and (
            amount.money
            or "%" in amount.text
            or (named and named[0].amount is None and named[0].word.isalpha())
        )
    )
