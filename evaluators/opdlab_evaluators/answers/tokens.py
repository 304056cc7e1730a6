"""The tokens of an answer: numbers, letters, commands, symbols, and words that stand upright."""

from __future__ import annotations

import re
from dataclasses import dataclass

from opdlab_evaluators.answers.layout import APART

LONGEST = 4000
"""Characters of an answer that are read."""


class Unread(Exception):
    """Something in a text is not understood; the message says what."""


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        kind: `number`, `letter`, `command`, `symbol` or `word`.
        text: without the backslash of a command.
        spaced: a blank stands before it.
        upright: a letter set upright or bold.
    """

    kind: str
    text: str
    spaced: bool = False
    upright: bool = False

    def __str__(self) -> str:
        return f"\\{self.text}" if self.kind == "command" else self.text


def names_of(text: str) -> tuple[str, ...]:
    """Names with blanks between them."""
    return tuple(text.split())


FUNCTIONS = names_of(
    "arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sin cos tan cot sec csc ln log"
    " lg exp gcd lcm max min Re Im floor ceil sqrt sgn abs cis"
)
# Words of denial and doubt.
DENYING = frozenset(
    names_of(
        " not no non none never neither nor cannot isn't aren't doesn't don't won't can't wasn't false"
        " wrong incorrect incorrectly invalid impossible untrue except excluding without unless but"
        " instead rather fails failed mistake mistaken error unknown undefined unsolved contradiction"
        " rejected ruled discarded excluded exception exclude reject discard eliminate ignore omit rule"
        # Doubt.
        " or if maybe perhaps possibly probably might may could whether assume assuming assumed"
        " suppose supposing let guess guessed estimate estimated estimates approximation approximate"
        " approximately about roughly nearly almost around near close bound bounds infinitely infinite"
    )
)
# Words that may stand beside an answer only where all of it is read: these make another value of it.
CHANGING = DENYING | frozenset(
    names_of(
        " twice thrice double triple quadruple half halves reciprocal inverse opposite negation"
        " negative root cubed squared factorial complement conjugate exceeds exceed exceeding times"
        " multiple multiples divisible percent percentage"
    )
)
_UPRIGHT = {"text", "textrm", "textnormal", "mathrm", "mbox", "hbox", "operatorname", "mathsf"}
_UPRIGHT |= {"textbf", "textit", "texttt", "textsf", "mathbf", "mathit", "mathtt", "mathnormal"}
_UPRIGHT |= {"boldsymbol", "bm", "pmb", "emph", "textsl"}
_BOLD = {"mathbf", "boldsymbol", "bm", "pmb", "hat", "vec"}
_CLEAR = {
    "underline",
    "boxed",
    "fbox",
    "mathop",
    "ensuremath",
    "uline",
    "underbar",
    "operatorname*",
}
# A comma between groups of three digits; a blank likewise.
_NUMBER = re.compile(
    rf"\d{{1,3}}(?:{APART}\d{{3}})+(?!\d)(?:\.\d+)?"
    r"|(?P<comma>\d{1,3}(?:,\d{3})+(?![\d])(?:\.\d+)?)"
    r"|(?P<blank>\d{1,3}(?: \d{3})+(?! ?\d)(?:\.\d+)?)"
    r"|(?P<science>(?:\d+\.\d+|\d+)[eE](?:[+-]?\d{1,4})(?![\w.]))"
    # A point with nothing fixed behind it, before digits that repeat.
    r"|\d+\.(?=\s?\\(?:overline|bar|dot|overbar)|\(\d{1,40}\))"
    r"|\d+(?:\.\d+)?|\.\d+|\.(?=\s?\\(?:overline|bar|dot|overbar))"
)
_COMMAND = re.compile(r"\\([a-zA-Z]+\*?|[{}|\\])")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
PLAIN_WORDS = {"and", "or"}
# A dot behind a word that no number follows: `sq. units`.
# `the farmers' market`
_POSSESSIVE = re.compile(r"(?<=[a-z]{3}s)'(?!')")
_ABBREVIATED = re.compile(r"(?<=[A-Za-z])\.(?![\d.])")


def tokens_of(text: str, grouping: bool = True, e_is_constant: bool = False) -> list[Token]:
    """Tokens of a text that `tidy` has seen.

    Args:
        grouping: a comma between groups of three digits is part of a number.
        e_is_constant: `2e-3` is 2e - 3.

    Raises:
        Unread: it is too long, or has a character that means nothing here.
    """
    if len(text) > LONGEST:
        raise Unread(f"longer than {LONGEST} characters")
    found: list[Token] = []
    text = _POSSESSIVE.sub("", text)
    _scan(text, found, grouping, e_is_constant, 0)
    return found


def _scan(text: str, found: list[Token], grouping: bool, constant: bool, depth: int) -> None:
    place, brackets, spaced = 0, 0, False
    while place < len(text):
        character = text[place]
        if character == " ":
            place, spaced = place + 1, True
            continue
        if character == "." and _ABBREVIATED.match(text, place) and found and not spaced:
            place += 1
            if found[-1].kind == "word":
                continue
            raise Unread("a dot that ends nothing")
        if character.isdigit() or character == ".":
            place = _number(text, place, found, grouping and not brackets, constant, spaced)
        elif character == "\\":
            place = _command(text, place, found, grouping, constant, spaced, depth)
        elif character.isalpha():
            match = _WORD.match(text, place)
            if match is None:
                raise Unread(f"the character {character!r}")
            place = _letters(text, match, found, spaced)
        elif character in "+-*/^_(){}[]|=<>,;:!'%&~?":
            brackets += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
            found.append(Token("symbol", character, spaced))
            place += 1
        else:
            raise Unread(f"the character {character!r}")
        spaced = False


def _number(
    text: str, place: int, found: list[Token], grouping: bool, constant: bool, spaced: bool
) -> int:
    if text.startswith("...", place) or text.startswith("..", place):
        found.append(Token("command", "dots", spaced))
        return place + (3 if text.startswith("...", place) else 2)
    match = _NUMBER.match(text, place)
    if match is None:
        raise Unread("a dot that ends nothing")
    written, end = match[0], match.end()
    if match["comma"] and not grouping:
        written = written[: written.index(",")]
        end = place + len(written)
    elif match["science"] and _is_product(written, constant):
        written = re.match(r"\d+(?:\.\d+)?", written)[0]  # pyright: ignore[reportOptionalSubscript]
        end = place + len(written)
    digits = written.replace(",", "").replace(" ", "").replace(APART, "")
    found.append(Token("number", digits, spaced))
    return end


def _is_product(written: str, constant: bool) -> bool:
    """Whether the e of `2e3` is the number e; with a point before it, nobody means that."""
    return constant and "." not in written


def _letters(text: str, match: re.Match[str], found: list[Token], spaced: bool) -> int:
    """A run of plain letters: a function, a word, or letters side by side."""
    run = match[0]
    if len(run) > 1 and (run in FUNCTIONS or run in PLAIN_WORDS):
        found.append(Token("word", run, spaced))
        return match.end()
    if "'" in run:
        found.append(Token("word", run, spaced))
        return match.end()
    if len(run) == 1:
        found.append(Token("letter", run, spaced))
    else:
        found.append(Token("word", run, spaced))
    return match.end()


def _command(
    text: str,
    place: int,
    found: list[Token],
    grouping: bool,
    constant: bool,
    spaced: bool,
    depth: int,
) -> int:
    match = _COMMAND.match(text, place)
    if match is None:
        raise Unread(f"{text[place : place + 2]!r}")
    name, end = match[1], match.end()
    if name in ("{", "}", "|", "\\"):
        found.append(Token("symbol", f"\\{name}", spaced))
        return end
    if name == "begin" or name == "end":
        kind = re.compile(r"\s?\{([a-zA-Z]+\*?)\}(?:\{[lcr| ]*\}|\[[lcr]\])?").match(text, end)
        if kind is None:
            raise Unread("\\begin of nothing")
        found.append(Token("command", f"{name} {kind[1]}", spaced))
        return kind.end()
    if name in _UPRIGHT or name in _CLEAR or name in ("hat", "vec", "mathbb"):
        inside, after = _argument(text, end)
        if inside is not None and depth < 20:
            _set_text(name, inside, found, grouping, constant, spaced, depth)
            return after
    found.append(Token("command", name, spaced))
    return end


def _argument(text: str, place: int) -> tuple[str | None, int]:
    """What stands in the braces that follow, and the place behind them."""
    start = place
    while text[start : start + 1] == " ":
        start += 1
    if text[start : start + 1] != "{":
        one = text[start : start + 1]
        return (one, start + 1) if one.isalnum() else (None, place)
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start + 1 : match.start()], match.end()
    raise Unread("a brace that is never closed")


def _set_text(
    name: str,
    inside: str,
    found: list[Token],
    grouping: bool,
    constant: bool,
    spaced: bool,
    depth: int,
) -> None:
    """Tokens of a text in another type: mathematics that is only set so, or words."""
    own = inside.strip()
    spaced = spaced or inside[:1] == " "
    if name == "mathbb":
        found.append(Token("command", f"mathbb {own}", spaced))
        return
    if name in _BOLD and own in ("i", "j", "k", "\\imath", "\\jmath"):
        found.append(Token("letter", f"vector {own.strip(chr(92))[0]}", spaced, upright=True))
        return
    if name in ("hat", "vec"):
        if re.fullmatch(r"[a-zA-Z]", own):
            found.append(Token("letter", f"{name} {own}", spaced, upright=True))
            return
        raise Unread(f"\\{name}")
    if re.fullmatch(r"[a-zA-Z]", own) and name not in _CLEAR:
        kind = "letter" if name.startswith("math") or name in _BOLD else "word"
        found.append(Token(kind, own, spaced, upright=True))
        return
    before = len(found)
    _scan(own, found, grouping, constant, depth + 1)
    if len(found) > before:
        first = found[before]
        found[before] = Token(first.kind, first.text, spaced or first.spaced, first.upright)
        if name not in _CLEAR:
            for place in range(before, len(found)):
                token = found[place]
                if token.kind in ("letter", "word"):
                    found[place] = Token(token.kind, token.text, token.spaced, upright=True)
