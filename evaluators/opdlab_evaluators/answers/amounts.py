"""The words, marks and amounts of a sentence; an amount is a number as it was written, or a formula."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from opdlab_evaluators.answers.units import unit
from opdlab_evaluators.answers.words import NUMBER_WORDS, SHARES

OPEN, CLOSE = "\ue010", "\ue011"
"""Around a formula of a sentence."""
SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9}
SCALES |= {"trillion": 10**12}

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+"
_PIECE = re.compile(
    rf"{OPEN}(?P<formula>[^{CLOSE}]*){CLOSE}"
    r"|(?P<time>\d{1,2}:\d{1,2}(?::\d\d)?(?![\d:]))"
    r"|(?P<word>\d+(?:st|nd|rd|th)(?![a-z])|\d+-(?=[a-z])[a-z-]+|i\.e\.?|e\.g\.?|a\.m\.?|p\.m\.?|vs\.)"
    r"|(?P<number>(?:(?<![\w)\d] )(?<![\w)])[-−])?"
    r"(?:(?P<money>(?:US|CA|AU)?\\?\$|[€£¥₹]|(?:Rs|USD|EUR)\.?(?=\s?\d))\s?)?"
    rf"(?:(?<![\w)])[-−])?(?:(?:\d+ )?\d+\s?/\s?\d+(?!\s?[\d/])|{_DIGITS})(?:\s?\\?%)?)"
    r"|(?P<letters>[^\W\d_]+(?:['’-][^\W\d_]+)*'?)"
    r"|(?P<mark>\S)",
    re.IGNORECASE,
)
# Directly behind digits they make a formula of them: `5x`, `2^10`, `3π`.
_GOES_ON = re.compile(r"[\w^!°²³_(]|\s?(?:°|\^|\\circ)")
_TEEN = 20


@dataclass(frozen=True)
class Amount:
    """A number, or a formula.

    Attributes:
        text: as it was written.
        worth: of a number; None of a formula.
        money: a sign of money stands before it.
        made_of: the numbers of a calculation of which it is the result.
    """

    text: str
    worth: Fraction | None = None
    money: bool = False
    made_of: tuple[Fraction, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A word, a mark, or an amount, of a sentence."""

    text: str
    amount: Amount | None = None
    glued: bool = False

    @property
    def word(self) -> str:
        return self.text.lower().replace("’", "'")


def pieces_of(sentence: str) -> list[Piece]:
    """The pieces of a sentence, in order; time linear in its length."""
    found: list[Piece] = []
    place = 0
    while (match := _PIECE.search(sentence, place)) is not None:
        glued = match.start() == place > 0
        piece = _piece(sentence, match)
        place = match.end()
        if piece.text:
            # Of an empty formula nothing is left.
            found.append(Piece(piece.text, piece.amount, glued))
    return _worded(found)


def _piece(sentence: str, match: re.Match[str]) -> Piece:
    text = match[0].strip()
    if match["formula"] is not None:
        inside = match["formula"].strip().rstrip(".,;").strip()
        plain = re.fullmatch(rf"\\?\$?\s?-?(?:{_DIGITS})(?:\s?\\?%)?", inside.replace("{,}", ","))
        worth = _worth(inside.replace("{,}", ",")) if plain else None
        return Piece(inside, Amount(inside, worth, "$" in inside))
    if match["time"]:
        return Piece(text, Amount(text))
    if match["number"]:
        if _GOES_ON.match(sentence, match.end()) and "%" not in text:
            return Piece(text, Amount(text))
        return Piece(text, Amount(text, _worth(text), bool(match["money"])))
    return Piece(text)


def _worth(text: str) -> Fraction | None:
    bare = re.sub(r"[\\$€£¥₹,]|Rs\.?|USD\.?|EUR\.?|US|CA|AU", "", text, flags=re.IGNORECASE)
    percent = bare.endswith("%")
    bare = bare.rstrip("%").replace("−", "-").strip()
    whole, _, share = bare.rpartition(" ") if "/" in bare else ("", "", bare.replace(" ", ""))
    whole = whole.strip().removesuffix("/").strip()
    try:
        found = Fraction(share.replace(" ", ""))
        if whole and "/" not in whole:
            found = abs(found) + int(whole) if int(whole) >= 0 else int(whole) - found
    except (ValueError, ZeroDivisionError):
        return None
    return found / 100 if percent else found


