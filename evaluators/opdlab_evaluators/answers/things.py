"""What an answer is: a value, a list, a tuple, a set, a region of numbers, a matrix, an equation ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import mpmath

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.expression import Tree, letters, mentions, parse, value
from opdlab_evaluators.answers.layout import APART, tidy
from opdlab_evaluators.answers.quantity import Beyond, Undefined, real
from opdlab_evaluators.answers.region import Region
from opdlab_evaluators.answers.tokens import FUNCTIONS, Token, Unread, names_of, tokens_of
from opdlab_evaluators.answers.units import LETTERS, PER, PREFIX, TAILS, Unit, unit


@dataclass(frozen=True)
class Thing:
    """An answer as it was understood.

    Attributes:
        kind: value, list, tuple, set, region, matrix, equation, relation, words, choice, numeral, ratio.
        trees: of a value, an equation (its sides), a ratio (its parts), a relation (the difference).
        items: of a list, tuple, set; of a matrix, its rows as lists.
        brackets: of a tuple.
        name: the variable that is said to have this value; of words, the words.
        unit: what follows a value; None where nothing does.
        percent: a percent sign follows.
        modulus: what follows `mod`.
        sign: of a relation: <, <=, !=.
        base: of a numeral.
    """

    kind: str
    trees: tuple[Tree, ...] = ()
    items: tuple[Thing, ...] = ()
    region: Region | None = None
    brackets: str = ""
    name: str = ""
    unit: Unit | None = None
    percent: bool = False
    modulus: Tree | None = None
    sign: str = ""
    base: int = 0


@dataclass(frozen=True)
class Context:
    """What the other answer tells of how to read this one.

    Attributes:
        letters: those that are variables, and no units.
        grouping: `1,234` is one number.
        e_is_constant: see `tokens_of`.
        own_units: words that the gold uses as units.
        is_gold: unknown words behind its number are its unit.
    """

    letters: frozenset[str] = frozenset()
    grouping: bool = True
    e_is_constant: bool = False
    own_units: frozenset[str] = frozenset()
    is_gold: bool = False
    vectors: bool = field(default=False)


DIGITS = 60
"""To which bounds of regions are known."""
OPENING = ("(", "[", "{", "\\{", "\\lbrace", "\\lfloor", "\\lceil", "\\lvert")
CLOSING = (")", "]", "}", "\\}", "\\rbrace", "\\rfloor", "\\rceil", "\\rvert")
_RELATIONS = {
    "<": "<", "\\lt": "<", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\leqq": "<=",
    ">": ">", "\\gt": ">", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=",
    "\\ne": "!=", "\\neq": "!=",
}  # fmt: skip
_OR = ("or", "\\lor", "\\vee")
_AND = ("and", "\\land", "\\wedge")
_LEADS = tuple(
    tuple(lead.split())
    for lead in (
        "the final answer is", "the correct answer is", "the answer is", "the value is", "answer is",
        "there are exactly", "there are", "there is", "there will be", "a total of", "the total is",
        "total of", "total", "we get", "i get", "we have", "we obtain", "it is", "is equal to",
        "equal to", "equals", "therefore", "thus", "so", "hence", "exactly", "simply", "just", "then",
        "is", "answer", "only", "that is", "all", "option", "choice", "in total", "she has", "he has",
        "she makes", "he makes", "they have", "it takes", "it costs",
    )
)  # fmt: skip
# Words that say more than a unit does; never taken for one, not even in a gold.
_MEANING = frozenset(
    names_of(
        "not no non less more least most than over under about approximately infinite infinitely undefined"
        " none never except mod if for when base million billion trillion thousand hundred dozen half"
        " percent negative minus plus times squared cubed factorial or and maybe perhaps cannot remainder"
        " with is at to of the too small large"
    )
)
_NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        names_of(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
            " sixteen seventeen eighteen nineteen twenty"
        )
    )
}
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_BASES |= {"ten": 10, "twelve": 12, "sixteen": 16}
_NOTHING = ("no solution", "no solutions", "empty set", "the empty set", "there are no solutions")
_ALL_REALS = ("all real numbers", "real numbers", "all reals", "any real number")


def plain_words(text: str) -> str | None:
    """The words that a text consists of, in small letters without articles; None where there is more."""
    bare = re.sub(
        r"\\(?:text(?:bf|it|rm|tt|sf)?|mathrm|mbox|operatorname|mathbf)\s?(?=\{)", "", text
    )
    bare = re.sub(r"[{}~]", " ", bare.replace("$", " ")).replace("\\ ", " ").replace("\\,", " ")
    bare = bare.strip().rstrip(".,;!").strip()
    if not re.fullmatch(r"[^\W\d_](?:[^\W\d_]|[\s'’(),/-])*", bare):
        return None
    folded = re.sub(r"[^\w]+", " ", bare.lower())
    return re.sub(r"\b(?:an?|the)\s", "", folded).strip()


def choice_of(text: str) -> str | None:
    """The letter of an answer that names one of several choices, its text behind it or not."""
    bare = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox|mathbf|boldsymbol)\s?(?=\{)", "", tidy(text))
    bare = re.sub(r"\s+", " ", re.sub(r"[{}]", " ", bare)).strip()
    bare = re.sub(r"^(?:the )?(?:answer|option|choice)(?: is)?:? ", "", bare, flags=re.IGNORECASE)
    match = re.fullmatch(
        r"\( ?([A-Z]) ?\)(?: (?!or\b|and\b).*)?|([A-Z])(?: ?[:.)] ?.*)?", bare, re.DOTALL
    )
    if match is None or re.search(r"\( ?[A-Z] ?\).*\( ?[A-Z] ?\)", bare):
        return None
    return match[1] or match[2]


def read(text: str, context: Context = Context()) -> Thing:
    """What a text says.

    Raises:
        Unread: some of it is not understood.
        Beyond: a bound of a region is too large to be worked out.
    """
    neat = tidy(text)
    tokens = tokens_of(neat, context.grouping, context.e_is_constant)
    if context.vectors:
        tokens = [_vector(token) for token in tokens]
    if not tokens:
        raise Unread("nothing")
    # Bounds of regions are worked out while reading.
    with mpmath.workdps(DIGITS):
        return _Structure(context).thing(_without_lead(tokens))


def _vector(token: Token) -> Token:
    if token.kind == "letter" and token.text in ("i", "j", "k"):
        return replace(token, text=f"vector {token.text}")
    return token


def _without_lead(tokens: list[Token]) -> list[Token]:
    """Without phrases such as `a total of`, `the answer is`."""
    for _ in range(6):
        for lead in _LEADS:
            words = [token.text.lower() for token in tokens[: len(lead)]]
            kinds = [token.kind in ("word", "letter") for token in tokens[: len(lead)]]
            if words == list(lead) and all(kinds) and len(tokens) > len(lead):
                tokens = tokens[len(lead) :]
                if str(tokens[0]) in (":", ",") and len(tokens) > 1:
                    tokens = tokens[1:]
                break
        else:
            break
    return tokens


def split(tokens: Sequence[Token], *separators: str) -> tuple[list[list[Token]], list[str]]:
    """Parts between separators that stand in no bracket, and the separators."""
    parts: list[list[Token]] = [[]]
    found, depth = [], 0
    for token in tokens:
        text = str(token)
        if text in OPENING or text.startswith("\\begin "):
            depth += 1
        elif text in CLOSING or text.startswith("\\end "):
            depth -= 1
        if depth == 0 and text in separators:
            found.append(text)
            parts.append([])
        else:
            parts[-1].append(token)
    return parts, found


def enclosed(tokens: Sequence[Token]) -> tuple[str, str] | None:
    """The outer brackets of tokens that one pair encloses, also unequal ones of an interval."""
    if len(tokens) < 2:
        return None
    first, last = str(tokens[0]), str(tokens[-1])
    if first not in ("(", "[", "{", "\\{", "\\lbrace") or last not in (
        ")",
        "]",
        "}",
        "\\}",
        "\\rbrace",
    ):
        return None
    depth = 0
    for token in tokens[1:-1]:
        depth += (str(token) in OPENING) - (str(token) in CLOSING)
        if depth < 0:
            return None
    return (first, last) if depth == 0 else None


class _Structure:
    """Reads tokens from the outside in."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def thing(self, tokens: Sequence[Token], depth: int = 0) -> Thing:
        if not tokens or depth > 30:
            raise Unread("nothing where something was expected")
        parts, separators = split(tokens, ",", ";", *_OR, *_AND)
        if len(parts) > 1:
            return self._several(parts, separators, depth)
        readings = _readings(tokens)
        if len(readings) > 1:
            things = [self._one(reading, depth) for reading in readings]
            return self._gathered(things)
        return self._one(tokens, depth)

    def _gathered(self, things: list[Thing]) -> Thing:
        r"""The readings of a \pm: two values, or twice the items of a list."""
        if all(t.kind == "equation" and len(t.trees) == 2 for t in things):
            left = {t.trees[0] for t in things}
            if len(left) == 1 and next(iter(left))[0] == "letter":
                name = next(iter(left))[1]
                things = [Thing("value", (t.trees[1],)) for t in things]
                return Thing("list", items=tuple(things), name=name)
        if all(t.kind == "set" for t in things):
            return Thing("set", items=tuple(i for t in things for i in t.items))
        return Thing("list", items=tuple(things))

    def _several(  # noqa: C901
        self, parts: list[list[Token]], separators: list[str], depth: int
    ) -> Thing:
        if not parts[-1] and separators[-1] in (",", ";"):
            parts, separators = parts[:-1], separators[:-1]
        # `a, b, and c`: the comma before the word separates nothing.
        kept: list[list[Token]] = []
        ways: list[str] = []
        for number, part in enumerate(parts):
            if not part and number and separators[number - 1] == ",":
                ways[-1] = separators[number] if number < len(separators) else ways[-1]
                continue
            if not part:
                raise Unread("nothing between two commas")
            kept.append(part)
            if number < len(separators):
                ways.append(separators[number])
        things = []
        for part in kept:
            inner = self.thing(_without_lead(part), depth + 1)
            things.append(inner)
        if len(things) == 1:
            return things[0]
        shaped = [t.kind == "region" for t in things]
        if any(shaped) and all(
            s or t.kind == "equation" or _is_real(t) for s, t in zip(shaped, things, strict=True)
        ):
            return _joined(things, ways[: len(things) - 1])
        items: list[Thing] = []
        for thing in things:
            # 3, \pm 2
            items += thing.items if thing.kind == "list" else [thing]
        shared = things[-1].unit
        if shared is not None and all(t.kind == "value" for t in items):
            # `3 and 5 cm`
            items = [replace(t, unit=shared) if t.unit is None else t for t in items]
        return Thing("list", items=tuple(items))

    def _one(self, tokens: Sequence[Token], depth: int) -> Thing:  # noqa: C901
        texts = [str(token) for token in tokens]
        if texts and texts[0].startswith("\\begin "):
            return self._matrix(tokens, depth)
        for separator, rule in (("\\cup", "or"), ("\\cap", "and")):
            parts, found = split(tokens, separator)
            if found:
                things = [self.thing(part, depth + 1) for part in parts]
                return _joined(things, [rule] * len(found))
        parts, found = split(tokens, "\\setminus", "\\backslash")
        if len(found) == 1:
            a, b = (self.thing(part, depth + 1) for part in parts)
            return Thing("region", region=regions.without(as_region(a), as_region(b)))
        parts, found = split(tokens, "\\in", "\\isin")
        if len(found) == 1 and len(parts[0]) == 1 and parts[0][0].kind == "letter":
            inside = self.thing(parts[1], depth + 1)
            return replace(as_interval(inside), name=parts[0][0].text)
        if " ".join(texts).lower() in _ALL_REALS:
            return Thing("region", region=regions.EVERYTHING)
        if texts in (["\\mathbb R"], ["\\R"], ["\\mathbf R"]):
            return Thing("region", region=regions.EVERYTHING)
        nothing = (["\\emptyset"], ["\\varnothing"], ["\\{", "\\}"])
        if texts in nothing or " ".join(texts).lower() in _NOTHING:
            return Thing("set")
        around = enclosed(tokens)
        if around is not None:
            inner = self._bracketed(tokens[1:-1], around, depth)
            if inner is not None:
                return inner
        if texts[0] in ("]", "[") and texts[-1] in ("]", "["):
            inner = self._reversed(tokens, depth)
            if inner is not None:
                return inner
        return self._statement(tokens, depth)

    def _bracketed(
        self, inside: Sequence[Token], around: tuple[str, str], depth: int
    ) -> Thing | None:
        opening, closing = around
        if opening in ("\\{", "\\lbrace"):
            built = self._builder(inside, depth)
            if built is not None:
                return built
            parts, _ = split(inside, ",", ";")
            things = [self.thing(part, depth + 1) for part in parts]
            items = [i for t in things for i in (t.items if t.kind == "list" else (t,))]
            return Thing("set", items=tuple(items))
        if opening == "{":
            return self.thing(inside, depth + 1) if closing == "}" else None
        parts, _ = split(inside, ",", ";")
        if len(parts) < 2:
            starts_matrix = str(inside[0]).startswith("\\begin ") if inside else False
            if starts_matrix or split(inside, *_RELATIONS, "=", *_OR, *_AND)[1] or enclosed(inside):
                return self.thing(inside, depth + 1)
            return None
        if _readings(inside) != [list(inside)]:
            return None
        items = tuple(self.thing(part, depth + 1) for part in parts)
        made = Thing("tuple", items=items, brackets=opening + closing)
        ends_in_infinity = any(mentions(t.trees, "infinity") for t in items)
        if opening + closing in ("(]", "[)") or (len(items) == 2 and ends_in_infinity):
            return as_interval(made)
        return made

    def _reversed(self, tokens: Sequence[Token], depth: int) -> Thing | None:
        """`]1, 3]`, as some countries write an open end."""
        first, last = str(tokens[0]), str(tokens[-1])
        if first == "[" and last == "]":
            return None
        parts, _ = split(tokens[1:-1], ",", ";")
        if len(parts) != 2:
            return None
        items = tuple(self.thing(part, depth + 1) for part in parts)
        brackets = ("(" if first == "]" else "[") + (")" if last == "[" else "]")
        return as_interval(Thing("tuple", items=items, brackets=brackets))

    def _builder(self, inside: Sequence[Token], depth: int) -> Thing | None:
        r"""`\{x : x > 3\}`, `\{x \in \mathbb{R} \mid x > 3\}`."""
        if not inside or inside[0].kind != "letter":
            return None
        domain: list[Token] = []
        rest = list(inside[1:])
        if rest and str(rest[0]) == "\\in":
            place = next(
                (n for n, t in enumerate(rest) if str(t) in (":", "|", "\\mid")), len(rest)
            )
            domain, rest = rest[1:place], rest[place:]
        if not rest or str(rest[0]) not in (":", "|", "\\mid"):
            return None
        found = self.thing(rest[1:], depth + 1)
        shape = as_region(found)
        if domain:
            shape = regions.intersection(shape, as_region(self.thing(domain, depth + 1)))
        if found.name not in ("", inside[0].text):
            raise Unread("a set of another variable")
        return Thing("region", region=shape)

    def _matrix(self, tokens: Sequence[Token], depth: int) -> Thing:
        name = tokens[0].text.removeprefix("begin ")
        if str(tokens[-1]) != f"\\end {name}":
            raise Unread(f"something behind a {name}")
        kinds = (
            "matrix",
            "pmatrix",
            "bmatrix",
            "vmatrix",
            "Bmatrix",
            "Vmatrix",
            "smallmatrix",
            "array",
        )
        if name.rstrip("*") not in kinds:
            raise Unread(f"\\begin{{{name}}}")
        rows, _ = split(tokens[1:-1], "\\\\")
        if not rows[-1]:
            rows = rows[:-1]
        table = []
        for row in rows:
            cells, _ = split(row, "&")
            table.append(Thing("row", items=tuple(self.thing(cell, depth + 1) for cell in cells)))
        if len({len(row.items) for row in table}) != 1:
            raise Unread("a matrix of unequal rows")
        return Thing("matrix", items=tuple(table), brackets="|" if name[0] in "vV" else "")

    def _statement(self, tokens: Sequence[Token], depth: int) -> Thing:
        parts, found = split(tokens, *_RELATIONS)
        if found:
            return self._relation(parts, [_RELATIONS[sign] for sign in found])
        parts, found = split(tokens, "=", "\\equiv")
        if found:
            return self._equation(parts, depth)
        numeral = _numeral(tokens)
        if numeral is not None:
            return numeral
        parts, found = split(tokens, ":")
        if found:
            return self._ratio(parts)
        return self.quantity(tokens)

    def _ratio(self, parts: list[list[Token]]) -> Thing:
        last, tail = self._unit(parts[-1])
        trees = [parse(part) for part in [*parts[:-1], last]]
        return Thing("ratio", tuple(trees), unit=tail)

    def _equation(self, parts: list[list[Token]], depth: int) -> Thing:
        named = enclosed(parts[0])
        if len(parts) == 2 and named and any(t.text == "," for t in parts[0]):
            names, _ = split(parts[0][1:-1], ",")
            if all(len(name) == 1 and name[0].kind == "letter" for name in names):
                return self.thing(parts[1], depth + 1)
        name = _named(parts[0])
        if len(parts) == 2 and name:
            right = self.thing(parts[1], depth + 1)
            if right.kind != "value":
                return replace(right, name=name) if right.kind != "equation" else right
            return replace(
                right, kind="equation", name=name, trees=(("letter", name), *right.trees)
            )
        *others, last = parts
        things = [self.quantity(part) for part in others if _named(part) is None]
        end = self.quantity(last)
        trees = (*(t.trees[0] for t in things), end.trees[0])
        if name and things:
            trees = (("letter", name), *trees)
        return replace(end, kind="equation", name=name or "", trees=trees)

    def _relation(self, parts: list[list[Token]], signs: list[str]) -> Thing:
        trees = [parse(self._unit(part)[0]) for part in parts]
        names = {name for tree in trees for name in letters(tree)}
        if len(names) == 1:
            (name,) = names
            shapes = []
            for left, sign, right in zip(trees, signs, trees[1:], strict=False):
                shape = _solved(left, sign, right, name)
                if shape is None:
                    break
                shapes.append(shape)
            else:
                return Thing("region", region=regions.intersection(*shapes), name=name)
        if len(signs) != 1 or not names:
            raise Unread("inequalities that are not solved")
        left, right, sign = trees[0], trees[1], signs[0]
        if sign in (">", ">="):
            left, right, sign = right, left, {">": "<", ">=": "<="}[sign]
        return Thing("relation", (("add", left, ("minus", right)),), sign=sign)

    def quantity(self, tokens: Sequence[Token]) -> Thing:
        """A value with what may follow it: a unit, a percent sign, `\\pmod`."""
        tokens, modulus = self._modulus(list(tokens))
        if tokens and str(tokens[0]) == "\\dollar":
            tail = unit("dollar")
            rest, own = self._unit(tokens[1:])
            return Thing(
                "value",
                (parse(rest),),
                unit=own if own and own.dimension else tail,
                modulus=modulus,
            )
        if len(tokens) > 1 and tokens[0].text == "-" and str(tokens[1]) == "\\dollar":
            return replace(self.quantity([tokens[0], *tokens[2:]]), unit=unit("dollar"))
        tokens, percent = _percent(tokens)
        tokens, tail = self._unit(tokens)
        if not tokens:
            raise Unread("a unit without a number")
        worded = _worded(tokens)
        tree = worded if worded is not None else parse(tokens)
        if tail is None and mentions(tree, "degrees") and not _inside_angles(tree):
            tail = unit("degree")
        return Thing("value", (tree,), unit=tail, percent=percent, modulus=modulus)

    def _modulus(self, tokens: list[Token]) -> tuple[list[Token], Tree | None]:
        texts = [str(token) for token in tokens]
        for place, text in enumerate(texts):
            if text == "\\pmod" and place:
                return tokens[:place], parse(tokens[place + 1 :])
            if (
                text == "("
                and texts[place + 1 : place + 2] in (["\\mod"], ["\\bmod"], ["mod"])
                and place
            ):
                return tokens[:place], parse(tokens[place + 2 : -1])
            if text == "mod" and place:
                return tokens[:place], parse(tokens[place + 1 :])
        return tokens, None

    def _unit(self, tokens: Sequence[Token]) -> tuple[list[Token], Unit | None]:
        """The tokens before a unit that ends them, and the unit."""
        tokens = list(tokens)
        tokens = self._without_tail(tokens)
        if tokens and str(tokens[-1]) == "\\dollar":
            return tokens[:-1], unit("dollar")
        marks = 0
        while tokens and str(tokens[-1]) == "'" and marks < 2:
            tokens, marks = tokens[:-1], marks + 1
        if marks and tokens and tokens[-1].kind == "number":
            return tokens, unit("foot" if marks == 1 else "inch")
        for place in range(1, len(tokens)):
            if self._may_begin_unit(tokens, place):
                found = self._units_from(tokens[place:])
                if found is not None:
                    return tokens[:place], found
        return tokens, None

    def _without_tail(self, tokens: list[Token]) -> list[Token]:
        for tail in TAILS:
            words = tuple(token.text.lower() for token in tokens[-len(tail) :])
            if words == tail and len(tokens) > len(tail) and tokens[-1].kind == "word":
                return tokens[: -len(tail)]
        return tokens

    def _may_begin_unit(self, tokens: Sequence[Token], place: int) -> bool:
        token, before = tokens[place], tokens[place - 1]
        if token.kind not in ("word", "letter") or str(before) in (
            "+", "-", "*", "/", "^", "_", "(", "[", "\\cdot", "\\times", "\\sqrt", "\\frac", "{",
        ):  # fmt: skip
            return False
        if token.text in FUNCTIONS:
            return False
        if len(token.text) == 1:
            return token.upright and token.text not in self.context.letters
        if not token.upright and not token.spaced and before.kind != "number":
            return False
        return not set(token.text) <= self.context.letters

    def _units_from(self, tokens: Sequence[Token]) -> Unit | None:
        r"""The unit that tokens are: `cm^2`, `square feet`, `km/h`, `dollars per hour`; or None."""
        made, place, sign, prefix = Unit(), 0, 1, 1
        expecting = True
        while place < len(tokens):
            token = tokens[place]
            text = token.text
            if text in ("/", "per", "a", "an", "each", "every") and not expecting and text in PER:
                sign, expecting, place = -1, True, place + 1
                continue
            if str(token) in ("\\cdot", "\\times", "*") and not expecting:
                expecting, place = True, place + 1
                continue
            if text.lower() in PREFIX and token.kind == "word":
                prefix, place = PREFIX[text.lower()], place + 1
                continue
            one = self._known(token)
            if one is None:
                return None
            place += 1
            exponent = prefix
            if place < len(tokens) and tokens[place].text == "^":
                exponent, place = _small_exponent(tokens, place + 1)
                if exponent == 0:
                    return None
            made = made.times(one, sign * exponent)
            prefix, expecting = 1, False
        return None if expecting and prefix == 1 and not made.dimension and place == 0 else made

    def _known(self, token: Token) -> Unit | None:
        if token.kind == "letter" and (not token.upright or token.text not in LETTERS):
            return None
        if token.kind not in ("word", "letter"):
            return None
        if token.kind == "word" and len(token.text) == 1 and token.text not in LETTERS:
            return None
        found = unit(token.text)
        if found is not None:
            return found
        if token.text.lower() in self.context.own_units:
            return Unit()
        if (
            self.context.is_gold
            and token.upright
            and token.text.lower() not in _MEANING
            and len(token.text) > 2
        ):
            return Unit()
        return None


