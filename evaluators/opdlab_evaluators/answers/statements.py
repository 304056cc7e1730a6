"""The value that a sentence states, told by its grammar: `He paid $64 for 16 glasses` states $64.

A sentence may hold any nouns, names and verbs. What decides is a closed class: the words that link a
subject to its value, that begin a clause with a reason, or that put a number into a circumstance (`for 16
glasses`). A sentence with a word that could make another value, or with two values, is left unread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from opdlab_evaluators.answers.amounts import (
    CLOSE,
    OPEN,
    Amount,
    Piece,
    agree,
    pieces_of,
    unit_behind,
)
from opdlab_evaluators.answers.outline import vocabulary
from opdlab_evaluators.answers.statement_clauses import (
    Clause,
    clauses_of,
    continues,
    doubts,
    is_known,
    sets_a_case,
    without_remarks,
    words_of,
)
from opdlab_evaluators.answers.statement_links import strong
from opdlab_evaluators.answers.statement_places import (
    is_known_there,
    is_object,
    place_of,
)
from opdlab_evaluators.answers.statement_plain import plainer
from opdlab_evaluators.answers.statement_results import calculated, multiplied
from opdlab_evaluators.answers.statement_sums import worked_sums
from opdlab_evaluators.answers.statement_values import RARE_MONEY, is_plain_formula, value_of
from opdlab_evaluators.answers.statement_words import (
    CHANGING,
    DENIED_IN_SUBJECT,
    DENYING_BEHIND,
    ENGLISH,
)

LONGEST = 600
"""Characters of a sentence that is read by its grammar."""
# What only sets a text: emphasis, quotes, tags.
_SET = re.compile(
    r"(?<![\w)])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w(])|__|`|[“”«»„\"]"
    r"|</?(?:b|i|u|em|strong|mark|span|answer|final_answer|font)\b[^<>]{0,60}>"
)
# A formula that stands in no dollar signs.
_COMMAND = re.compile(r"\\[a-zA-Z({\[]")
# The value of a multiple, and not what it is a multiple of: `2x = 3 * 5 = 15`. Of a unit, as in
# `5m = 5 * 100 = 500`, the same number follows.
_MULTIPLE = re.compile(
    r"(?<![\w.])(?:\d+[a-cnpqx-z]|(?P<count>\d+)[d-jlmorstuvw](?! ?= ?(?P=count)(?!\d))) ?(?:[-+] ?\d+ ?)?="
    r"[^=,;a-z]{1,80}=[^=,;a-z]{1,40}(?:(?<= )[a-z]+(?: [a-z]+)?)?\.?$"
)
_NOTHING_LEFT = re.compile(
    r"(?:(?:so|thus|hence|therefore|finally),? )?(?:there (?:are|is|will be|were)|\w+ (?:has|have|had)) no"
    r" (?:\w+ ){1,3}(?:left|remaining)(?: over)?[.!]?",
    re.IGNORECASE,
)


def stated(sentence: str, named: bool = False) -> str | None:
    """The one value that a sentence states, as written, with its unit; None where that is not certain.

    Args:
        sentence: with OPEN and CLOSE around its formulas.
        named: it is what stands behind `the answer is`.
    """
    if len(sentence) > LONGEST or sentence.rstrip().endswith("?"):
        return None
    sentence = plainer(_SET.sub(" ", sentence))
    if _NOTHING_LEFT.fullmatch(sentence.strip()):
        return "0"
    prose = re.sub(f"{OPEN}[^{CLOSE}]*{CLOSE}", "", sentence)
    if _COMMAND.search(prose) or _MULTIPLE.search(prose):
        return None
    pieces = without_remarks(worked_sums(pieces_of(sentence)))
    if pieces is None or not any(piece.amount for piece in pieces):
        return None
    if any(piece.word == "nothing" for piece in pieces[:-1]) and "left" not in words_of(pieces):
        return None
    only = pieces[0].text if len(pieces) == 1 else ""
    if not any(piece.amount is None and piece.word[0].isalpha() for piece in pieces):
        return RARE_MONEY.sub("", only) if RARE_MONEY.match(only) else None
    is_worked = any(piece.amount and piece.amount.made_of for piece in pieces)
    if not named and not _is_english(sentence, [*words_of(pieces), *(["="] * is_worked)]):
        return None
    clauses = clauses_of([Piece("is"), *pieces] if named else pieces)
    found = _stating(clauses)
    if found is None:
        return (
            multiplied(clauses)
            or calculated(clauses)
            or (
                None
                if any(set(c.words) & DENIED_IN_SUBJECT for c in clauses)
                else _worked_out(clauses[1:])
            )
        )
    clause, place = found
    value = value_of(clause, place)
    after = clauses[clauses.index(clause) + 1 :]
    if value is None:
        return _worked_out(after) or calculated(clauses)
    return value if _is_undisputed(clause, place, after) else None


def _worked_out(after: Sequence[Clause]) -> str | None:
    """The value of an expression that is given behind it: `half of 10, which is 5`."""
    last = after[-1] if len(after) == 1 else None
    if last is None or last.kind != "again" or set(last.words) & (CHANGING | DENYING_BEHIND):
        return None
    place = strong(last.pieces)
    if place is None and last.pieces[0].amount and last.words[:1] != ["which"]:
        place = 0
    return None if place is None else value_of(last, place)


def _is_english(sentence: str, words: Sequence[str]) -> bool:
    """Whether the words that could deny or change a value are those known here."""
    bare = re.sub(f"{OPEN}[^{CLOSE}]*{CLOSE}", "0", sentence)
    if any(character.isalpha() and not character.isascii() for character in bare):
        return False
    labelled = re.fullmatch(r"[A-Za-z ]{2,60}[:→=]\s{0,3}\S{1,30}(?: [a-z]+)?\.?", bare.strip())
    named = len(words) == 3 and sentence[:1].isupper() and len(sentence.split()) == 4
    shortened = any(word.endswith(("'d", "'ll", "'re", "'ve")) for word in words)
    return (
        bool(labelled)
        or shortened
        or named
        or not set(words).isdisjoint(ENGLISH)
        or set(words) <= vocabulary()
    )


def _stating(clauses: Sequence[Clause]) -> tuple[Clause, int] | None:
    """The clause that states the value, and where that stands in it."""
    for clause in clauses:
        if clause.kind == "condition" and not is_known(clause):
            return None
    results = [clause for clause in clauses if clause.kind == "result" and clause.has_amount]
    told = [clause for clause in clauses if clause.kind == "main" and clause.has_amount]
    mains = [clause for clause in told if _has_news(clause)] or told
    last = max(
        (n for n, c in enumerate(clauses) if c.kind in ("main", "result") and c.has_amount),
        default=0,
    )
    if continues(clauses[last]):
        clause = clauses[last]
    elif results and not (len(results) == len(mains) == 1 and _is_relation(results[0])):
        clause = results[-1]
    elif len(mains) == 1 or (mains and clauses[0].kind == "reason" and "total" in mains[-1].words):
        clause = mains[-1]
    elif (
        not mains
        and clauses[-1].kind == "reason"
        and not any(c.has_amount and c.kind in ("again", "aside", "condition") for c in clauses)
    ):
        clause = clauses[-1]
    elif len(mains) > 1 and strong(mains[0].pieces) is not None:
        # What follows adds to it, or takes it back: `_is_undisputed` looks.
        clause = mains[0]
    else:
        return None
    before = clauses[: list(clauses).index(clause)]
    if any(sets_a_case(each) for each in before):
        return None
    # `Half of 84 is 42, so 42 kids play chess`: what a result follows from is done with.
    done = clause.kind == "result" and clause is clauses[-1]
    if any(doubts(each) for each in before if not (done and each.has_amount)):
        return None
    place = place_of(clause)
    return None if place is None else (clause, place)


# What begins so compares: `320 books, up from 280`.
_FROM = frozenset(("up", "down", "compared", "not"))


def _has_news(clause: Clause) -> bool:
    """Whether an amount stands in no circumstance."""
    pieces = clause.pieces
    if pieces[0].word in _FROM:
        return False
    news = any(piece.amount and not is_known_there(pieces, n) for n, piece in enumerate(pieces))
    return news or "total" in clause.words


def _is_relation(clause: Clause) -> bool:
    """Whether a clause is a formula that relates more than a name to its value."""
    only = clause.pieces[0].amount if len(clause.pieces) == 1 else None
    return only is not None and not is_plain_formula(only.text)


def _is_undisputed(clause: Clause, place: int, after: Sequence[Clause]) -> bool:
    """Whether the clauses behind the value say it again, or nothing about it."""
    amount = clause.pieces[place].amount
    for each in after:
        again = each.pieces[0].amount if len(each.pieces) == 1 else None
        if amount and again and again.worth is not None and again.worth == amount.worth:
            continue
        if amount and each.kind == "again" and _rounds(each, amount):
            continue
        if _is_contrary(each):
            return False
        if each.kind == "condition" or (each.kind == "main" and _rules_out(each, amount)):
            continue
        if set(each.words) & (DENIED_IN_SUBJECT | {"times", "minus", "plus"}) - {"or"}:
            return False
        if _denies(each) or (each.kind in ("main", "result") and _adds(each)):
            return False
        if each.kind == "again" and each.has_amount and not _says_again(clause, place, each):
            return False
        if each.kind in ("reason", "aside") and _works_on(each, amount):
            return False
    return True


_CONTRARY = frozenset(("had", "were", "not", "no", "never", "didn't", "wasn't", "weren't"))


def _denies(clause: Clause) -> bool:
    return clause.kind in ("again", "aside") and bool(set(clause.words) & DENYING_BEHIND)


def _is_contrary(clause: Clause) -> bool:
    """Whether a condition is against what is so: `she would have 12 if she had not eaten any`."""
    return clause.kind == "condition" and bool(set(clause.words) & _CONTRARY)


def _adds(clause: Clause) -> bool:
    """Whether a clause behind the value states something of its own."""
    if clause.kind == "result" and not clause.has_amount:
        return True
    if set(clause.words) & {"not", "no", "or", "wrong", "but", "too", "except"}:
        return True
    pieces = clause.pieces
    if any(piece.amount and "=" in piece.text for piece in pieces):
        return True
    return any(piece.amount and not is_known_there(pieces, n) for n, piece in enumerate(pieces))


def _works_on(clause: Clause, amount: Amount | None) -> bool:
    """Whether a reason behind the value sets a case, or makes another value: `costing $90`, `for n = 1`."""
    pieces = clause.pieces
    if sets_a_case(clause):
        return True
    if pieces and clause.kind == "reason" and pieces[0].word.endswith("ing"):
        made = any(piece.amount and piece.amount.made_of for piece in pieces)
        return made or any(piece.amount and is_object(pieces, n) for n, piece in enumerate(pieces))
    formulas = any(piece.amount and piece.amount.worth is None for piece in pieces)
    return formulas and amount is not None and amount.worth is None


def _rules_out(clause: Clause, amount: Amount | None) -> bool:
    """`not 20`, behind a value."""
    pieces = clause.pieces
    return (
        pieces[0].word == "not"
        and len(pieces) <= 3
        and pieces[1:2] != ()
        and pieces[1].amount not in (None, amount)
    )


def _rounds(again: Clause, one: Amount) -> bool:
    """Whether a clause gives the value in decimals: `5/6, or about 0.83`."""
    rounding = {"about", "approximately", "roughly"} & set(again.words)
    other = again.pieces[-1].amount
    if not rounding or other is None or len(again.pieces) > 4:
        return False
    _, _, decimals = other.text.rstrip("%\\ ").partition(".")
    if one.worth is None or other.worth is None or not decimals.isdigit():
        return False
    return abs(one.worth - other.worth) * 2 * 10 ** len(decimals) <= 1


def _says_again(clause: Clause, place: int, again: Clause) -> bool:
    """Whether a clause gives the same value, as `or 1.5 hours` does, or none: `which is 5 more`."""
    amounts = [n for n, piece in enumerate(again.pieces) if piece.amount]
    if again.words[:1] == ["which"]:
        return bool(set(again.words) & (CHANGING | {"more"})) or strong(again.pieces) is None
    one, other = clause.pieces[place].amount, again.pieces[amounts[0]].amount
    if len(amounts) != 1 or one is None or other is None:
        return False
    if (set(again.words) - {"or"}) & CHANGING:
        return False
    behind = unit_behind(again.pieces, amounts[0])
    mine = unit_behind(clause.pieces, place)
    return agree(one, "dollar" if one.money else mine, other, "dollar" if other.money else behind)
