"""One value among words that are all known: `it will take 13 years before he starts earning`.

The words of `vocabulary.txt` and names of people say what a value is of. None of them makes another value
of it, as `half`, `until`, `at least` or a word that is not listed may do; where one of these
stands the answer is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from opdlab_evaluators.answers.tokens import FUNCTIONS, Token, names_of
from opdlab_evaluators.answers.units import unit
from opdlab_evaluators.answers.words import MEANING, NUMBER_WORDS, changes_nothing

VOCABULARY_FILE = Path(__file__).with_name("vocabulary.txt")
# Directly in front of a value they make it a part of something else: `the sum of 5`, `after 5`.
_BINDING = frozenset(
    names_of(
        "of to from after before until by than with for without per and as like into across along"
        " against since if when where while because over until"
    )
)
_CONFIRMING = (
    ["is", "the", "answer"],
    ["is", "correct"],
    ["is", "my", "answer"],
    ["is", "our", "answer"],
)
_DURING = (["over", "the"], ["over", "this"], ["over", "a"], ["over"])
_ENDING = (
    ["ends", "with"],
    ["end", "with"],
    ["left", "with"],
    ["up", "with"],
    ["is", "at"],
    ["total", "of"],
    ["profit", "of"],
    ["area", "of"],
    ["distance", "of"],
    ["volume", "of"],
    ["enough", "for"],
    ["ran", "for"],
    ["grew", "by"],
    ["increased", "by"],
    ["decreased", "by"],
    ["rose", "by"],
    ["fell", "by"],
    ["passes", "through"],
    ["pass", "through"],
    ["amount", "of"],
    ["score", "of"],
    ["speed", "of"],
    ["height", "of"],
    ["length", "of"],
    ["width", "of"],
    ["dropped", "to"],
    ["rose", "to"],
    ["fell", "to"],
    ["increased", "to"],
    ["decreased", "to"],
    ["cut", "into"],
    ["flew", "for"],
    ["finish", "in"],
    ["finishes", "in"],
    ["calls", "for"],
    ["food", "for"],
)
# Of them the number is a name, unless another word says which one: `in this case 12`.
_WHICH = ("this", "that", "each", "our")
_NUMBERED = [
    [word]
    for word in names_of(
        "step case part equation problem question example exercise figure section hint"
    )
]
_SAYING = ("is", "are", "was", "were", "has", "have", "had")
MOST_WORDS = 40


@cache
def vocabulary() -> frozenset[str]:
    """Words that change no value beside which they stand."""
    return frozenset(VOCABULARY_FILE.read_text(encoding="ascii").split())


def is_harmless(tokens: Sequence[Token]) -> bool:
    """Whether all tokens are known words, or names, that change no value."""
    words = [token.text.lower() for token in tokens]
    # `over the three months` compares nothing.
    tokens = [t for n, t in enumerate(tokens) if words[n : n + 2] not in _DURING]
    words = [token.text.lower() for token in tokens]
    if len(words) > MOST_WORDS or not changes_nothing(words) or _counts(words):
        return False
    return all(_is_harmless(token) for token in tokens)


def _counts(words: Sequence[str]) -> bool:
    """Whether a number in words is more than how many things share the value: `the three months`."""
    return any(
        word in NUMBER_WORDS and words[n - 1 : n] not in (["the"], ["all"])
        for n, word in enumerate(words)
    )


def _is_harmless(token: Token) -> bool:
    word = token.text.lower()
    if token.text in ("a", "A", "I"):
        return True
    if token.kind != "word" or token.text in FUNCTIONS:
        return False
    if word in vocabulary() or word in NUMBER_WORDS:
        return True
    if word in MEANING:
        return False
    counted = unit(word)
    is_name = counted is None and token.text.istitle() and word not in _DENIED
    return len(word) > 2 and (is_name or counted is not None)


# Words that may begin a sentence and are no names.
_DENIED = frozenset(
    names_of(
        "after against among another before below beneath beside between beyond check compare compute"
        " consider convert decide denote derivative divide during evaluate find given integral inverse"
        " let log modulo next past predecessor previous remove reverse round solve square substitute"
        " successor take test toward try under underneath until upon verify without"
    )
)


def outlined(tokens: list[Token]) -> list[Token] | None:
    """The one value among words that change nothing; None where there is another sort of thing."""
    tokens = [_percent_sign(token) for token in tokens]
    wordy = [token.kind == "word" and token.text not in FUNCTIONS for token in tokens]
    values = [
        n
        for n, is_word in enumerate(wordy)
        if not is_word and tokens[n].text not in ("a", "A", "I")
    ]
    if not values or len(values) == len(tokens):
        return None
    start, end = values[0], values[-1] + 1
    if any(wordy[start:end]):
        return None
    front, back = tokens[:start], tokens[end:]
    if any(str(token) in (",", "?", ":") for token in (tokens[start], tokens[end - 1])):
        return None
    behind = [token.text.lower() for token in back]
    if behind in _CONFIRMING:
        back = []
    elif behind[:1] and behind[0] in (*_SAYING, "and", "then"):
        return None
    sized = _sized(back)
    if not is_harmless(front) or not is_harmless(back[sized:]):
        return None
    before = [token.text.lower() for token in front[-2:]]
    if before == ["ends", "in"] or (before[-1:] in _NUMBERED and before[0] not in _WHICH):
        return None
    if before[-1:] == ["in"] and behind in (["ways"], ["different", "ways"]):
        return tokens[start : end + sized]
    if before and before[-1] in _BINDING and before not in _ENDING:
        return None
    return tokens[start : end + sized]


def _percent_sign(token: Token) -> Token:
    is_percent = token.kind == "word" and token.text.lower() == "percent"
    return Token("symbol", "%", token.spaced) if is_percent else token


def _sized(tokens: Sequence[Token]) -> int:
    """How many of the words behind a number are its unit, where that has a size."""
    for count in (3, 2, 1):
        found = unit(tokens[count - 1].text) if len(tokens) >= count else None
        if found is not None and found.dimension and tokens[count - 1].text.lower() != "in":
            return count
    return 0
