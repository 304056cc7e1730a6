"""Answers in words: phrases before an answer, numbers in words, letters of choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from opdlab_evaluators.answers.layout import tidy
from opdlab_evaluators.answers.tokens import CHANGING, Token, Unread, names_of
from opdlab_evaluators.answers.trees import Tree

_LEADS = tuple(
    tuple(lead.split())
    for lead in (
        "my final answer is", "the final answer is", "the correct answer is", "the answer is",
        "the value is", "answer is", "there are exactly", "there exist exactly",
        "there exists exactly", "there exist", "there exists", "there are", "there is",
        "there will be", "there would be", "there would still be", "a total of", "the total is",
        "total of", "total", "we get", "i get", "we have", "we obtain", "it is", "is equal to",
        "equal to", "we conclude that", "we find that", "we see that", "it follows that",
        "this gives us", "this gives", "this means that", "that leaves", "this leaves",
        "we end up with", "that makes", "we find", "we conclude", "equals", "therefore", "thus",
        "so", "hence", "exactly", "precisely", "simply", "just", "then", "is", "answer", "only", "that is",
        "all", "both", "option", "choice", "in total", "she has", "he has", "she makes", "he makes",
        "they have", "it takes", "it costs", "now", "still", "also", "currently", "actually", "her",
        "him", "them", "us",
    )
)  # fmt: skip
_LEADS_BY_WORD = {lead[0]: tuple(one for one in _LEADS if one[0] == lead[0]) for lead in _LEADS}
# Words that say more than a unit does; never taken for one, not even in a gold.
MEANING = frozenset(
    names_of(
        "not no non less more least most than over under about approximately infinite infinitely"
        " undefined none never except mod if for when base million billion trillion thousand hundred"
        " dozen half percent negative minus plus times squared cubed factorial or and maybe perhaps"
        " cannot remainder with is at to of the too small large"
    )
)
# The same of two words.
_PAIRS = frozenset(
    tuple(pair.split())
    for pair in (
        "at least", "at most", "square of", "cube of", "third of", "quarter of", "more than",
        "less than", "fewer than", "greater than", "larger than", "smaller than", "other than",
        "far from", "up to",
    )
)  # fmt: skip
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        names_of(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
            " fifteen sixteen seventeen eighteen nineteen twenty"
        )
    )
}
NUMBER_WORDS |= {
    word: 10 * number
    for number, word in enumerate(
        names_of("thirty forty fifty sixty seventy eighty ninety"), start=3
    )
}
SHARES = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6}
SHARES |= {"seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
SHARES |= {f"{word}s": parts for word, parts in SHARES.items() if not word.startswith("hal")}
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6}
_SCALES |= {"billion": 10**9, "trillion": 10**12}
NOTHING = (
    "no solutions exist",
    "no solution exists",
    "there is no solution",
    "no solution",
    "no solutions",
    "empty set",
    "the empty set",
    "none",
    "no real solution",
    "no real solutions",
    "there are no solutions",
)
ALL_REALS = ("all real numbers", "real numbers", "all reals", "reals", "any real number")


def changes_nothing(words: Sequence[str]) -> bool:
    """Whether none of some words, in small letters, can change what the others say."""
    if CHANGING & set(words) or any(word.endswith("n't") for word in words):
        return False
    return not any(pair in _PAIRS for pair in pairwise(words))


# What the words of an answer may say beside the gold's: `the function is even`, `an even function`.
_SUBJECT = re.compile(
    r"(?:it s|[\w ]{1,60}? (?:is|are|was|were|must be|will be"
    r"|falls|fell|lands|occurs|represents)(?: an?)?) "
)
_CONFIRMED = re.compile(r" (?:is|was) (?:correct|(?:correct |right |final )?answer|winner)$")
_KINDS = frozenset(
    names_of(
        "function number curve graph shape direction set integer person student polynomial relation"
        " conic section option equation degree triangle quadrilateral lines sequence series"
    )
)


_AFTER_SO = re.compile(r"^(?:so|thus|hence|therefore|finally) ")
# What denies or doubts by itself, as the gold does.
_SAYS_ALL = {
    "neither": re.compile(r"(?:[\w ]{1,30} is )?neither(?: \w+ nor \w+)?"),
    "does not exist": re.compile(r"(?:the )?(?:limit|it|value) does not exist"),
    "diverges": re.compile(r"(?:the )?(?:limit|it|series|integral|sum|sequence) diverges"),
    "converges": re.compile(r"(?:the )?(?:limit|it|series|integral|sum|sequence) converges"),
    "infinitely many": re.compile(r"(?:there are )?infinitely many(?: (?:such )?\w+)?"),
}
_NO_MATCH = re.compile(r"(?!)")
_NO = re.compile(r"no (?:it|they|this|that|he|she) (?:(?:is|are|was|does|do|did|can) not|cannot) ")
_OF_MOST = re.compile(
    r" (?:has|had|is|was|ran|runs|won|got|earned|scored|made)(?: by far)? \w*(?:greatest|highest|fastest"
    r"|largest|biggest|longest|tallest|oldest|most|best|first|winner)\b"
    r"| (?:(?:wins|won)(?: (?:game|race|contest|match))?)$"
)


def _is_name_of_most(gold: str, answer: str) -> bool:
    """`Evelyn has the greatest average speed` of a gold that is one word."""
    behind = answer.removeprefix(gold)
    if " " in gold or len(gold) < 3 or behind == answer or not _OF_MOST.match(behind):
        return False
    return changes_nothing(behind.split())


def says_words(gold: str, answer: str) -> bool:
    """Whether the answer's words, both as `plain_words` gives them, are the gold's in a sentence."""
    answer = _CONFIRMED.sub("", answer)
    if gold == "no" and _NO.match(answer):
        return changes_nothing(answer.replace(" not ", " ").replace(" cannot ", " ").split()[1:])
    if gold in ("yes", "no", "true", "false") and answer.startswith(f"{gold} "):
        return changes_nothing(answer.split()[1:])
    if " and " in gold and set(gold.split(" and ")) == set(answer.split(" and ")):
        return True
    if _SAYS_ALL.get(gold, _NO_MATCH).fullmatch(_AFTER_SO.sub("", answer)):
        return True
    if _is_name_of_most(gold, _AFTER_SO.sub("", answer)):
        return True
    for found in (answer, _SUBJECT.sub("", answer, count=1)):
        head = answer[: len(answer) - len(found)].split()
        found = found.removeprefix("due ").removeprefix("on ").removeprefix("a ")
        first, _, last = found.rpartition(" ")
        if found == gold or (first == gold and last in _KINDS and last not in gold.split()):
            return changes_nothing(head)
    return False


def plain_words(text: str) -> str | None:
    """The words that a text consists of, in small letters without articles; None where there is more."""
    bare = re.sub(
        r"\\(?:text(?:bf|it|rm|tt|sf)?|mathrm|mbox|operatorname|mathbf)\s?(?=\{)", "", text
    )
    bare = (
        re.sub(r"[{}~\"]|\*\*|`", " ", bare.replace("$", " "))
        .replace("\\ ", " ")
        .replace("\\,", " ")
    )
    bare = bare.strip().rstrip(".,;!").strip()
    if not re.fullmatch(r"[^\W\d_](?:[^\W\d_]|[\s'’(),/-])*", bare):
        return None
    folded = re.sub(r"[^\w]+", " ", bare.lower())
    return re.sub(r"\b(?:an?|the)\s", "", folded).strip()


_SAID_OF_CHOICE = re.compile(
    r" is (?:the )?(?:correct|right|answer)(?: (?:answer|option|choice|one))?$", re.IGNORECASE
)


def choice_of(text: str) -> str | None:
    """The letter of an answer that names one of several choices, its text behind it or not."""
    bare = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox|mathbf|boldsymbol)\s?(?=\{)", "", tidy(text))
    bare = re.sub(r"\s+", " ", re.sub(r"[{}]", " ", bare)).strip()
    bare = re.sub(r"^(?:therefore|thus|hence|so),? ", "", bare, flags=re.IGNORECASE)
    bare = re.sub(
        r"^(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?:? ", "", bare, flags=re.IGNORECASE
    )
    bare = _SAID_OF_CHOICE.sub("", bare)
    match = re.fullmatch(
        r"[(\[] ?([A-Z]) ?[)\]](?: (?!or\b|and\b|[,;]).*)?|([A-Z])(?: ?[:.)] ?.*| \([^()]*\))?",
        bare,
        re.DOTALL,
    )
    if match is None or re.search(r"\( ?[A-Z] ?\).*\( ?[A-Z] ?\)", bare):
        return None
    return match[1] or match[2]


def without_lead(tokens: list[Token]) -> list[Token]:
    """Without phrases such as `a total of`, `the answer is`."""
    for _ in range(6):
        size = _lead_at(tokens)
        if not size:
            break
        tokens = tokens[size:]
        if str(tokens[0]) in (":", ",", "=") and len(tokens) > 1:
            tokens = tokens[1:]
    return tokens


def _lead_at(tokens: Sequence[Token]) -> int:
    """How many tokens at the beginning are a lead; 0 where none are, or nothing comes behind."""
    first = tokens[0].text.lower() if tokens else ""
    for lead in _LEADS_BY_WORD.get(first, ()):
        begin = tokens[: len(lead)]
        if len(tokens) > len(lead) and all(
            token.kind in ("word", "letter") and token.text.lower() == word
            for token, word in zip(begin, lead, strict=True)
        ):
            return len(lead)
    return 0


def worded(tokens: Sequence[Token]) -> Tree | None:
    """`eighteen`, `twenty-five`, `three quarters`, `eighteen (18)`."""
    if tokens[0].kind != "word" or tokens[0].text.lower() not in NUMBER_WORDS:
        return None
    found = Fraction(NUMBER_WORDS[tokens[0].text.lower()])
    rest = [str(token).lower() for token in tokens[1:]]
    if rest[:1] == ["-"]:
        rest = rest[1:]
    if rest and found >= 20 and 0 < NUMBER_WORDS.get(rest[0], 0) < 10:
        found, rest = found + NUMBER_WORDS[rest[0]], rest[1:]
    elif rest and rest[0] in SHARES and found < 20:
        found, rest = found / SHARES[rest[0]], rest[1:]
    if rest in ([], ["(", str(found), ")"]):
        return ("number", found)
    raise Unread(f"the word {tokens[0].text!r}")


def scaled(tokens: list[Token]) -> tuple[list[Token], int]:
    """`70 thousand`, `2 dozen`, `a dozen`: the tokens before the scale, and the scale; 1 without one."""
    scale = 1
    while len(tokens) > 1 and tokens[-1].text.lower() in _SCALES and tokens[-1].kind == "word":
        scale *= _SCALES[tokens[-1].text.lower()]
        tokens = tokens[:-1]
    if scale > 1 and [str(token) for token in tokens] == ["a"]:
        tokens = [Token("number", "1")]
    return tokens, scale


def words_of_unit(tokens: Sequence[Token]) -> frozenset[str]:
    """Words of a gold, which its answers may use as units too."""
    return frozenset(
        token.text.lower()
        for token in tokens
        if token.kind == "word" and token.upright and token.text.lower() not in MEANING
    )
