"""Where in a clause its value stands: behind a link, as the object of a verb, or as what is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from opdlab_evaluators.answers.amounts import Piece, unit_behind
from opdlab_evaluators.answers.sentences import SAYING
from opdlab_evaluators.answers.statement_clauses import Clause, compares, words_of
from opdlab_evaluators.answers.statement_links import linked, strong
from opdlab_evaluators.answers.statement_sums import is_bound
from opdlab_evaluators.answers.statement_words import (
    ARTICLES,
    BRINGING,
    CHANGES,
    CHANGING,
    COMPARING,
    COUNTED_THINGS,
    DENIED_IN_SUBJECT,
    GIVING,
    HARMLESS,
    KNOWN,
    LEAVING,
    LEFT,
    LINKS,
    MOVED,
    OPERATORS,
    ORDERS,
    PARTED,
    PARTS,
    PREPOSITIONS,
    REACHED,
    REACHING,
    TOTALS,
    WORKING,
)
from opdlab_evaluators.answers.tokens import DENYING
from opdlab_evaluators.answers.units import unit
from opdlab_evaluators.answers.words import SHARES

_OF_ANSWER = re.compile(
    r"\b(?:square|cube|root|third|quarter|negative|complement|multiple|factor|digits?|double|power)s? of"
    r" (?:the|this|that|our|my|its|their) (?:final )?(?:answer|number|value|result|solution|total|sum)\b"
    r"|\b(?:should|would|could|might|must) have been\b|\b(?:thought|might think|would think)\b"
    r"|\b(?:answer|result|solution) (?:squared|cubed|plus|minus|times|doubled|tripled|halved|divided"
    r"|multiplied|increased|decreased|modulo|mod)\b"
    r"|\bnot (?:true|sure|certain|clear|possible|correct|know)\b|\bno (?:idea|way)\b"
)


def place_of(clause: Clause) -> int | None:
    """Where the value of a clause stands; None without one, or with two of equal rank."""
    place = strong(clause.pieces)
    if place is not None:
        return place if _is_sound(clause.pieces, place) else None
    words = words_of(clause.pieces)
    if set(words) & (CHANGING | DENYING) - {"more"} - HARMLESS - COMPARING or compares(
        clause.pieces
    ):
        return None
    if (WORKING & set(words) and "up" not in words) or (words and words[0] in ORDERS):
        return None
    return _object_of(clause)


def _is_sound(pieces: Sequence[Piece], place: int) -> bool:
    """Whether the words before a link name what has the value, and state no other one."""
    subject = [piece.word for piece in pieces[:place]]
    words = set(words_of(pieces[:place]))
    if _turns(pieces[:place]) or words & DENIED_IN_SUBJECT or _OF_ANSWER.search(" ".join(subject)):
        return False
    if is_bound(pieces, place):
        return False
    if ":" in subject and (words & (CHANGING | DENYING) or subject[0] in COUNTED_THINGS):
        return False
    if pieces[0].amount and subject[1:3] == ["of", "the"]:
        return False
    for n in range(place):
        if pieces[n].amount is None:
            continue
        between = subject[n:]
        governed = PREPOSITIONS & {piece.word for piece in pieces[max(n - 4, 0) : n]}
        if n and "and" in between and is_object(pieces, n) and not governed:
            return False
        chained = all(piece.amount or not piece.word[0].isalpha() for piece in pieces[n:place])
        if {"and", "but"} & set(between) and linked(pieces, n) and not chained:
            return False
    return True


def _object_of(clause: Clause) -> int | None:
    """The only object of a clause without a link before a value."""
    pieces = clause.pieces
    objects = [n for n, piece in enumerate(pieces) if piece.amount and is_object(pieces, n)]
    # `12 hours to clean 36 rooms`
    objects = [n for n in objects if n == objects[0] or not _is_aim(pieces, n)]
    if len(objects) == 2 and objects[0] == 0:
        # `5 dozen cost $15`
        objects = objects[1:]
    if not objects:
        amounts = [n for n, piece in enumerate(pieces) if piece.amount]
        objects = [n for n in amounts if len(amounts) == 1 and _is_amount_of(pieces, n)]
    if len(objects) != 1:
        return None
    (place,) = objects
    if place == 0 and sum(1 for piece in pieces if piece.amount) > 1:
        # `500 units bring in $1,500`
        return None
    formula = pieces[0].amount is not None and pieces[0].amount.worth is None
    money = pieces[0].amount is not None and pieces[0].amount.money
    alone = len(pieces) == 1 and (clause.kind == "result" or formula or money)
    return place if place or alone or _is_subject(pieces) else None


def _is_aim(pieces: Sequence[Piece], place: int) -> bool:
    return pieces[place - 2].word == "to" and pieces[place - 1].word not in ("get", "have")


def _turns(subject: Sequence[Piece]) -> bool:
    """Whether a subject is made of the answer: `the reciprocal is`; that of a number may be asked for."""
    for place, piece in enumerate(subject):
        if piece.word in ("reciprocal", "inverse", "opposite", "negation", "complement"):
            following = subject[place + 1 : place + 3]
            if len(following) < 2 or following[0].word != "of" or following[1].amount is None:
                return True
    return False


def is_object(pieces: Sequence[Piece], place: int) -> bool:
    """Whether an amount is the object of a verb, or a subject, and in no circumstance or name."""
    at = place - 1
    while at >= 0 and pieces[at].amount is None and pieces[at].word in ARTICLES:
        at -= 1
    if at < 0:
        return not (place and pieces[0].word in KNOWN)
    before = pieces[at]
    if at == 1 and place == 2 and pieces[0].word in ARTICLES and before.word != "remaining":
        # `the factor 6`
        return False
    if before.amount is not None or before.text in OPERATORS:
        return False
    if pieces[place - 1].word == "remaining" and place < 3:
        return True
    progressive = at and pieces[at - 1].word in (
        "up",
        "a",
        "an",
        "is",
        "are",
        "be",
        "been",
        "was",
        "were",
    )
    totals = at == 0 and "total" in words_of(pieces)
    if before.word.endswith("ing") and before.word not in GIVING and not (progressive or totals):
        return False
    bare = place + 1 == len(pieces) or not pieces[place + 1].word[0].isalpha()
    amount = pieces[place].amount
    if (
        bare
        and amount
        and amount.worth is not None
        and not amount.money
        and before.word not in SAYING | REACHING
    ):
        holder = pieces[at - 1].word if at else ""
        if (
            holder not in ("has", "have", "had")
            or before.word in COUNTED_THINGS | CHANGING
            or at + 1 < place
        ):
            return False
    known = any(piece.word in KNOWN for piece in pieces[at + 1 : place])
    if before.word in ("and", "&") or (
        before.word.endswith(("'s", "s'")) and before.word not in LINKS
    ):
        return False
    return before.word not in PREPOSITIONS | COUNTED_THINGS and not known


def is_known_there(pieces: Sequence[Piece], place: int) -> bool:
    """Whether an amount stands in a circumstance, or is known from the question: `the 60 seats`."""
    at = place - 1
    while at >= 0 and pieces[at].amount is None and pieces[at].word in ARTICLES:
        at -= 1
    known = any(piece.word in KNOWN for piece in pieces[at + 1 : place])
    return known or (at >= 0 and pieces[at].amount is None and pieces[at].word in PREPOSITIONS)


_BEFORE = {
    "with": {"left", "up", "ends", "ended", "end", "finishes", "finished", "away"},
    "by": CHANGES | {"up", "down"},
}


def _is_amount_of(pieces: Sequence[Piece], place: int) -> bool:
    """Whether the only amount is what a clause says: `at a rate of 12 knots`, `after 95 minutes`."""
    words = [
        piece.word
        for piece in pieces[:place]
        if piece.word not in ("exactly", "only", "just", "a", "the", "another")
    ]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    behind, amount = unit_behind(pieces, place), pieces[place].amount
    if last == "of":
        told = (amount is not None and amount.money) or bool(behind)
        return before in TOTALS or (told and before not in CHANGING | DENYING | set(SHARES) | PARTS)
    if last == "with" and LEAVING & set(words):
        return True
    if last == "for" and amount is not None and amount.money:
        return True
    if last == "for" and (before in ("room", "space") or "enough" in words):
        return True
    if last == "into":
        return bool(PARTED & set(words))
    if last in _BEFORE:
        return before in _BEFORE[last]
    if last == "to":
        adds = before == "up" and bool({"add", "adds", "added"} & set(words))
        return adds or before in REACHED | MOVED or bool(BRINGING & set(words))
    if last in ("in", "for", "after"):
        counted = unit(behind.split(" ")[0]) if behind else None
        sizes = [(("time", 1),), (("length", 1),)] if last == "for" else [(("time", 1),)]
        return counted is not None and counted.dimension in sizes and before not in LINKS
    return False


def _is_subject(pieces: Sequence[Piece]) -> bool:
    """Whether a clause is about its first amount: `27 students chose the bus`, `$45 is left`."""
    if len(pieces) == 1:
        return False
    links = [n for n, piece in enumerate(pieces) if piece.amount is None and piece.word in LINKS]
    if not links:
        return pieces[1].amount is None and pieces[1].word[0].isalpha()
    behind = [piece.word for piece in pieces[links[0] + 1 :]]
    several = pieces[links[0]].word in ("are", "were", "be") and not (
        set(behind) & (CHANGING | DENYING) or {"the", "to"} & set(behind[:1])
    )
    if several and behind and links[0] < 4 and all(word.isalpha() for word in behind):
        return True
    return bool(behind) and behind[0] in LEFT | {"still"}