def _readings(tokens: Sequence[Token]) -> list[list[Token]]:
    r"""Both readings of \pm and \mp, upper signs first; the tokens alone where there is none."""
    if not any(str(token) in ("\\pm", "\\mp") for token in tokens):
        return [list(tokens)]
    found = []
    for plus, minus in (("+", "-"), ("-", "+")):
        signs = {"\\pm": plus, "\\mp": minus}
        found.append(
            [Token("symbol", signs[str(t)], t.spaced) if str(t) in signs else t for t in tokens]
        )
    return found


def _percent(tokens: list[Token]) -> tuple[list[Token], bool]:
    if tokens and (
        str(tokens[-1]) == "%"
        or (tokens[-1].kind == "word" and tokens[-1].text.lower() == "percent")
    ):
        return tokens[:-1], True
    words = [token.text.lower() for token in tokens[-2:]]
    if words == ["per", "cent"]:
        return tokens[:-2], True
    return tokens, False


def _worded(tokens: Sequence[Token]) -> Tree | None:
    """`eighteen`, `eighteen (18)`."""
    word = _NUMBER_WORDS.get(tokens[0].text.lower()) if tokens[0].kind == "word" else None
    if word is None:
        return None
    rest = [str(token) for token in tokens[1:]]
    if rest in ([], ["(", str(word), ")"]):
        return ("number", Fraction(word))
    raise Unread(f"the word {tokens[0].text!r}")


