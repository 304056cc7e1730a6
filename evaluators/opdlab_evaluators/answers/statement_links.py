"""Words that link a subject to its value: `is exactly 5`, `comes to 5`, `was a gain of 5`."""

from __future__ import annotations

from collections.abc import Sequence

from opdlab_evaluators.answers.amounts import Piece, unit_behind
from opdlab_evaluators.answers.statement_words import FILLERS, LINKS, OPERATORS, TOTALS


def strong(pieces: Sequence[Piece]) -> int | None:
    """The last amount that a link stands directly before."""
    return next(
        (n for n in reversed(range(len(pieces))) if pieces[n].amount and linked(pieces, n)), None
    )


def linked(pieces: Sequence[Piece], place: int) -> bool:
    """Whether a link stands before an amount: `is exactly`, `comes to`, `was a gain of`, `9 + 6 =`."""
    amount = pieces[place].amount
    if amount and amount.made_of:
        return True
    at = place - 1
    while (
        at >= 0
        and pieces[at].amount is None
        and (
            pieces[at].word in FILLERS
            or (pieces[at].word in TOTALS and pieces[at + 1].word in TOTALS | {"of"})
        )
    ):
        at -= 1
    if at < 0 or pieces[at].amount is not None:
        return False
    if pieces[at].word == ":" and at and pieces[at - 1].amount is not None:
        return False
    if (pieces[at].word == "=" and _is_term(pieces[:at])) or _is_aim(pieces, at):
        return False
    word, between = pieces[at].word, [piece.word for piece in pieces[at + 1 : place]]
    if word in ("comes", "come", "came") and "to" not in between:
        return False
    before_of = between[between.index("of") - 1 : between.index("of")] if "of" in between else []
    if "of" in between and not set(before_of) & TOTALS:
        return False
    if "of" in between and word in ("has", "have", "had"):
        return True
    if "to" in between and word not in ("comes", "come", "came"):
        return between[between.index("to") - 1 : between.index("to")] == ["equal"] and word in LINKS
    return word in LINKS


def _is_aim(pieces: Sequence[Piece], place: int) -> bool:
    """`12 days for its height to be 600 inches`: what an amount before it is for."""
    before = [piece.word for piece in pieces[max(place - 1, 0) : place + 1]] == ["to", "be"]
    return before and any(p.amount and unit_behind(pieces, n) for n, p in enumerate(pieces[:place]))


def _is_term(front: Sequence[Piece]) -> bool:
    """Whether an unknown with a factor, or a sum with it, stands before an equals sign: `2x = 10`."""
    if not front:
        return False
    last, before = front[-1], front[-2] if len(front) > 1 else None
    if last.amount is not None:
        return (
            last.amount.worth is None
            and any(c.isalpha() for c in last.text)
            and "=" not in last.text
        )
    single = len(last.text) == 1 and last.text.isalpha()
    return single and before is not None and (before.amount is not None or before.text in OPERATORS)
