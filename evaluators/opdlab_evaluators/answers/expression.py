"""Expressions: tokens to a tree."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from opdlab_evaluators.answers.repeating import repeating
from opdlab_evaluators.answers.tokens import CHANGING, FUNCTIONS, Token, Unread, names_of
from opdlab_evaluators.answers.trees import Tree

DEEPEST = 60
"""Brackets in brackets."""
_GREEK = names_of(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho"
    " varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega"
    " ell hbar"
)
_CONSTANTS = {"pi": "pi", "infty": "infinity", "imath": "i", "mathrm e": "e"}
_INFIX: dict[str, str] = dict.fromkeys(
    ("*", "\\cdot", "\\cdotp", "\\times", "\\ast", "of"), "times"
)
_INFIX |= {"/": "over", "\\div": "over", "\\bmod": "modulo", "\\mod": "modulo", "%": "percent"}
UNSUPPORTED = ("int", "sum", "prod", "lim", "iint", "oint", "partial", "nabla")
_OPENING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_OPENING |= {"\\lvert": "\\rvert", "\\{": "\\}", "\\lbrace": "\\rbrace"}
_ENDING = ("\\rfloor", "\\rceil", "\\rvert", "\\rVert", "\\rbrace", "\\bmod", "\\mod")
_NORMS = {"\\lVert": "\\rVert", "\\Vert": "\\Vert", "\\|": "\\|"}
_CHOOSING = {"C": "binomial", "P": "arrangements"}


class Unsupported(Unread):
    """Mathematics that this reader knows of and does not work out, such as an integral."""


def parse(tokens: Sequence[Token]) -> Tree:
    """The tree of an expression that all the tokens are.

    Raises:
        Unread: they are no expression; Unsupported: one with integrals or sums.
    """
    reader = _Reader(tokens)
    tree = reader.total()
    if reader.peek() is not None:
        raise Unread(f"{reader.peek()} behind an expression")
    return tree


class _Reader:
    """Recursive descent. Two numbers side by side are never multiplied."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens, self.place, self.depth = tokens, 0, 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str | None:
        place = self.place + ahead
        return str(self.tokens[place]) if place < len(self.tokens) else None

    def kind(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place].kind if place < len(self.tokens) else "end"

    def take(self, expected: str | None = None) -> Token:
        token = self.tokens[self.place] if self.place < len(self.tokens) else None
        if token is None:
            raise Unread("the end where more was expected")
        if expected is not None and str(token) != expected:
            raise Unread(f"{token} where {expected} was expected")
        self.place += 1
        return token

    def total(self) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unread(f"brackets more than {DEEPEST} deep")
        tree = self.signed()
        while self.peek() in ("+", "-"):
            sign = str(self.take())
            term = self.signed()
            tree = ("add", tree, ("minus", term) if sign == "-" else term)
        self.depth -= 1
        return tree

    def signed(self) -> Tree:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= str(self.take()) == "-"
        tree = self.product()
        return ("minus", tree) if negative else tree

    def product(self) -> Tree:
        tree, number = self.power(), self._was_number()
        while (text := self.peek()) is not None:
            operation = _INFIX.get(text)
            if operation == "percent":
                # `5\% of 100`; a percent sign that ends a value is taken off before.
                self.take()
                tree, number = ("over", tree, ("number", Fraction(100))), False
            elif operation is not None and (text != "of" or tree[0] == "over"):
                self.take()
                tree, number = (operation, tree, self.signed_power()), False
            elif number and text == "\\frac" and self._plain_fraction():
                tree, number = ("add", tree, self.power()), False
            elif self._mixed_slash(number):
                above, _, below = (self.take() for _ in range(3))
                part = Fraction(int(above.text), int(below.text))
                tree, number = ("add", tree, ("number", part)), False
            elif self.kind() == "number" and self._chosen(tree):
                tree, number = self._choice(tree), False
            elif self.kind() == "number" and not _takes_number(tree):
                raise Unread("numbers that stand apart")
            elif self._begins() or self.kind() == "number":
                tree, number = ("times", tree, self.power()), False
            else:
                break
        return tree

    def _was_number(self) -> bool:
        """Whether what was just read is one integer, written out, and no more."""
        token = self.tokens[self.place - 1]
        return (
            token.kind == "number"
            and token.text.isdigit()
            and (
                self.place < 2
                or str(self.tokens[self.place - 2])
                in ("+", "-", "(", "[", "{", "\\{", "|", "\\lvert")
                or str(self.tokens[self.place - 2]) in ("\\pm", "\\mp")
            )
        )

    def _plain_fraction(self) -> bool:
        """Whether a fraction of two numbers comes that is smaller than 1: 1 4/5."""
        texts = [self.peek(n) or "" for n in range(1, 7)]
        if texts[0] == "{":
            above, rest = texts[1], texts[2:]
            if rest[0] != "}":
                return False
            rest = rest[1:]
        elif self.kind(1) == "number" and len(texts[0]) == 2:
            return self._mixed_number(texts[0][0], texts[0][1])
        else:
            above, rest = texts[0], texts[1:]
        below = rest[1] if rest[0] == "{" else rest[0]
        return self._mixed_number(above, below)

    @staticmethod
    def _mixed_number(above: str, below: str) -> bool:
        # \frac45 has its two digits in one number.
        if not above.isdigit() or not below.isdigit():
            return False
        return 0 < int(above) < int(below) if len(above) < 20 and len(below) < 20 else False

    def _mixed_slash(self, number: bool) -> bool:
        if not number or self.kind() != "number" or self.peek(1) != "/" or self.kind(2) != "number":
            return False
        if not self.tokens[self.place].spaced:
            return False
        if self.peek(3) in ("!", "^", "_"):
            return False
        return self._mixed_number(str(self.peek()), str(self.peek(2)))

    def _begins(self) -> bool:
        """Whether a factor begins here without a sign of multiplication."""
        text, kind = self.peek() or "", self.kind()
        if kind in ("letter", "word", "command"):
            return text not in _ENDING
        return text in ("(", "[", "{") or (text == "|" and not self.bars)

    def signed_power(self) -> Tree:
        if self.peek() in ("+", "-"):
            sign = str(self.take())
            tree = self.signed_power()
            return ("minus", tree) if sign == "-" else tree
        return self.power()

    def power(self) -> Tree:
        tree = self._postfix(self.atom())
        if self.peek() == "^":
            self.take()
            if self.peek() == "\\circ" or [self.peek(n) for n in range(3)] == ["{", "\\circ", "}"]:
                for _ in range(3 if self.peek() == "{" else 1):
                    self.take()
                return self._postfix(("degrees", tree))
            tree = self._postfix(("power", tree, self.argument(exponent=True)))
        elif self.peek() in ("\\degree", "\\degrees"):
            self.take()
            tree = ("degrees", tree)
        return tree

    def _postfix(self, tree: Tree) -> Tree:
        while self.peek() == "!":
            self.take()
            step = 1
            if self.peek() == "!":
                self.take()
                step = 2
                if self.peek() == "!":
                    raise Unread("!!!")
            tree = ("factorial", tree, step)
        return tree

    def argument(self, exponent: bool = False) -> Tree:
        """A group in braces, or one digit, letter or command; the rest of a number stays.

        Args:
            exponent: `10^-5` and `2^10`, as people type them, are read whole.
        """
        if self.peek() == "{":
            return self.group()
        if self.peek() == "-" and exponent:
            self.take()
            return ("minus", self.argument(exponent))
        if self.kind() == "number" and not exponent:
            token = self.take()
            if len(token.text) > 1 and token.text.isdigit():
                # `\frac12`: the next argument is the rest.
                self.place -= 1
                rest = Token("number", token.text[1:])
                self.tokens = [
                    *self.tokens[: self.place],
                    rest,
                    *self.tokens[self.place + 1 :],
                ]
            return ("number", Fraction(token.text[:1] if token.text.isdigit() else token.text))
        return self.atom()

    def group(self) -> Tree:
        opening = str(self.take())
        tree = self.total()
        self.take(_OPENING[opening])
        return tree

    def atom(self) -> Tree:
        text, kind = self.peek(), self.kind()
        if text is None:
            raise Unread("the end where more was expected")
        chosen = self._chosen_before()
        if chosen is not None:
            return chosen
        if text in ("(", "[", "{"):
            return self.group()
        if text in ("|", "\\lvert", "\\vert", *_NORMS):
            return self.absolute()
        if text in ("\\lfloor", "\\lceil"):
            name = "floor" if text == "\\lfloor" else "ceil"
            return ("function", name, self.group())
        token = self.take()
        if kind == "number":
            return self.number(token)
        if kind == "letter":
            return self.letter(token.text)
        if kind == "word":
            return self.word(token)
        if kind == "command":
            return self.command(token.text)
        raise Unread(f"{text}")

    def absolute(self) -> Tree:
        opening = str(self.take())
        closing = {"\\lvert": "\\rvert", **_NORMS}.get(opening, opening)
        if opening in _NORMS and self.peek() in ("(", "[") and self._is_listed():
            tree = ("number", Fraction(0))
            for part in self.listed():
                tree = ("add", tree, ("power", part, ("number", Fraction(2))))
            self.take(closing)
            return ("root", tree, ("number", Fraction(2)))
        self.bars += 1
        tree = self.total()
        self.bars -= 1
        self.take(closing)
        return ("absolute", tree)

    def number(self, token: Token) -> Tree:
        value, self.place = repeating(token, self.tokens, self.place)
        return ("number", value)

    def _is_listed(self) -> bool:
        """Whether a bracket with a comma comes."""
        depth = 0
        for token in self.tokens[self.place :]:
            text = str(token)
            depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
            if depth == 1 and text in (",", ";"):
                return True
            if depth == 0:
                return False
        return False

    def _chosen(self, tree: Tree) -> bool:
        """Whether `5C` stands before the number that comes: `5C2`."""
        before = [str(t) for t in self.tokens[self.place - 2 : self.place]]
        return (
            tree[0] == "times"
            and tree[2] in (("letter", "C"), ("letter", "P"))
            and tree[1][0] == "number"
            and len(before) == 2
            and before[0].isdigit()
            and not any(t.spaced for t in self.tokens[self.place - 1 : self.place + 1])
        )

    def _choice(self, tree: Tree) -> Tree:
        return (_CHOOSING[tree[2][1]], tree[1], self.atom())

    def _chosen_before(self) -> Tree | None:
        """`{}_5C_2`, `^5P_2`: ways to choose or to arrange with the larger number before the letter."""
        place = self.place
        if self.peek() == "{" and self.peek(1) == "}":
            self.place += 2
        if self.peek() in ("_", "^"):
            self.take()
            above = self.argument(exponent=True)
            if self.peek() == "{" and self.peek(1) == "}":
                self.place += 2
            name = self.peek()
            if name in _CHOOSING and self.peek(1) == "_":
                self.place += 2
                return (_CHOOSING[name], above, self.argument(exponent=True))
        self.place = place
        return None

    def _chosen_behind(self, name: str) -> Tree | None:
        """`C(5,2)`, `C_5^2` and `C^2_5`: the larger number is the one that is chosen from."""
        if self.peek() == "(" and self._is_listed():
            found = self.listed()
            return (_CHOOSING[name], *found) if len(found) == 2 else None
        place, found = self.place, []
        for _ in range(2):
            if self.peek() not in ("_", "^") or self.kind(1) not in ("number", "symbol"):
                break
            sign = self.peek()
            self.take()
            found.append((sign, self.argument(exponent=True)))
        if len(found) == 2 and all(tree[0] == "number" for _, tree in found):
            return (_CHOOSING[name], *sorted((t for _, t in found), key=lambda t: -t[1]))
        self.place = place
        return None

    def letter(self, name: str) -> Tree:
        chosen = self._chosen_behind(name) if name in _CHOOSING else None
        if chosen is not None:
            return chosen
        if self.peek() == "_":
            self.take()
            name = f"{name}_{self.subscript()}"
        if self.peek() == "'":
            raise Unread("a prime")
        if name in ("e", "i"):
            return ("constant", name)
        return ("letter", name)

    def subscript(self) -> str:
        if self.peek() != "{":
            return str(self.take())
        self.take()
        parts = []
        while self.peek() not in ("}", None):
            parts.append(str(self.take()))
        self.take("}")
        return "".join(parts)

    def word(self, token: Token) -> Tree:
        name = token.text
        if name in FUNCTIONS:
            return self.function(name)
        if name in _CHOOSING:
            return self.letter(name)
        if name.lower() == "infinity":
            return ("constant", "infinity")
        if token.upright:
            raise Unread(f"the word {name!r}")
        for known in FUNCTIONS:
            if name.startswith(known) and len(name) == len(known) + 1:
                # `sinx`, `lnx`
                self.place -= 1
                self._replace([Token("word", known), Token("letter", name[-1])])
                return self.atom()
        if len(name) > 6 or self._is_prose(token):
            raise Unread(f"the word {name!r}")
        self.place -= 1
        self._replace([Token("letter", letter) for letter in name])
        return self.atom_times(len(name))

    def _is_prose(self, token: Token) -> bool:
        """Whether a word has a blank between it and another: `Try x`, and no product of letters."""
        if len(token.text) < 3 and token.text.lower() not in CHANGING:
            return False
        before, after = self.place - 2, self.place
        if before >= 0 and token.spaced and self.tokens[before].kind in ("word", "letter"):
            return True
        following = self.tokens[after : after + 1]
        return any(t.spaced and t.kind in ("word", "letter") for t in following)

    def _replace(self, new: list[Token]) -> None:
        self.tokens = [*self.tokens[: self.place], *new, *self.tokens[self.place + 1 :]]

    def atom_times(self, count: int) -> Tree:
        """Letters side by side but the last, which may have an exponent, times what the last is."""
        tree = self.letter(self.take().text)
        for number in range(1, count):
            letter = self.letter(self.take().text)
            if number == count - 1 and self.peek() in ("^", "!"):
                if self.peek() == "^":
                    self.take()
                    letter = ("power", letter, self.argument(exponent=True))
                letter = self._postfix(letter)
            tree = ("times", tree, letter)
        return tree

    def command(self, name: str) -> Tree:
        if name in _CONSTANTS:
            return ("constant", _CONSTANTS[name])
        called = name == "Gamma" or (name == "zeta" and self.kind(1) == "number")
        if called and self.peek() == "(":
            return ("function", name.lower(), self.group())
        if name in _GREEK:
            return self.letter(f"\\{name}")
        if name == "sqrt":
            return self.root()
        if name in FUNCTIONS:
            return self.function(name)
        if name == "frac":
            above = self.argument()
            return ("over", above, self.argument())
        if name in ("binom", "dbinom", "tbinom"):
            above = self.argument()
            return ("binomial", above, self.argument())
        if name in ("overline", "bar") and self.peek() == "{" and self.kind(1) == "letter":
            inside = self.subscript()
            return ("letter", f"over {inside}")
        if name in UNSUPPORTED:
            raise Unsupported(f"\\{name}")
        raise Unread(f"\\{name}")

    def root(self) -> Tree:
        degree: Tree = ("number", Fraction(2))
        if self.peek() == "[":
            degree = self.group()
        if self.peek() == "(":
            inside = self.group()
        elif self.kind() == "number":
            inside = self.number(self.take())  # nobody means `\\sqrt{1}3` by `\\sqrt13`
        else:
            inside = self.argument()
        return ("root", inside, degree)

    def function(self, name: str) -> Tree:
        if name == "sqrt":
            return self.root()
        base, exponent = None, None
        for _ in range(2):
            if self.peek() == "_" and name in ("log", "ln", "lg"):
                self.take()
                base = self.argument()
            elif self.peek() == "^":
                self.take()
                exponent = self.argument(exponent=True)
        if name in ("gcd", "lcm", "max", "min"):
            return ("several", name, self.listed())
        if exponent == ("minus", ("number", Fraction(1))) and name in (
            "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh",
        ):  # fmt: skip
            if name.endswith("h"):
                raise Unread(f"\\{name}^-1")
            name, exponent = f"arc{name}", None
        inside = self.operand()
        if name in ("log", "lg") or base is not None:
            tree = ("logarithm", inside, base or ("number", Fraction(10)))
        elif name == "abs":
            tree = ("absolute", inside)
        else:
            tree = ("function", name, inside)
        return tree if exponent is None else ("power", tree, exponent)

    def listed(self) -> tuple[Tree, ...]:
        opening = str(self.take())
        if opening not in ("(", "{", "[", "\\{"):
            raise Unread(opening)
        found = [self.total()]
        while self.peek() in (",", ";"):
            self.take()
            found.append(self.total())
        self.take(_OPENING[opening])
        if len(found) < 2:
            raise Unread("one number where several were expected")
        return tuple(found)

    def operand(self) -> Tree:
        """What a function applies to: a bracket, or the product of numbers and letters that follows."""
        if self.peek() in ("(", "{", "["):
            return self.power()
        if self.peek() == "-":
            self.take()
            return ("minus", self.operand())
        tree = self.power()
        while self.kind() == "letter" or (self.peek() or "")[1:] in ("pi", *_GREEK):
            tree = ("times", tree, self.power())
        return tree


def _takes_number(tree: Tree) -> bool:
    r"""Whether a number behind this is a factor: `\pi 25`, `2!3!`, `(\sqrt3)2`, `i4`."""
    kind = tree[0]
    if kind == "times":
        return _takes_number(tree[2])
    return kind in ("constant", "root", "factorial")
