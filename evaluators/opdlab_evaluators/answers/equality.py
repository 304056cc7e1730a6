"""Whether two mathematical answers are the same thing. May take long: call `decide` in a process.

The rules, in order: the same text; choices and words; then both are read as a whole (`things`) and compared
exactly, or to many digits (`matching`). What cannot be read whole is no answer. math-verify gives a second
opinion on the untouched texts where more than fractions were compared, and the only one on integrals and
sums, which this reader does not work out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

from opdlab_evaluators.answers.expression import Unsupported
from opdlab_evaluators.answers.layout import tidy
from opdlab_evaluators.answers.matching import Matching
from opdlab_evaluators.answers.quantity import Beyond
from opdlab_evaluators.answers.thing import Context, Thing
from opdlab_evaluators.answers.things import ambiguous_list, read
from opdlab_evaluators.answers.tokens import LONGEST, Unread, tokens_of
from opdlab_evaluators.answers.trees import is_dear, letters, mentions
from opdlab_evaluators.answers.words import choice_of, plain_words, says_words, words_of_unit

FLOAT_ROUNDING = 40
NUMERIC_PRECISION = 80
MOST_FOR_LIBRARY = 40
"""Items of a set, each of which math-verify compares with all: 300 roots take it 15 s."""
# Each reads or compares answers: by the version of antlr `50\%` is 50, or not.
DECIDING = (
    "math-verify",
    "latex2sympy2_extended",
    "antlr4-python3-runtime",
    "sympy",
    "mpmath",
)
_NUMBER = re.compile(r"([-+]?)0*(\d{1,400})(?:\.0*)?")
_AFTER_VERB = re.compile(r"^(?:[a-z]+ ){1,8}?(?:is|was|be|on|falls on) (?:on )?")
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_DAY_FIRST = re.compile(
    r"\b(\d{1,2})(?: of)? (january|february|march|april|may|june|july|august|september|october|november"
    r"|december)\b"
)
# A choice with its text: `C: 12`.
_CHOSEN = re.compile(r"[A-H]: (?=.)", re.DOTALL)
# Letters with signs between them: `p - q`, `a/b`.
_FORMULA = re.compile(r"\(?[a-zA-Z]{1,2}\)?(?:\s?[-/,(]\s?\(?[a-zA-Z]{1,2}\)?){1,40}")
_CHOICE = re.compile(r"\(?\s?([A-Z])\s?\)?")


@dataclass(frozen=True)
class Outcome:
    """Whether they are equal, how that was decided, and whether the two comparisons disagreed.

    `understood` is False where the answer could not be read as a whole: it is no answer.
    """

    equal: bool
    reason: str
    disputed: bool = False
    understood: bool = True


@cache
def rules() -> str:
    """Version of these rules with those of the libraries that they rest on."""
    return "+".join(["math-18", *(f"{name}-{version(name)}" for name in DECIDING)])


def quick(gold: str, answer: str) -> Outcome | None:
    """What can be decided by looking at the text; None if the answers must be worked out."""
    if len(answer) > LONGEST:
        if "".join(gold.split()) == "".join(answer.split()):
            return Outcome(True, "same text")
        return Outcome(False, f"longer than {LONGEST} characters")
    answer = _asked_part(gold, answer)
    a, b = tidy(gold), tidy(answer)
    if not b:
        return Outcome(False, "the answer is empty", understood=False)
    if a == b:
        return Outcome(True, "same text")
    x, y = _NUMBER.fullmatch(a), _NUMBER.fullmatch(b)
    if x and y:
        return Outcome(int(x[1] + x[2]) == int(y[1] + y[2]), "integers")
    if x:
        # A number is no letter and no word.
        return None
    if _compact(a) == _compact(b):
        return Outcome(True, "same text")
    wanted = choice_of(a) if _is_choice(a) else None
    if wanted is not None:
        found = choice_of(b)
        return Outcome(found == wanted, "letters", understood=found is not None or bool(b))
    return _by_words(gold, answer)


def _asked_part(gold: str, answer: str) -> str:
    """Of `C: 12` what stands behind the letter, where no letter is asked for."""
    lettered = _CHOSEN.match(answer)
    if lettered is None or _is_choice(tidy(gold)) or _CHOSEN.match(gold.strip()):
        return answer
    return answer[lettered.end() :]


def _is_choice(text: str) -> bool:
    bare = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox|mathbf)\s?(?=\{)|[{}]", "", text)
    return bool(_CHOICE.fullmatch(bare.strip()))


def _by_words(gold: str, answer: str) -> Outcome | None:
    """Answers of words alone, such as `\\text{Friday}`; letters side by side may be a product."""
    if _FORMULA.fullmatch(gold.strip("$ ")):
        return None
    a, b = plain_words(gold), plain_words(answer)
    if a is None or (len(a) < 2 and b is not None):
        return None
    if b is not None:
        if says_words(a, b):
            return Outcome(True, "words")
        if _is_product(gold) and _is_product(answer):
            return None
    if _is_product(gold) or not re.fullmatch(r"[a-z' ]{3,}", a):
        return None
    try:
        read(gold)
    except (Unread, Beyond):
        return Outcome(False, "words")
    return None


def _is_product(text: str) -> bool:
    bare = text.strip().strip("$ ")
    return bool(re.fullmatch(r"[a-dk-np-rt-zA-Z]{1,6}|\(?[a-zA-Z]\)?", bare)) and "\\" not in text


def decide(
    gold: str,
    answer: str,
    on_first: Callable[[Outcome], None] | None = None,
    opinion: Callable[[str, str], bool] | None = None,
) -> Outcome:
    """Whether the answer equals the gold; both as they were written.

    Args:
        on_first: takes what was decided before math-verify is asked, which may take for ever.
        opinion: the second opinion, which decides alone on integrals and sums; by default math-verify's.
    """
    opinion = opinion or library
    decided = quick(gold, answer)
    if decided is not None:
        return decided
    answer = _asked_part(gold, answer)
    try:
        wanted, context = _read_gold(gold)
    except Unsupported:
        return Outcome(opinion(gold, answer), "math-verify alone")
    except (Unread, Beyond) as error:
        # A date, a name with a number, or a tower of powers: as text, if at all.
        if _folded(gold) in (_folded(answer), _AFTER_VERB.sub("", _folded(answer))):
            return Outcome(True, "same words")
        return Outcome(False, f"the reference answer is not understood: {error}")
    try:
        if wanted.kind == "numeral" and _compact(answer).upper() == wanted.name.upper():
            # The base is known from the question and may be left out.
            return Outcome(True, "same digits")
        found = read(answer, context)
    except Unsupported:
        return Outcome(opinion(gold, answer), "math-verify alone")
    except Beyond as error:
        return Outcome(False, str(error))
    except Unread as error:
        return Outcome(False, f"not understood: {error}", understood=False)
    except RecursionError:
        return Outcome(False, "not understood: nested too deep", understood=False)
    return _compared(gold, answer, wanted, found, on_first, opinion)


@lru_cache(maxsize=1024)
def _read_gold(gold: str) -> tuple[Thing, Context]:
    """The gold, and what it tells of how to read an answer to it."""
    neat = tidy(gold)
    listed = ambiguous_list(neat)
    own = Context(grouping=not listed, is_gold=True)
    thing = read(gold, own)
    names = _letters(thing)
    tokens = tokens_of(neat, not listed)
    several = len(thing.items) > 1 and thing.kind == "list"
    context = Context(
        letters=names,
        grouping=not (several and " " not in gold.strip())
        and not listed
        and not _small_list(thing),
        e_is_constant=_has(thing, "e"),
        own_units=words_of_unit(tokens),
        unit=thing.unit,
        vectors=any(name.startswith("vector ") for name in names),
        j_is_imaginary=_has(thing, "i") and "j" not in names,
        is_point=thing.kind == "tuple",
    )
    return thing, context


def _small_list(thing: Thing) -> bool:
    """A list of numbers of three digits at most: `100, 200` may be answered as `100,200`."""
    return thing.kind == "list" and all(
        item.trees and item.trees[0][0] == "number" and item.trees[0][1] < 1000
        for item in thing.items
    )


def _letters(thing: Thing) -> frozenset[str]:
    found = {name for tree in thing.trees for name in letters(tree)}
    return frozenset(found.union(*(_letters(item) for item in thing.items)))


def _has(thing: Thing, name: str) -> bool:
    return mentions(thing.trees, name) or any(_has(item, name) for item in thing.items)


def _compared(
    gold: str,
    answer: str,
    wanted: Thing,
    found: Thing,
    on_first: Callable[[Outcome], None] | None,
    opinion: Callable[[str, str], bool],
) -> Outcome:
    matching = Matching()
    try:
        equal = matching.same(wanted, found)
    except Beyond as error:
        # Of the same text it would have been found equal before.
        return Outcome(False, str(error))
    except RecursionError:
        return Outcome(False, "nested too deep", understood=False)
    if matching.exact or not _LIBRARY_KINDS & {wanted.kind, found.kind}:
        return Outcome(equal, "read whole")
    if _is_dear(wanted, found):
        return Outcome(equal, "read whole, too large for math-verify")
    if on_first is not None:
        on_first(Outcome(equal, "read whole, math-verify did not end"))
    second = opinion(gold, answer)
    if second == equal:
        return Outcome(equal, "read whole and math-verify")
    if equal and _is_beyond_library(wanted, found):
        return Outcome(True, "read whole")
    says = "equal" if second else "different"
    return Outcome(equal, f"read whole, math-verify says {says}", disputed=True)


def _is_dear(*things: Thing) -> bool:
    """Whether powers, factorials, binomials are so large, or items so many, that math-verify takes long."""
    if any(len(thing.items) > MOST_FOR_LIBRARY for thing in things):
        return True
    return any(is_dear(thing.trees) or _is_dear(*thing.items) for thing in things)


def _is_beyond_library(*things: Thing) -> bool:
    """Whether they say something that math-verify does not know: its no is then no dispute."""
    names = ("Re", "Im", "sgn", "several", "degrees", "modulo", "infinity")
    return any(
        thing.unit is not None
        or thing.percent
        or mentions(thing.trees, *names)
        or _is_beyond_library(*thing.items)
        for thing in things
    )


_LIBRARY_KINDS = {"value", "list", "tuple", "set", "matrix"}


def library(gold: str, answer: str) -> bool:
    r"""math-verify on the untouched texts; a yes for the text with its layout taken off counts too."""
    return math_verify_says(gold, answer) or math_verify_says(tidy(gold), tidy(answer))


def _compact(text: str) -> str:
    """For comparison as text: without blanks, where these part no digits, and redundant braces."""
    text = re.sub(r"(?<=\d) (?=\d)", "\x00", text)
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"\\frac([0-9])([0-9])(?![0-9])", r"\\frac{\1}{\2}", text)
    return re.sub(r"([\^_])\{([0-9a-zA-Z])\}", r"\1\2", text)


def _folded(text: str) -> str:
    """A text without type, case and articles; every sign that may mean something stays."""
    bare = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox|operatorname)\s?(?=\{)", "", tidy(text))
    bare = _ORDINAL.sub("", re.sub(r"[{}]", "", bare).lower())
    bare = _DAY_FIRST.sub(r"\2 \1", bare)
    return re.sub(r"\s+", " ", re.sub(r"\b(?:the|an?)\s", "", bare)).strip()


def math_verify_says(gold: str, answer: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Limits are the caller's: the library's own rest on SIGALRM.
    options: Any = {
        "extraction_config": [LatexExtractionConfig(boxed_match_priority=0)],
        "fallback_mode": "no_fallback",
        "parsing_timeout": None,
    }
    left, right = (
        parse(f"$\\boxed{{{gold}}}$", **options),
        parse(f"$\\boxed{{{answer}}}$", **options),
    )
    if not left or not right:
        return False
    return bool(
        verify(
            left,
            right,
            float_rounding=FLOAT_ROUNDING,
            numeric_precision=NUMERIC_PRECISION,
            timeout_seconds=None,
        )
    )
