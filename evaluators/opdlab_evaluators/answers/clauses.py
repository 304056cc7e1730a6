"""Of a sentence the clause that states the answer: `since ..., she makes 18`, `64 for all 16 glasses`.

A clause that gives a reason, names a working or says how a value is written changes no value, whatever it
says. One that sets a condition (`if`, `when x > 0`) does; such a sentence stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opdlab_evaluators.answers.brackets import CLOSING, OPENING
from opdlab_evaluators.answers.outline import is_harmless
from opdlab_evaluators.answers.tokens import DENYING, FUNCTIONS, Token, names_of
from opdlab_evaluators.answers.units import unit
from opdlab_evaluators.answers.words import NUMBER_WORDS, changes_nothing

# They begin a clause that gives a reason or names a step; whatever it holds is not the answer.
_REASONING = ("since", "because", "as", "given", "when")
_CIRCUMSTANTIAL = (
    "to",
    "rounded",
    "from",
    "by",
    "with",
    "in",
    "after",
    "at",
    "on",
    "during",
    "over",
)
_STEPS = frozenset(
    names_of(
        "adding subtracting multiplying dividing combining substituting solving simplifying converting"
        " counting rounding expanding factoring evaluating calculating computing using applying"
        " rearranging summing taking plugging setting comparing integrating differentiating putting"
        " working expressed written discarding rejecting"
    )
)
_RESULTING = (
    ("giving",), ("yielding",), ("making",), ("leaving",), ("which", "gives"), ("which", "means"),
    ("which", "makes"), ("which", "leaves"), ("which", "equals"), ("which", "yields"), ("resulting", "in"),
    ("for", "a", "total", "of"), ("for", "a", "grand", "total", "of"), ("and", "equals"), ("namely",),
)  # fmt: skip
_RESULTS = frozenset(words[0] for words in _RESULTING)
_SHORTENED = {"that's": "that", "it's": "it", "he's": "he", "she's": "she", "there's": "there"}
_RELATED = frozenset(("=", "<", ">", "\\le", "\\ge", "\\leq", "\\geq", "\\ne", "\\neq", "\\in"))
# What is known from the question already: `for all 16 glasses`.
_KNOWN = frozenset(
    ["the", "all", "both", "these", "those", "his", "her", "their", "its", "every", "each"]
)
_CIRCUMSTANCE = frozenset(["for", "at", "after", "in", "during", "over", "by", "on"])
_TELLING = _CIRCUMSTANCE | {"from", "when"}
_ABOUT = ("approximately", "roughly", "about", "around")
_POSSESSIVE = frozenset(["his", "her", "their", "the", "my", "our", "your", "its"])


def spelled(tokens: list[Token]) -> list[Token]:
    """`it'll take` as `it will take`, `that's 5` as `that is 5`."""
    kept: list[Token] = []
    for token in tokens:
        word = token.text.lower()
        if token.kind == "word" and word.endswith("'ll"):
            kept += [replace(token, text=token.text[:-3]), Token("word", "will", True)]
        elif token.kind == "word" and word in ("they'd", "we'd", "you'd", "he'd", "she'd"):
            kept += [replace(token, text=token.text[:-2]), Token("word", "would", True)]
        elif word == "multiple" and [t.text.lower() for t in kept[-2:]] == ["least", "common"]:
            kept[-2:] = [replace(token, text="result")]
        elif token.kind == "word" and word in _SHORTENED:
            kept += [replace(token, text=_SHORTENED[word]), Token("word", "is", True)]
        else:
            kept.append(token)
    return kept


def levels(tokens: Sequence[Token]) -> list[int]:
    """How many brackets are open at each token."""
    depth, found = 0, []
    for token in tokens:
        if token.kind not in ("symbol", "command"):
            found.append(depth)
            continue
        text = str(token)
        depth -= text in CLOSING or text.startswith("\\end ")
        found.append(depth)
        depth += text in OPENING or text.startswith("\\begin ")
    return found


def behind_reason(tokens: list[Token]) -> list[Token] | None:
    """What follows a clause that gives a reason or a step, up to a comma; None without one."""
    first = tokens[0].text.lower() if tokens and tokens[0].kind == "word" else ""
    later = tokens[: [*map(str, tokens), ","].index(",")]
    if (
        later
        and later[-1].text.lower() in ("now", "later", "ago")
        and all(token.kind == "word" for token in later)
    ):
        return tokens[len(later) + 1 :] or None
    if first not in (*_REASONING, *_CIRCUMSTANTIAL, *_STEPS):
        return None
    if first in _STEPS and len(tokens) > 3 and str(tokens[1]) == ",":
        return tokens[2:]
    depths = levels(tokens)
    for place, token in enumerate(tokens[:-2]):
        if str(token) != "," or depths[place] or not _begins(tokens[place + 1 : place + 3]):
            continue
        front = [token.text.lower() for token in tokens[:place]]
        if first == "when" and "=" not in front and "divided" not in front:
            return None
        if first in _CIRCUMSTANTIAL and not changes_nothing(front):
            return None
        return tokens[place + 1 :]
    return None


def _begins(tokens: Sequence[Token]) -> bool:
    """Whether a clause may begin so, and no further item of a list."""
    first, second = tokens
    if first.kind == "word":
        return first.text not in FUNCTIONS and first.text not in ("and", "or")
    return first.kind == "letter" and str(second) in ("=", "is")


def result(tokens: list[Token]) -> list[Token] | None:
    """What follows the last `giving`, `which means that`, `for a total of` behind a statement."""
    places = [n for n, t in enumerate(tokens) if t.kind == "word" and t.text.lower() in _RESULTS]
    depths = levels(tokens) if places else []
    for place in reversed([n for n in places if 2 < n < len(tokens) - 1]):
        for words in _RESULTING:
            if depths[place] or _words(tokens, place, len(words)) != words:
                continue
            comma = str(tokens[place - 1]) == ","
            rest = tokens[place + len(words) :]
            if rest and (comma or words == ("and", "equals")) and _has_value(rest):
                return rest[1:] if rest[0].text.lower() == "that" and len(rest) > 1 else rest
    return None


def is_named_after(tokens: Sequence[Token]) -> bool:
    """Whether words behind `is` say what a value in front of it is: `the equation of the line`."""
    if not tokens or tokens[0].text.lower() not in _POSSESSIVE or len(tokens) < 2:
        return False
    words = [token.text.lower() for token in tokens]
    if words[1] in ("only", "wrong") or not changes_nothing(words):
        return False
    return all(token.kind in ("word", "letter") for token in tokens)


def without_circumstance(tokens: list[Token]) -> list[Token]:
    """`$64 for all 16 glasses`, `45 miles at the end of the 4 hours`: without what is known already."""
    for place in range(2, len(tokens)):
        token = tokens[place]
        if token.kind != "word" or token.text.lower() not in _TELLING:
            continue
        if not _is_measured(tokens, place):
            continue
        if _words(tokens, place, 3) == ("when", "divided", "by") and len(tokens) == place + 4:
            said = " ".join(t.text.lower() for t in tokens[:place])
            return tokens[:place] if "remainder" in said else tokens
        if _is_circumstance(tokens[place:]) or _is_place(tokens, place):
            return tokens[:place]
    return tokens


def _is_place(tokens: Sequence[Token], place: int) -> bool:
    """`9 at x = 2`: where a value that words name is attained."""
    texts = [str(token) for token in tokens[place : place + 3]]
    named = tokens[place + 1 : place + 2]
    related = _RELATED & {str(token) for token in tokens[:place]}
    related |= {token.text for token in tokens[place + 3 :] if token.kind == "word"}
    return texts[0] == "at" and texts[2:] == ["="] and named[0].kind == "letter" and not related


def _is_circumstance(rest: list[Token]) -> bool:
    words = [token.text.lower() for token in rest]
    numbers = [n for n, token in enumerate(rest) if token.kind == "number"]
    if words[0] not in _CIRCUMSTANCE | {"from"} or len(numbers) != 1:
        return False
    (at,) = numbers
    spent = len(rest) == 3 and at == 1 and _lasts(words[2])
    if spent:
        return True
    ended = words[max(at - 4, 0) : at - 1] in (["the", "end", "of"], ["the", "course", "of"])
    known = words[at - 1] in _KNOWN and (words[at - 2] in _CIRCUMSTANCE or ended)
    return at > 1 and known and at + 1 < len(rest) and is_harmless(rest[:at] + rest[at + 1 :])


def _lasts(word: str) -> bool:
    found = unit(word)
    return found is not None and found.dimension == (("time", 1),)


def _is_measured(tokens: Sequence[Token], place: int) -> bool:
    """Whether a sum of money, or a number with a unit, ends before a place."""
    before = tokens[place - 1]
    if before.kind == "number":
        following = tokens[place].text.lower()
        return str(tokens[place - 2]) == "\\dollar" or following in ("when", "at")
    return tokens[place - 2].kind == "number" and unit(before.text) is not None


def counted_of(tokens: list[Token]) -> list[Token]:
    """`three of the numbers are prime`: how many, where nothing else is said."""
    if len(tokens) < 5 or _words(tokens, 1, 2) != ("of", "the"):
        return tokens
    said = tokens[3:]
    number = tokens[0].kind == "number" or tokens[0].text.lower() in NUMBER_WORDS
    verbs = [n for n, t in enumerate(said) if t.text.lower() in ("is", "are", "was", "were")]
    counted = unit(said[0].text) if said[0].kind == "word" else None
    if not number or len(verbs) != 1 or verbs[0] != 1 or counted is None or counted.dimension:
        return tokens
    return tokens[:1] if is_harmless(said) and said[2:] else tokens


def rounded(tokens: list[Token]) -> list[Token]:
    r"""`approximately 3.16` as `\approx 3.16`."""
    if len(tokens) > 1 and tokens[0].text.lower() in _ABOUT and "." in tokens[1].text:
        return [Token("command", "approx"), *tokens[1:]]
    return tokens


def denies(tokens: Sequence[Token]) -> bool:
    """Whether a word denies or doubts."""
    return any(t.text.lower() in DENYING or t.text.lower().endswith("n't") for t in tokens)


def _has_value(tokens: Sequence[Token]) -> bool:
    return any(t.kind in ("number", "command") or t.text.lower() in NUMBER_WORDS for t in tokens)


def _words(tokens: Sequence[Token], place: int, count: int) -> tuple[str, ...]:
    return tuple(token.text.lower() for token in tokens[place : place + count])