def _worded(pieces: list[Piece]) -> list[Piece]:
    """With `twenty-five` as an amount, and scales behind digits as part of them: `5 million`."""
    kept: list[Piece] = []
    place = 0
    while place < len(pieces):
        piece = pieces[place]
        if piece.amount and piece.amount.worth is not None and place + 1 < len(pieces):
            scale = SCALES.get(pieces[place + 1].word)
            if scale:
                text = f"{piece.text} {pieces[place + 1].text}"
                amount = Amount(text, piece.amount.worth * scale, piece.amount.money)
                piece, place = Piece(text, amount, piece.glued), place + 1
            kept.append(piece)
            place += 1
            continue
        size, worth = _number_in_words(pieces, place)
        if size:
            text = str(worth)
            kept.append(Piece(text, Amount(text, Fraction(worth)), piece.glued))
            place += size
            continue
        kept.append(piece)
        place += 1
    return kept


def _number_in_words(pieces: list[Piece], place: int) -> tuple[int, int | Fraction]:
    """How many pieces are a number in words, and which."""
    if pieces[place].amount or _small(pieces[place].word) is None:
        return 0, 0
    if pieces[place].word == "one" and place + 1 < len(pieces) and pieces[place + 1].word == "such":
        return 0, 0
    total, current, at = 0, 0, place
    while at < len(pieces) and not pieces[at].amount:
        word = pieces[at].word
        small, scale = _small(word), SCALES.get(word)
        joined = word == "and" and at + 1 < len(pieces) and current % 100 == 0 and current >= 100
        if small is not None and (
            current == 0 or current % 100 == 0 or (current % 10 == 0 and small < 10)
        ):
            if small == 0 and at > place:
                break
            current += small
        elif scale and current:
            if scale == SCALES["hundred"] or scale == SCALES["dozen"]:
                current *= scale
            else:
                total, current = total + current * scale, 0
        elif joined and _small(pieces[at + 1].word):
            pass
        else:
            break
        at += 1
    share = SHARES.get(pieces[at].word) if at < len(pieces) else None
    if share and total + current < _TEEN and not pieces[at].amount and at == place + 1:
        return at + 1 - place, Fraction(current, share)
    return at - place, total + current


def _small(word: str) -> int | None:
    if word in NUMBER_WORDS:
        return NUMBER_WORDS[word]
    tens, _, ones = word.partition("-")
    if tens in NUMBER_WORDS and ones in NUMBER_WORDS and NUMBER_WORDS[tens] >= _TEEN:
        return NUMBER_WORDS[tens] + NUMBER_WORDS[ones]
    return None


def agree(one: Amount, unit_of_one: str, other: Amount, unit_of_other: str) -> bool:
    """Whether two amounts with the words behind them are certainly the same: `90 minutes`, `1.5 hours`."""
    if one.worth is None or other.worth is None:
        return False
    a, b = unit(unit_of_one), unit(unit_of_other)
    if one.worth == other.worth:
        return a is None or b is None or a == b or not (a.dimension and b.dimension)
    if a is None or b is None or not a.dimension or a.dimension != b.dimension:
        return False
    return one.worth * a.scale == other.worth * b.scale


def unit_behind(pieces: Sequence[Piece], place: int) -> str:
    """The unit with a size that stands behind an amount: `miles`, `square feet`, `miles per hour`."""
    words = []
    for piece in pieces[place + 1 : place + 5]:
        if piece.amount is not None:
            break
        words.append(piece.text)
    if not words:
        return ""
    count = 1 if words[0].lower() not in ("square", "cubic", "sq", "cu") else 2
    found = unit(words[count - 1]) if len(words) >= count else None
    if found is None or not found.dimension:
        return ""
    if len(words) > count + 1 and words[count].lower() == "per":
        other = unit(words[count + 1])
        if other is not None and other.dimension:
            count += 2
    return " ".join(words[:count])
