"""The clauses of a sentence, and what each does: it states, gives a reason or sets a condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opdlab_evaluators.answers.amounts import Piece, agree
from opdlab_evaluators.answers.statement_words import (
    CHANGING,
    COMPARING,
    DENIED_IN_SUBJECT,
    GIVEN,
    GIVING,
    HARMLESS,
    IN_FRONT,
    LINKS,
    OPERATORS,
    PREPOSITIONS,
    RESULTS,
    SOMEONE,
    SUBORDINATE,
    UNSURE,
)
from opdlab_evaluators.answers.tokens import DENYING, names_of


@dataclass(frozen=True)
class Clause:
    """A part of a sentence between commas.

    Attributes:
        kind: `result`, `again`, `condition`, `reason`, `aside` or `main`.
    """

    kind: str
    pieces: tuple[Piece, ...]

    @property
    def words(self) -> list[str]:
        return words_of(self.pieces)

    @property
    def has_amount(self) -> bool:
        return any(piece.amount for piece in self.pieces)


def words_of(pieces: Sequence[Piece]) -> list[str]:
    """The words, in small letters; the month of May is no verb."""
    return [p.word for p in pieces if p.amount is None and p.text != "May"]


def without_remarks(pieces: list[Piece]) -> list[Piece] | None:
    """Without what stands in brackets; None where that may say another value."""
    kept: list[Piece] = []
    inside: list[Piece] | None = None
    for piece in pieces:
        if piece.text in ("(", "["):
            if inside is not None:
                return None
            inside = []
        elif piece.text in (")", "]"):
            if inside is None or not _is_remark(kept, inside):
                return None
            inside = None
        elif inside is not None:
            inside.append(piece)
        else:
            kept.append(piece)
    return None if inside is not None else kept


def _is_remark(before: Sequence[Piece], inside: Sequence[Piece]) -> bool:
    """Whether what stands in brackets says nothing else than what stands before them."""
    words = {piece.word for piece in inside}
    if not inside or words & (DENIED_IN_SUBJECT | {"or", "not", "either", "≈"}):
        return False
    if words & CHANGING and before and before[-1].amount:
        return False
    if inside[0].amount and len(inside) <= 2 and before and before[-1].amount:
        behind = inside[1].word if len(inside) == 2 else ""
        return agree(before[-1].amount, "", inside[0].amount, behind)
    if all(piece.amount or piece.text in ",-" for piece in inside):
        # A point or an interval; `(3)` behind a word may be its number.
        only = inside[0].amount
        if only is not None and only.made_of and len(inside) == 1:
            # `9 marbles left (15 - 6 = 9)`
            return any(piece.amount and piece.amount.worth == only.worth for piece in before)
        apart = len(inside) == 1 and bool(before) and before[-1].amount is None
        return apart and only is not None and only.money
    return True


def clauses_of(pieces: Sequence[Piece]) -> list[Clause]:
    """The parts between commas, colons and dashes, and before words that begin a clause of their own."""
    parts: list[list[Piece]] = [[]]
    for place, piece in enumerate(pieces):
        following = pieces[place + 1 : place + 4]
        if piece.amount is None and _parts(piece, parts[-1], following):
            parts.append([])
            if not piece.word[0].isalpha():
                continue
        parts[-1].append(piece)
    found = [_clause(part, number) for number, part in enumerate(p for p in parts if p)]
    for place in reversed(range(len(found) - 1)):
        if place and found[place].words in _AGAIN and not found[place].has_amount:
            # `that is, 2 dozen`
            found[place : place + 2] = [Clause("again", found[place + 1].pieces)]
    return found


_AGAIN = (["that", "is"], ["i.e."], ["i.e"], ["namely"], ["in", "other", "words"], ["equivalently"])


def _parts(piece: Piece, before: Sequence[Piece], following: Sequence[Piece]) -> bool:
    """Whether a clause ends before a piece."""
    between = bool(before and before[-1].amount and following and following[0].amount)
    if piece.text in (":", "→", "⇒") and following and following[0].amount:
        return False
    if piece.text == "," and between and len(following) > 2:
        # Of a list: `12, 15 and 20`.
        return following[1].text not in (",", "and", "or", "&")
    if piece.text == "!":
        return not (piece.glued and before and before[-1].amount)
    if piece.text == "-":
        long = bool(following) and len(following[0].text) > 1
        return not between and long and not piece.glued and not following[0].glued
    return piece.text in (*",;:—–→⇒", ".") or _opens(piece, before, [p.word for p in following])


def _opens(piece: Piece, before: Sequence[Piece], following: Sequence[str]) -> bool:
    """Whether a word begins a clause: `so`, `because`, `for a total of`."""
    if not before:
        return False
    if piece.word == "for":
        return following[:2] == ["a", "total"]
    if piece.word not in _OPENING or (piece.word == "so" and following[:1] in _NO_RESULT):
        return False
    last = before[-1].word
    if piece.word in RESULTS:
        # `it would therefore take`
        return last in _CONJUNCTIONS or (piece.word == "so" and last not in LINKS | PREPOSITIONS)
    return last not in LINKS | PREPOSITIONS | _CONJUNCTIONS


_NO_RESULT = (["far"], ["that"], ["on"], ["much"])
_CONJUNCTIONS = frozenset(("and", "but", "then", "or"))


_OPENING = (
    RESULTS
    | GIVING
    | frozenset(names_of("because since if when unless meaning i.e. whereas while namely"))
)


def _clause(pieces: list[Piece], number: int) -> Clause:
    kind = ""
    while pieces and pieces[0].amount is None:
        word = pieces[0].word
        if word in ("so", "thus") and pieces[1:] and pieces[1].word in ("far", "that"):
            break
        if word in RESULTS:
            kind = "result"
        elif word not in ("and", "then", "now", "well", "ok", "okay", "yes", "=", "#", ">"):
            break
        pieces = pieces[1:]
    if [piece.word for piece in pieces[:2]] in (["which", "means"], ["this", "means"]):
        kind, pieces = "result", pieces[3 if [p.word for p in pieces[2:3]] == ["that"] else 2 :]
    found = _kind(pieces, kind, number)
    if kind and number and found == "reason":
        # `she makes 18, so in two days she makes 36`
        found = kind
    return Clause(found, tuple(pieces))


def _kind(pieces: Sequence[Piece], begun: str, number: int) -> str:
    if not pieces:
        return "aside"
    first = pieces[0].word if pieces[0].amount is None else ""
    second = pieces[1].word if len(pieces) > 1 and pieces[1].amount is None else ""
    if first in ("if", "when", "unless", "whenever", "provided", "whether", "assuming", "suppose"):
        return "condition"
    words = [piece.word for piece in pieces if piece.amount is None]
    if first in GIVING or words[:3] == ["for", "a", "total"]:
        return "result"
    if first.endswith("ing") and "total" in words and any(piece.amount for piece in pieces):
        return "result"
    if first == "which":
        gives = second in ("gives", "means", "makes", "leaves", "equals", "yields")
        return (
            "result"
            if gives and any(piece.amount for piece in pieces)
            else "again"
            if second == "is"
            else "aside"
        )
    if first in ("i.e", "i.e.", "or", "namely", "equivalently") or (
        (first, second) == ("that", "is") and len(pieces) < 6
    ):
        return "again"
    if first == "meaning" and not number:
        return _kind(pieces[1:], begun, number)
    if first in ("meaning", "where", "who", "as", "whereas", "while"):
        return "aside"
    if first in SUBORDINATE or (
        len(first) > 5 and first.endswith("ing") and first not in ("nothing", "remaining")
    ):
        return "reason"
    return begun or "main"


def is_known(clause: Clause) -> bool:
    """Whether a condition is one of the question: `if he reads 50 pages each day`."""
    words = clause.words
    if set(words) & (UNSURE - ({"it"} if words[0] == "when" else set())) or any(
        piece.text in OPERATORS or piece.text == "=" for piece in clause.pieces
    ):
        return False
    if any(len(word) == 1 and word != "a" and word.isalpha() for word in words) or any(
        piece.amount is not None and piece.amount.worth is None for piece in clause.pieces
    ):
        return False
    if words[0] == "when":
        return not set(words) & (CHANGING | DENYING) - HARMLESS
    subject = clause.pieces[1:2]
    someone = any(piece.text.istitle() or piece.word in SOMEONE for piece in subject)
    return words[0] == "if" and someone


def sets_a_case(clause: Clause) -> bool:
    """Whether a clause in front says for which case the statement holds: `for n = 1`."""
    if clause.kind != "reason" or clause.pieces[0].word not in (
        "for",
        "with",
        "at",
        "in",
        "on",
        "under",
    ):
        return False
    return any(
        piece.text == "="
        or (piece.amount and piece.amount.worth is None)
        or (len(piece.text) == 1 and piece.text.isalpha() and piece.word != "a")
        for piece in clause.pieces
    )


def doubts(clause: Clause) -> bool:
    """Whether a clause in front may change what follows: `at least, ...`, `without tax, ...`."""
    if not clause.pieces or clause.kind in ("condition", "aside") or clause.pieces[0].word in GIVEN:
        return False
    return bool(set(clause.words) & (CHANGING | DENIED_IN_SUBJECT) - IN_FRONT)


def continues(clause: Clause) -> bool:
    """Whether a clause begins with the verb of a sentence whose subject stands before: `..., is 14`."""
    if not clause.pieces:
        return False
    first = clause.pieces[0]
    return (
        first.amount is None
        and first.word in (LINKS | {"will", "has", "have", "had", "would"})
        and first.word != "="
    )


def compares(pieces: Sequence[Piece]) -> bool:
    """Whether a word such as `below` has an amount behind it, or nothing, unlike `before the storm`."""
    for place, piece in enumerate(pieces):
        if piece.amount is None and piece.word in COMPARING:
            following = [
                each for each in pieces[place + 1 : place + 3] if each.word not in ("the", "a")
            ]
            if not following or following[0].amount is not None:
                return True
    return False
