"""The result of a right calculation as what a sentence states, where its grammar alone does not tell.

`If each carton costs $4 and she needs 4, it will cost her 4 * 4 = $16` works its value out itself. It must
be the last amount, and no word beside it may make another value of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from opdlab_evaluators.answers.amounts import Amount
from opdlab_evaluators.answers.statement_clauses import (
    Clause,
    compares,
    doubts,
    is_known,
    sets_a_case,
)
from opdlab_evaluators.answers.statement_places import is_known_there
from opdlab_evaluators.answers.statement_values import value_of
from opdlab_evaluators.answers.statement_words import (
    CHANGING,
    DENIED_IN_SUBJECT,
    DENYING_BEHIND,
    HARMLESS,
    ORDERS,
    UNSURE,
    WORKING,
)
from opdlab_evaluators.answers.tokens import DENYING

# `In 10 years he will be 99 + 10 = 109`
_WHEN = ("in", "on", "for", "at", "by", "over", "after", "then")
_BESIDE = (CHANGING | DENYING | DENIED_IN_SUBJECT | ORDERS | WORKING) - HARMLESS


def calculated(clauses: Sequence[Clause]) -> str | None:
    """The last amount of a sentence, where that is worked out in it; None where a word may change it."""
    holding = [n for n, clause in enumerate(clauses) if _result_of(clause) is not None]
    if len(holding) != 1:
        return None
    (at,) = holding
    clause = clauses[at]
    place = _result_of(clause)
    amount = None if place is None else clause.pieces[place].amount
    if place is None or amount is None or clause.kind in ("condition", "aside"):
        return None
    if clause.kind == "reason" and clause.pieces[0].word not in _WHEN:
        return None
    front = clause.pieces[:place]
    if {piece.word for piece in front if piece.amount is None} & _BESIDE or compares(front):
        return None
    if not all(_gives(each, amount, "would" in clause.words) for each in clauses[:at]):
        return None
    if not all(_is_aside(each) for each in clauses[at + 1 :]):
        return None
    if is_known_there(clause.pieces, place):
        return None
    return value_of(clause, place)


def _is_aside(clause: Clause) -> bool:
    """Whether a clause behind the result says nothing of it."""
    kind = clause.kind in ("reason", "aside")
    return kind and not clause.has_amount and not set(clause.words) & _BESIDE


def _result_of(clause: Clause) -> int | None:
    return next((n for n, p in enumerate(clause.pieces) if p.amount and p.amount.made_of), None)


def _gives(clause: Clause, result: Amount, would: bool) -> bool:
    """Whether a clause in front tells what the calculation starts from, and sets no case of its own."""
    if clause.kind != "condition":
        return not doubts(clause) and not sets_a_case(clause)
    if is_known(clause):
        return True
    given = {piece.amount.worth for piece in clause.pieces if piece.amount}
    words = set(clause.words) - {"if", "when"}
    if would and words & {"had", "were", "was", "would"}:
        return False
    open_cases = UNSURE - {"i", "it", "had", "were", "we", "you"}
    return bool(given & set(result.made_of)) and not words & (open_cases | DENYING)


_MULTIPLES = frozenset(("twice", "thrice", "double", "triple", "half"))


def multiplied(clauses: Sequence[Clause]) -> str | None:
    """The value of a multiple that is given behind it: `twice as many cats, or 18`."""
    if len(clauses) != 2 or clauses[0].has_amount or clauses[1].words[:1] != ["or"]:
        return None
    words, given = set(clauses[0].words), clauses[1].pieces[1:]
    if not words & _MULTIPLES or words & ((CHANGING | DENYING_BEHIND) - _MULTIPLES):
        return None
    plain = len(given) <= 2 and given and given[0].amount
    return value_of(Clause("again", given), 0) if plain else None