def _small_exponent(tokens: Sequence[Token], place: int) -> tuple[int, int]:
    texts = [str(token) for token in tokens[place : place + 4]]
    if texts[:1] and texts[0].isdigit() and len(texts[0]) == 1:
        return int(texts[0]), place + 1
    if texts[:1] == ["{"] and texts[2:3] == ["}"] and texts[1].isdigit() and len(texts[1]) == 1:
        return int(texts[1]), place + 3
    if texts[0:2] == ["{", "-"] and texts[3:4] == ["}"] and texts[2].isdigit():
        return -int(texts[2]), place + 4
    return 0, place


def _named(tokens: Sequence[Token]) -> str | None:
    """The variable or function, `x`, `x_1`, `f(x)`, that the left side of an equation names."""
    texts = [str(token) for token in tokens]
    if not texts or (
        tokens[0].kind != "letter" and texts[0] not in ("\\theta", "\\alpha", "\\lambda")
    ):
        return None
    rest = texts[1:]
    name = texts[0]
    if rest[:1] == ["_"]:
        end = 2 if rest[1:2] != ["{"] else (rest.index("}") + 1 if "}" in rest else len(rest))
        name += "_" + "".join(t for t in rest[1:end] if t not in "{}")
        rest = rest[end:]
    if not rest:
        return None if name in ("e", "i") else name
    if (
        rest[0] == "("
        and rest[-1] == ")"
        and all(
            t.kind == "letter" or t.text == "," for t in tokens[len(texts) - len(rest) + 1 : -1]
        )
    ):
        return "".join(texts)
    return None


