"""Sentences around an answer: `the area is 5`, `5 (since x > 0)`, `there are 5 such integers`.

An answer in a sentence is a label, a link and what is said of it, with a comment behind: `label is answer
(comment)`. Words that can change what is said (`not`, `at least`, `half of`, `or`) stand in no label and in
no comment: a sentence that has them stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opdlab_evaluators.answers.brackets import CLOSING
from opdlab_evaluators.answers.clauses import (
    behind_reason,
    counted_of,
    denies,
    is_named_after,
    levels,
    result,
    rounded,
    spelled,
    without_circumstance,
)
from opdlab_evaluators.answers.outline import is_harmless, outlined
from opdlab_evaluators.answers.tokens import FUNCTIONS, Token, names_of
from opdlab_evaluators.answers.units import ADJECTIVES, unit
from opdlab_evaluators.answers.words import NUMBER_WORDS, SHARES, changes_nothing, without_lead

_LINKS = tuple(
    tuple(link.split())
    for link in (
        "is equal to", "are equal to", "is exactly", "are exactly", "is simply", "is therefore",
        "is given by", "must be", "must equal", "will be", "would be", "should be", "comes to",
        "turns out to be", "is", "are", "was", "were", "equals", "equal", "becomes", "has", "have",
        "had", "makes", "make", "made", "earns", "earn", "earned", "costs", "cost", "pays", "paid",
        "spends", "spent", "needs", "need", "takes", "took", "gets", "got", "sells", "sold", "buys",
        "bought", "uses", "used", "weighs", "saves", "saved", "eats", "ate", "reads", "walks",
        "runs", "owes", "contains", "contain", "holds", "received", "receives", "collected",
        "travels", "traveled", "drives", "drove", "works", "worked", "wins", "won", "lost",
        "scored", "baked", "drinks", "drank", "ran", "read", "walked", "measures", "measure",
        "simplifies to", "simplify to", "evaluates to", "converges to", "factors as", "factors to",
        "factors into", "reduces to", "works out to", "amounts to", "adds up to", "add up to",
        "comes out to", "can be", "can be written as", "can write it as", "can be expressed as",
        "holds when", "holds for", "is satisfied when", "is satisfied for", "is true when",
        "is defined for", "can be simplified to", "is equivalent to", "leaves a remainder of",
        "has a remainder of", "gives", "yields", "results in", "produces", "reach", "reaches",
        "reached", "arrives at", "arrive at", "meet at", "meets at", "starts at", "ends at",
        "leaves at", "falls on", "occurs on", "is located at", "lies at", "is at", "lasts",
        "lasted", "planted", "picked", "caught", "ordered", "donated", "drink", "finishes at",
        "come to", "amount to", "passes through", "represents", "finished at", "begins at", "get",
        "obtain", "find", "is minimized when", "is minimized at", "is maximized when",
        "is maximized at", "is undefined at", "is undefined when", "can be factored as", "lies in",
        "is increasing on", "is decreasing on", "ends up with", "end up with", "occurs at",
        "occurs when", "intersect at", "covers", "sees", "owned", "owns", "grows", "grew",
        "ran for", "walked for", "flew for", "worked for", "lasted for", "read for", "grew by",
        "increased by", "decreased by", "rose by", "fell by", "dropped by",
    )
)  # fmt: skip
_LINKS_BY_WORD = {
    link[0]: sorted((one for one in _LINKS if one[0] == link[0]), key=len, reverse=True)
    for link in _LINKS
}
SAYING = frozenset(link[0] for link in _LINKS) - {"must", "will", "would", "should", "turns", "can"}
SAYING |= {"must be", "will be", "would be", "take", "get", "gets", "need", "gives", "can be"}
"""Words by which a sentence says what something is."""
# With the verb that follows: `Julie should read 42 pages`.
_MODALS = ("should", "must", "will", "can", "would")
# Nouns that label a value although they are not set upright.
_NOUNS = frozenset(
    names_of(
        "area perimeter volume total sum probability number value answer cost price length width"
        " height radius diameter circumference distance speed time age result solution maximum minimum"
        " difference product quotient remainder ratio average mean median mode range slope angle"
        " solutions answers values roots zeros quotients digits"
        " profit amount count vertex point center centre midpoint centroid max min gcd lcm expected"
    )
)
_REASONS = (
    "since",
    "because",
    "where",
    "attained",
    "achieved",
    "with equality",
    "as required",
    "as desired",
    "as expected",
    "as needed",
)
_ALSO = (("or",), ("=",), ("\\approx",), ("that", "is"), ("equivalently",), ("which", "is"))
_TRAILING = (
    ("only",), ("respectively",), ("exactly",), ("precisely",), ("in", "total"), ("is", "the", "answer"),
    ("is", "the", "only", "solution"), ("is", "the", "solution"), ("is", "the", "final", "answer"),
    ("works",), ("satisfies", "the", "equation"), ("satisfies", "the", "original", "equation"),
    ("satisfies", "the", "condition"), ("is", "the", "only", "answer"), ("is", "the", "correct", "answer"),
    ("as", "required"), ("as", "desired"), ("as", "expected"),
    ("as", "claimed"), ("as", "needed"),
)  # fmt: skip
_RELATING = (
    "=",
    ",",
    ";",
    "<",
    ">",
    "\\le",
    "\\ge",
    "\\leq",
    "\\geq",
    "\\ne",
    "\\neq",
    "\\approx",
    "\\in",
    "?",
)
_BOUNDING = (">", "\\ge", "\\geq", "\\geqslant", "\\in", "\\ne", "\\neq")
_SO = ("so", "thus", "hence", "therefore")
_SUMMING = ("together", "altogether", "overall", "finally", "now", "then", "afterwards", "clearly")
_LEFT = ("left", "remaining", "altogether", "total", "more", "each")
# What an amount is of: `a profit of $5`. A sum or product of numbers is another value.
_AMOUNTS = frozenset(
    names_of(
        "profit total increase distance area perimeter volume length width height radius speed cost"
        " price age weight probability value amount maximum minimum savings discount angle slope"
        " degree measure count earnings balance score"
    )
)
_WORKING = (
    "+",
    "-",
    "*",
    "/",
    "^",
    "!",
    "%",
    "\\cdot",
    "\\times",
    "\\div",
    "\\frac",
    "\\sqrt",
    "\\pm",
)
_NAMING = ("of", "that", "when", "for", "expression")
# What something counted is further told by: `12 students in the class`.
_FURTHER = frozenset(
    names_of(
        "altogether every to in of for from on that which who whose such satisfying with at by during among"
        " inside per"
    )
)
# Nouns that stand before what they name: `the point (2, -3)`, `the interval [0, 1]`.
_APPOSED = frozenset(
    names_of(
        "point points interval intervals set line lines vertex pair pairs triple triples tuple"
        " coordinates vector matrix equation function polynomial expression fraction number numbers"
        " integer integers value values prime primes root roots solution solutions zeros zeroes angle"
        " circle parabola ratio variable union volume area perimeter radius diameter circumference length"
        " width height slope measure"
    )
)
_ADJECTIVES = frozenset(
    names_of(
        "the a an final new overall grand combined ordered open closed half-open real"
        " complex unique only two three all positive negative"
    )
)
_SUCH = ("such that", "for which", "with", "where", "satisfying")
ROUNDS = 6
LONGEST_SENTENCE = 300
"""Tokens of a sentence; formulas may be longer and are read as they are."""


_DOTS = ("\\dots", "\\ldots")
_OPENED = ("=", "\\Rightarrow", "\\implies", "\\Longrightarrow", "\\to", "\\therefore")


def core(tokens: list[Token]) -> list[Token]:
    """What is said, without leads, labels and comments."""
    if len(tokens) > LONGEST_SENTENCE:
        return tokens
    tokens = _one_noun(spelled(tokens))
    while len(tokens) > 1 and str(tokens[0]) in _DOTS:
        tokens = tokens[1:]
    if len(tokens) > 1 and str(tokens[0]) in _OPENED:
        tokens = tokens[1:]
    for _ in range(ROUNDS):
        before = tokens
        tokens = counted_of(without_lead(_concluded(tokens)))
        tokens = _without_apposed(without_lead(tokens))
        tokens = _without_label(_without_comment(_without_trailing(tokens)))
        tokens = rounded(tokens)
        if tokens == before:
            break
    return tokens


def _concluded(tokens: list[Token]) -> list[Token]:
    """Without `in total,` before a sentence, and of `..., so she makes 18` what comes behind `so`."""
    depths = levels(tokens)
    commas = [n for n, token in enumerate(tokens) if str(token) == "," and not depths[n]]
    for place in reversed(commas):
        words = [token.text.lower() for token in tokens[place + 1 : place + 4]]
        rest = tokens[place + 2 :]
        if words[:1] and words[0] in _SO and len(rest) > 1 and _states(rest):
            return rest
    ended = result(tokens)
    if ended is not None and _states(tokens[: len(tokens) - len(ended)]):
        return ended
    behind = behind_reason(tokens)
    if behind is not None and (
        _states(behind) or without_lead(behind) != behind or outlined(behind) is not None
    ):
        return behind
    front, rest = (tokens[: commas[0]], tokens[commas[0] + 1 :]) if commas else ([], [])
    if len(front) > 1 and len(rest) > 2 and is_harmless(front) and _states(rest[1:]):
        return rest
    if len(front) == 1 and front[0].text.lower() in _SUMMING and _states(rest):
        return rest
    return tokens


def _states(tokens: Sequence[Token]) -> bool:
    """Whether a sentence says what something is: it has a verb before its value, or an equation."""
    return any(_link_at(tokens, n) or str(token) == "=" for n, token in enumerate(tokens))


def _one_noun(tokens: list[Token]) -> list[Token]:
    """`red and blue pens` and `boys and girls` as one thing that is counted; `3 out of 4` as 3/4."""
    kept: list[Token] = []
    place = 0
    while place < len(tokens):
        words = [token.text.lower() for token in tokens[place : place + 3]]
        half = _half_more(kept, words)
        if half:
            worth = NUMBER_WORDS.get(kept[-1].text.lower(), kept[-1].text)
            kept[-1:] = [Token("number", str(worth), kept[-1].spaced), *half]
            place += 3
        elif (
            kept
            and words[:2] == ["out", "of"]
            and {kept[-1].kind, *_kinds(tokens, place + 2)} == {"number"}
        ):
            kept.append(Token("symbol", "/"))
            place += 2
        elif (
            kept
            and len(words) > 1
            and words[0] == "and"
            and _same_sort(kept[-1], tokens[place + 1])
        ):
            place += 2
        else:
            kept.append(tokens[place])
            place += 1
    return kept


def _half_more(before: Sequence[Token], words: Sequence[str]) -> list[Token]:
    """The fraction that `three and a half` adds to its number; nothing for others."""
    number = before and (before[-1].kind == "number" or before[-1].text.lower() in NUMBER_WORDS)
    if not number or words[:2] not in (["and", "a"], ["and", "one"]) or words[2:3] == []:
        return []
    share = SHARES.get(words[2])
    if share is None:
        return []
    return [
        Token("symbol", "+"),
        Token("number", "1"),
        Token("symbol", "/"),
        Token("number", str(share)),
    ]


def _kinds(tokens: Sequence[Token], place: int) -> list[str]:
    return [token.kind for token in tokens[place : place + 1]]


def _same_sort(one: Token, other: Token) -> bool:
    """Whether both words are adjectives, or both are things that are counted."""
    if not one.kind == other.kind == "word":
        return False
    a, b = one.text.lower(), other.text.lower()
    counted = [unit(word) for word in (a, b)]
    return {a, b} <= ADJECTIVES or all(found and not found.dimension for found in counted)


def _without_apposed(tokens: list[Token]) -> list[Token]:
    """Without `the point`, and without `all x such that` before what then speaks of x."""
    place = 0
    words = [token.text.lower() for token in tokens]
    while place < len(tokens) - 1 and words[place] in _ADJECTIVES:
        place += 1
    noun = place < len(tokens) - 1 and tokens[place].kind == "word" and words[place] in _APPOSED
    amount = words[place : place + 2][-1:] == ["of"] and words[place] in _AMOUNTS
    amount = amount and not any(_link_at(tokens, n) for n in range(place + 2, len(tokens)))
    if amount and place < len(tokens) - 2 and tokens[place + 2].kind not in ("word", "letter"):
        return tokens[place + 2 :]
    if noun:
        place += 1
        after = str(tokens[place])
        if tokens[place].kind not in ("word", "letter") and after not in (*_RELATING, ":"):
            return tokens[place:]
        if words[place] == "of":
            place += 1
    named, rest = tokens[place], tokens[place + 1 :]
    if named.kind == "letter" and len(rest) > 2:
        for such in _SUCH:
            behind = rest[len(such.split()) :]
            if _starts(rest, (such,)) and named.text in [t.text for t in behind]:
                return behind
        if noun and str(rest[0]) in ("(", "=", "\\in"):
            return tokens[place:]
    return tokens


def names_a_thing(tokens: Sequence[Token]) -> bool:
    r"""Whether words name something without saying more: `\text{Area of } ABC`, `the value of x`."""
    words = [token.text.lower() for token in tokens]
    if not words or tokens[0].kind not in ("word", "letter"):
        return False
    if not _is_phrase(tokens):
        return False
    named = [token for token in tokens if token.kind == "word" and token.text not in FUNCTIONS]
    return any(token.upright or token.text.lower() in _NOUNS for token in named)


def _is_phrase(tokens: Sequence[Token]) -> bool:
    """Whether nothing relates, works out or changes; `the value of x + 1` names what is worked out."""
    texts = [str(token) for token in tokens]
    if texts[:1] in (["attained"], ["achieved"]):
        return False
    if any(text in _RELATING for text in texts) or not changes_nothing([t.lower() for t in texts]):
        return False
    naming = next((n for n, text in enumerate(texts) if text.lower() in _NAMING), len(texts))
    return not any(text in _WORKING for text in texts[:naming])


def _without_label(tokens: list[Token]) -> list[Token]:
    depths = levels(tokens)
    for place in range(len(tokens) - 1, 0, -1):
        if depths[place]:
            continue
        if str(tokens[place]) == ":":
            head, rest = tokens[:place], tokens[place + 1 :]
            if rest and _is_heading(head):
                return rest
            continue
        link = 0 if _is_aim(tokens, place) else _link_at(tokens, place)
        found = _said_of(tokens[:place], tokens[place + link :]) if link else None
        if found is not None:
            return found
    return tokens


def _is_aim(tokens: Sequence[Token], place: int) -> bool:
    """Whether a verb says what an amount before it is for: `5 cups to make 12 muffins`."""
    if str(tokens[place - 1]) != "to" or tokens[place].text in ("get", "obtain", "find", "reach"):
        return False
    return any(token.kind == "number" for token in tokens[:place])


_FORMS = ("as", "in", "written", "expressed", "rounded", "putting", "simplified")


def _is_heading(head: Sequence[Token]) -> bool:
    """`Area of the circle`, `As a percentage`: what may stand before a colon."""
    form = head[0].text.lower() in _FORMS and all(map(_is_word, head)) and not denies(head)
    if form:
        return True
    return all(t.kind != "number" for t in head) and names_a_thing(head)


def _said_of(head: list[Token], rest: list[Token]) -> list[Token] | None:
    """What a link says of its label; None where that is no label."""
    if not rest:
        return None
    if str(rest[0]) == ":" and len(rest) > 1:
        rest = rest[1:]
    if is_named_after(rest) and all(token.kind != "word" for token in head):
        # `24 is the number of zeros`
        return head
    if _names_itself(rest) and head[0].kind == "word" and not denies(head):
        # `the inverse function is f^{-1}(x) = 2x`
        return rest
    if len(head) == 1 and head[0].kind in ("letter", "command"):
        # `x is 5`
        return [*head, Token("symbol", "="), *_without_apposed(rest)]
    subject = _without_sign(_without_percent(_without_point(head), rest), rest)
    return rest if _is_subject(subject) else None


def _names_itself(tokens: Sequence[Token]) -> bool:
    """Whether an equation begins with a letter that it defines."""
    return tokens[0].kind == "letter" and any(str(t) == "=" for t in tokens[1:])


def _without_sign(head: list[Token], rest: Sequence[Token]) -> list[Token]:
    """`the negative solution`, of what is negative."""
    if str(rest[0]) != "-":
        return head
    kept = [t for n, t in enumerate(head) if [x.text for x in head[n : n + 2]] not in _NEGATIVE]
    return kept or head


_NEGATIVE = tuple(["negative", noun] for noun in ("solution", "root", "value", "number", "integer"))


def _without_point(head: list[Token]) -> list[Token]:
    """`the value of 2x + 3 at x = 4` without the point at which it is taken."""
    words = [token.text.lower() for token in head]
    if words[:3] != ["the", "value", "of"]:
        return head
    place = next(
        (n for n, w in enumerate(words) if w in ("at", "when", "where", "for") and n > 3), 0
    )
    return (
        head[:place] if place and [str(t) for t in head[place + 2 : place + 3]] == ["="] else head
    )


def _without_percent(head: list[Token], rest: Sequence[Token]) -> list[Token]:
    """`the percentage` as a subject, of what is said to be so many percent."""
    if str(rest[-1]) != "%" and rest[-1].text.lower() != "percent":
        return head
    return [t for t in head if t.text.lower() not in ("percent", "percentage")] or head


def _link_at(tokens: Sequence[Token], place: int) -> int:
    """How many tokens from a place on say that the label has a value; 0 where none do."""
    if tokens[place].kind != "word":
        return 0
    for link in _LINKS_BY_WORD.get(tokens[place].text.lower(), ()):
        words = tokens[place : place + len(link)]
        if tuple(t.text.lower() for t in words) == link and all(_is_word(t) for t in words):
            return len(link)
    modal = [token.text.lower() for token in tokens[place : place + 2] if token.kind == "word"]
    does = len(modal) == 2 and modal[0] in _MODALS and modal[1] != "be"
    return 2 if does and changes_nothing(modal[1:]) else 0


def _is_word(token: Token) -> bool:
    return token.kind == "word" or token.text == "a"


def _is_subject(tokens: Sequence[Token]) -> bool:
    first = tokens[0]
    if first.text.lower() in NUMBER_WORDS and [t.text for t in tokens[1:2]] == ["of"]:
        return False
    if _says_another(tokens):
        return False
    return _is_phrase(tokens) and (first.kind == "word" or (first.text in "aA" and len(tokens) > 1))


def _says_another(tokens: Sequence[Token]) -> bool:
    """Whether a first statement stands in front of `and`: `Tom has 5 and Ann`."""
    texts = [str(token) for token in tokens]
    if "and" not in texts:
        return False
    front = tokens[: texts.index("and")]
    links = [
        n for n in range(1, len(front)) if _link_at(front, n) and texts[n - 1] not in _NAMED_BY
    ]
    return bool(links) and any(token.kind == "number" for token in front[links[0] :])


# Before a noun that may be a verb as well: `the total cost of 3 pens and 2 books`.
_NAMED_BY = ("the", "The", "total", "a", "each")


def _without_trailing(tokens: list[Token]) -> list[Token]:
    if len(tokens) > 1 and str(tokens[-1]) == ",":
        tokens = tokens[:-1]
    for words in _TRAILING:
        end = tokens[-len(words) :]
        if len(tokens) > len(words) and tuple(t.text.lower() for t in end) == words:
            kept = tokens[: -len(words)]
            return kept[:-1] if str(kept[-1]) == "," and len(kept) > 1 else kept
    return tokens


def _without_comment(tokens: list[Token]) -> list[Token]:
    depths = levels(tokens)
    for place in range(1, len(tokens)):
        if not depths[place] and tokens[place].kind == "word" and _starts(tokens[place:], _REASONS):
            behind = [t.text.lower() for t in tokens[place:]]
            if changes_nothing(behind):
                end = place - 1 if str(tokens[place - 1]) == "," else place
                return tokens[:end] if end else tokens
            break
    tokens = without_circumstance(_without_further(_without_range(tokens)))
    if str(tokens[-1]) != ")" or len(tokens) < 4:
        return tokens
    start = (
        max(n for n, token in enumerate(tokens) if str(token) == "(" and not depths[n])
        if any(str(t) == "(" and not depths[n] for n, t in enumerate(tokens))
        else 0
    )
    inside = tokens[start + 1 : -1]
    if not start or not inside:
        return tokens
    return _commented(tokens[:start], inside) or tokens


def _without_range(tokens: list[Token]) -> list[Token]:
    """`2^n for all n`: a formula without the numbers for which it holds; a plain number stays as it is."""
    texts = [str(token) for token in tokens]
    place = next((n for n, t in enumerate(tokens) if t.kind == "word" and t.text == "for" and n), 0)
    said = texts[: texts.index(",")] if texts.count(",") == 1 else ()
    if not place and said and not set(said) & (set(_RELATING) - {"="}):
        # `f(n) = 2n - 1, n \\in \\mathbb{N}`
        place = texts.index(",")
    rest = tokens[place + 1 :]
    if not place or len(rest) < 2:
        return tokens
    names = {t.text for t in tokens[:place] if t.kind == "letter"}
    # Of a relation it would be a part: `x < 5 for x > 0`.
    if set(texts[:place]) & (set(_RELATING) - {"=", ","}):
        return tokens
    everywhere = str(rest[0]) in ("all", "every", "any", "each")
    bounded = rest[0].text in names and str(rest[1]) in _BOUNDING
    if (
        not names
        or not (everywhere or bounded)
        or not changes_nothing([t.text.lower() for t in rest])
    ):
        return tokens
    return tokens[: place - 1] if str(tokens[place - 1]) == "," else tokens[:place]


def _commented(before: list[Token], inside: list[Token]) -> list[Token] | None:
    """An answer with what stands in brackets behind it; None where that is no comment."""
    words = [token.text.lower() for token in inside]
    said = _said_again(before, inside, words)
    if said is not None:
        return said
    if _starts(inside, _REASONS) and changes_nothing(words):
        return before
    names = {token.text for token in before if token.kind == "letter"}
    related = set(map(str, before)) & (set(_RELATING) - {"="})
    if inside[0].text in names and str(inside[1:2][0] if inside[1:] else "") in _BOUNDING:
        return None if related else before
    if inside[0].kind != "word":
        return None
    if words[0] == "base":
        return [*before, *inside]
    is_unit = all(t.kind == "word" and unit(t.text) for t in inside)
    if is_unit and before[-1].kind == "number":
        return [*before, replace(inside[0], spaced=True), *inside[1:]]
    is_kind = before[-1].text in CLOSING and set(words) <= _APPOSED | _ADJECTIVES
    return before if is_kind or is_harmless(inside) else None


def _said_again(before: list[Token], inside: list[Token], words: list[str]) -> list[Token] | None:
    """`12 (twelve)`, `1/2 (= 0.5)`: both, as answers that are joined by `or`; None for other comments."""
    joint = Token("word", "or", upright=True)
    for also in _ALSO:
        if tuple(words[: len(also)]) == also and len(words) > len(also):
            if also == ("\\approx",):
                return [*before, *inside]
            rest = inside[len(also) :]
            rest = rest[1:] if str(rest[0]) in (",", ":") else rest
            return [*before, joint, *rest]
    if inside[0].kind == "number":
        # `160 minutes (2 hours and 40 minutes)`
        again = any(t.kind == "word" and unit(t.text) for t in inside)
    else:
        again = inside[0].kind == "word" and words[0] in NUMBER_WORDS
    return [*before, joint, *inside] if again else None


def _starts(tokens: Sequence[Token], phrases: Sequence[str]) -> bool:
    words = " ".join(token.text.lower() for token in tokens[:2])
    return any(words == phrase or words.startswith(f"{phrase} ") for phrase in phrases)


def _is_sized(word: str) -> bool:
    found = unit(word)
    return found is not None and bool(found.dimension)


def _without_further(tokens: list[Token]) -> list[Token]:
    """`12 students in the class`: what is counted is told more exactly, with words alone."""
    for place in range(2, len(tokens)):
        token, before = tokens[place], tokens[place - 1]
        if token.kind != "word" or token.text.lower() not in _FURTHER:
            continue
        while before.kind == "word" and before.text.lower() in _LEFT and place > 2:
            place -= 1
            before = tokens[place - 1]
        counted = unit(before.text) if before.kind == "word" else None
        if before.kind == "number" and str(tokens[place - 2]) == "\\dollar":
            counted = unit("dollar")
        rest = tokens[place:]
        words = [t.text.lower() for t in rest]
        if (
            counted is not None
            and len(rest) > 1
            and all(t.kind == "word" or t.text in ("a", "A") or words[0] == "of" for t in rest)
            and all(t.kind in ("word", "letter") for t in rest)
            and changes_nothing(words)
            and not set(words) & (set(NUMBER_WORDS) | {"remainder"})
            and not any(_is_sized(word) for word in words if word not in _FURTHER)
        ):
            return tokens[:place]
    return tokens
