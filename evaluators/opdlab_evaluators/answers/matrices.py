"""What is written in rows: matrices, systems of equations, functions by cases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from opdlab_evaluators.answers import region as regions
from opdlab_evaluators.answers.brackets import enclosed, split
from opdlab_evaluators.answers.expression import parse
from opdlab_evaluators.answers.inequalities import RELATIONS, as_region
from opdlab_evaluators.answers.measures import Measures
from opdlab_evaluators.answers.thing import Thing
from opdlab_evaluators.answers.tokens import Token, Unread
from opdlab_evaluators.answers.trees import Tree

_MATRICES = (
    "matrix",
    "pmatrix",
    "bmatrix",
    "vmatrix",
    "Bmatrix",
    "Vmatrix",
    "smallmatrix",
    "array",
)
_LINES = ("cases", "dcases", "rcases", "aligned", "align", "gathered", "split")
_TRANSPOSED = (["T"], ["\\top"], ["t"], ["\\intercal"])
_RELATED = ("=", *RELATIONS)
_OTHERWISE = (["otherwise"], ["else"], ["elsewhere"], ["if", "otherwise"])


class Matrices(Measures, ABC):
    """Reads rows; what stands in them is read by `thing`."""

    @abstractmethod
    def thing(self, tokens: Sequence[Token], depth: int = 0) -> Thing:
        """What some tokens say."""

    def of_rows(self, tokens: Sequence[Token], depth: int) -> Thing | None:
        """A matrix, a system or a function by cases; None of other tokens."""
        texts = [str(token) for token in tokens]
        if "^" in texts:
            tokens, transposed = _untransposed(tokens)
            if transposed:
                found = self._matrix_among(tokens, depth)
                if found is None and enclosed(tokens):
                    found = _row(self.thing(tokens, depth + 1))
                return None if found is None else _transposed(found)
        if not any(text.startswith("\\begin ") for text in texts):
            return None
        return self._lines(tokens, depth) or self._matrix_among(tokens, depth)

    def _lines(self, tokens: Sequence[Token], depth: int) -> Thing | None:
        """Lines that hold together, behind a brace or in an environment for them; None for others."""
        first = str(tokens[0]) in ("\\{", "\\lbrace")
        inside = tokens[1:] if first else tokens
        name = str(inside[0]).removeprefix("\\begin ").rstrip("*")
        if not (name in _LINES or (first and name == "array")):
            return None
        if str(inside[-1]) not in (f"\\end {name}", f"\\end {name}*"):
            return None
        rows = [row for row in split(inside[1:-1], "\\\\", "\\cr")[0] if row]
        parted = [_parts_of_case(row) for row in rows]
        if len(rows) > 1 and all(parted):
            return self._by_cases([parts for parts in parted if parts], depth)
        joint: list[Token] = []
        for row in rows:
            row = [token for token in row if str(token) != "&"]
            # A line that begins with a sign of equality goes on with the one before it.
            separate = joint and str(joint[-1]) != "," and str(row[0]) not in _RELATED
            joint += [Token("symbol", ",")] * bool(separate) + row
        return self.thing(joint, depth + 1)

    def _by_cases(self, rows: list[tuple[list[Token], list[Token]]], depth: int) -> Thing:
        """`x & x \\ge 0 \\\\ -x & \\text{otherwise}`: a set of values, each with its numbers."""
        values = [self.thing(value, depth + 1) for value, _ in rows]
        shapes: list[regions.Region] = []
        for _, condition in rows:
            if [token.text.lower() for token in condition] in _OTHERWISE:
                shapes.append(regions.without(regions.EVERYTHING, regions.union(*shapes)))
            else:
                shapes.append(as_region(self.thing(condition, depth + 1)))
        return Thing(
            "set",
            items=tuple(
                Thing("row", items=(value, Thing("region", region=shape)))
                for value, shape in zip(values, shapes, strict=True)
            ),
        )

    def _matrix_among(self, tokens: Sequence[Token], depth: int) -> Thing | None:
        """A matrix, with a number in front of it or not; None for others."""
        texts = [str(token) for token in tokens]
        first = next((n for n, text in enumerate(texts) if text.startswith("\\begin ")), None)
        if (
            first is None
            or texts.count(texts[first]) != 1
            or not texts[-1].startswith("\\end ")
            or any(text in _OUTER for text in texts[:first])
            or texts[:first].count("(") != texts[:first].count(")")
        ):
            return None
        found = self._matrix(tokens[first:], depth)
        front = list(tokens[:first])
        if front and str(front[-1]) in ("\\cdot", "\\times"):
            front = front[:-1]
        if not front:
            return found
        if texts[:first] == ["-"]:
            front = [*front, Token("number", "1")]
        factor = parse(front)
        rows = [tuple(_multiplied(cell, factor) for cell in row.items) for row in found.items]
        return replace(found, items=tuple(Thing("row", items=row) for row in rows))

    def _matrix(self, tokens: Sequence[Token], depth: int) -> Thing:
        name = tokens[0].text.removeprefix("begin ")
        if str(tokens[-1]) != f"\\end {name}":
            raise Unread(f"something behind a {name}")
        if name.rstrip("*") not in _MATRICES:
            raise Unread(f"\\begin{{{name}}}")
        rows, _ = split(tokens[1:-1], "\\\\", "\\cr")
        table = []
        for row in rows:
            row = [token for token in row if str(token) != "\\hline"]
            if not row:
                continue  # `\\\\` written twice, or behind the last
            cells, _ = split(row, "&")
            table.append(Thing("row", items=tuple(self.thing(cell, depth + 1) for cell in cells)))
        if not table or len({len(row.items) for row in table}) != 1:
            raise Unread("a matrix of unequal rows")
        return Thing("matrix", items=tuple(table), brackets="|" if name[0] in "vV" else "")


_OUTER = ("=", "[", "\\{", ",", "+", "|", "\\in")


def _untransposed(tokens: Sequence[Token]) -> tuple[Sequence[Token], bool]:
    """Tokens without a sign of transposition behind them, and whether there was one."""
    place = len(tokens) - 1 - [str(token) for token in reversed(tokens)].index("^")
    behind = [str(token) for token in tokens[place + 1 :] if str(token) not in ("{", "}")]
    return (tokens[:place], True) if behind in _TRANSPOSED and place else (tokens, False)


def _transposed(matrix: Thing) -> Thing:
    columns = zip(*(row.items for row in matrix.items), strict=True)
    return replace(matrix, items=tuple(Thing("row", items=column) for column in columns))


def _row(found: Thing) -> Thing | None:
    """A row in brackets as a matrix; None of others, such as the base of a power."""
    if found.kind != "tuple":
        return found if found.kind == "matrix" else None
    return Thing("matrix", items=(Thing("row", items=found.items),))


def _parts_of_case(row: Sequence[Token]) -> tuple[list[Token], list[Token]] | None:
    """A value and where a function has it; None for an equation."""
    parts, found = split(row, "&")
    if not found:
        parts, found = split(row, ",", "if", "for", "when")
        parts = [part for part in parts if part]
    if len(parts) != 2 or str(parts[1][0]) in _RELATED if parts[-1] else True:
        return None
    value, condition = parts
    while value and str(value[-1]) in (",", ";"):
        value = value[:-1]
    while condition and str(condition[-1]) in (",", ";", "."):
        condition = condition[:-1]
    if condition and condition[0].text in ("if", "for", "when", "where"):
        condition = condition[1:]
    told = not set(_RELATED).isdisjoint(map(str, condition)) or "\\in" in map(str, condition)
    otherwise = [token.text.lower() for token in condition] in _OTHERWISE
    named = any(str(token) in _RELATED for token in value)
    return (value, condition) if value and not named and (told or otherwise) else None


def _multiplied(cell: Thing, factor: Tree) -> Thing:
    if cell.kind != "value":
        raise Unread("a matrix of what are no values, times a number")
    return replace(cell, trees=(("times", factor, cell.trees[0]),))