def _numeral(tokens: Sequence[Token]) -> Thing | None:
    """Digits with a base behind them: `10101_2`, `1A_{16}`, `52_{\\text{eight}}`, `(101)_2`."""
    texts = [str(token) for token in tokens]
    if "_" in texts:
        place = texts.index("_")
        digits = [t for t in texts[:place] if t not in ("(", ")", "{", "}")]
        base = [t for t in texts[place + 1 :] if t not in ("{", "}", "(", ")")]
    elif "base" in texts:
        place = texts.index("base")
        digits, base = texts[:place], texts[place + 1 :]
        if digits[-1:] == ["in"]:
            digits = digits[:-1]
    else:
        return None
    if (
        not digits
        or len(base) != 1
        or not all(
            t.kind in ("number", "letter", "word") or str(t) in "(){}" for t in tokens[:place]
        )
    ):
        return None
    written = "".join(digits).upper()
    number = int(base[0]) if base[0].isdigit() and len(base[0]) < 3 else _BASES.get(base[0].lower())
    if number is None or not 2 <= number <= 36 or (not digits[0][0].isdigit() and number <= 10):
        return None
    if not written.isalnum() or len(written) > 1000:
        return None
    return Thing("numeral", name=written, base=number)


def _is_real(thing: Thing) -> bool:
    return thing.kind in ("value", "set", "tuple")


def _joined(things: Sequence[Thing], ways: Sequence[str]) -> Thing:
    """Regions joined by `or`, `and` or commas; a comma means both where both can be."""
    names = {thing.name for thing in things if thing.name}
    if len(names) > 1:
        raise Unread("regions of several variables")
    found = as_region(things[0])
    for way, thing in zip(ways, things[1:], strict=True):
        other = as_region(thing)
        if way in (*_OR, "or"):
            found = regions.union(found, other)
        elif way in (*_AND, "and"):
            found = regions.intersection(found, other)
        else:
            found = regions.intersection(found, other) or regions.union(found, other)
    return Thing("region", region=found, name=names.pop() if names else "")


def number_of(tree: Tree) -> Any:
    """The real value of a tree without letters.

    Raises:
        Unread: it has letters, or is not real.
    """
    if letters(tree):
        raise Unread("a bound with letters")
    try:
        found = real(value(tree, {}))
    except Undefined as error:
        raise Unread(str(error)) from error
    if mpmath.im(found) != 0 or mpmath.isnan(found):
        raise Unread("a bound that is not real")
    return mpmath.re(found)


def as_interval(thing: Thing) -> Thing:
    """A tuple of two bounds as the interval that it may be; others as they are."""
    if thing.kind != "tuple" or len(thing.items) != 2:
        return thing
    low, high = (number_of(item.trees[0]) for item in thing.items if item.trees)
    opening, closing = thing.brackets
    shape = regions.interval(low, high, opening == "[", closing == "]")
    if not shape:
        raise Unread("an interval that is empty")
    return Thing("region", region=shape, name=thing.name)


def as_region(thing: Thing) -> Region:
    """The numbers that a thing holds.

    Raises:
        Unread: it holds no numbers.
    """
    thing = as_interval(thing)
    if thing.region is not None:
        return thing.region
    if thing.kind == "value":
        return regions.points([number_of(thing.trees[0])])
    if thing.kind == "equation" and len(thing.trees) == 2 and thing.name:
        return regions.points([number_of(thing.trees[1])])
    if thing.kind in ("set", "list"):
        return regions.points([number_of(i.trees[0]) for i in thing.items if i.trees])
    raise Unread(f"a {thing.kind} where numbers were expected")


def _solved(left: Tree, sign: str, right: Tree, name: str) -> Region | None:
    """Where an inequality holds that is linear in its letter, inside of bars or not; None for others."""
    if left == ("minus", ("constant", "infinity")) or right == ("constant", "infinity"):
        return regions.EVERYTHING if sign in ("<", "<=") else None
    if right == ("minus", ("constant", "infinity")) or left == ("constant", "infinity"):
        return regions.EVERYTHING if sign in (">", ">=") else None
    if right[0] == "absolute" and not letters(left):
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}[sign]
        left, right, sign = right, left, turned
    if left[0] == "absolute" and not letters(right):
        inside, bound = left[1], number_of(right)
        both = [
            _solved(inside, sign, ("number", bound), name),
            _solved(("minus", inside), sign, ("number", bound), name),
        ]
        if None in both:
            return None
        join = regions.union if sign in (">", ">=") else regions.intersection
        return join(*both)  # pyright: ignore[reportArgumentType]
    difference = ("add", left, ("minus", right))
    try:
        at = [real(value(difference, {name: Fraction(x)})) for x in (0, 1, 2, 7)]
    except (Undefined, Beyond):
        return None
    if any(mpmath.im(x) != 0 or not mpmath.isfinite(x) for x in at):
        return None
    slope = at[1] - at[0]
    scale = max(1, *[abs(x) for x in at])
    if slope == 0 or any(
        abs(at[0] + slope * x - y) > regions.CLOSE * scale for x, y in ((2, at[2]), (7, at[3]))
    ):
        return None
    return _half_line(-at[0] / slope, sign, slope > 0)


def _half_line(bound: Any, sign: str, upwards: bool) -> Region:
    if sign == "!=":
        return regions.without(regions.EVERYTHING, regions.points([bound]))
    closed = sign in ("<=", ">=")
    if (sign in ("<", "<=")) == upwards:
        return regions.interval(-regions.INFINITY, bound, False, closed)
    return regions.interval(bound, regions.INFINITY, closed, False)


def _inside_angles(tree: Any) -> bool:
    """Whether all degrees of a tree stand in functions of angles."""
    if not isinstance(tree, tuple):
        return True
    if tree and tree[0] == "degrees":
        return False
    if tree[:1] == ("function",) and tree[1] in ("sin", "cos", "tan", "cot", "sec", "csc"):
        return True
    return all(_inside_angles(part) for part in tree)


def ambiguous_list(text: str) -> bool:
    """Whether a gold such as `100,200` may be two numbers as well as one."""
    groups = text.replace(APART, "").split(",")
    return len(groups) > 1 and all(re.fullmatch(r"[1-9]\d\d", group.strip()) for group in groups)


def words_of_unit(tokens: Sequence[Token]) -> frozenset[str]:
    """Words of a gold, which its answers may use as units too."""
    return frozenset(
        token.text.lower()
        for token in tokens
        if token.kind == "word" and token.upright and token.text.lower() not in _MEANING
    )
