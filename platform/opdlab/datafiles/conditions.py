"""`where: "level >= 3"`: comparisons of columns, read as an expression and never run as a program."""

from __future__ import annotations

import ast
import datetime
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from opdlab.datafiles.columns import MISSING, value_at
from opdlab.datafiles.python_syntax import syntax_tree

LONGEST = 2000
"""Characters of an expression."""
_ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_TRUTHS = {"true": True, "false": False}
KNOWN = "columns, numbers, texts, lists, True, False, None, == != < <= > >=, in, and, or, not"


@dataclass(frozen=True)
class Condition:
    """A condition on rows.

    Attributes:
        text: as it was written.
        columns: paths that it names.
    """

    text: str
    columns: tuple[str, ...]
    _tree: ast.expr

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """Whether a row fulfils it; a value that is missing or null fulfils no order and equals None.

        Raises:
            ValueError: values cannot be compared, such as a text that is not a number with a number.
        """
        return _truth(_value(self._tree, row))


def condition(text: str) -> Condition:
    """Read an expression.

    Raises:
        ValueError: it is none, or does something else than compare columns.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text)} characters, at most {LONGEST} are read")
    try:
        tree = syntax_tree(text.strip(), "eval").body
        columns = _columns(tree)
    except SyntaxError as error:
        raise ValueError(
            f"{text!r} is not a condition ({error.msg}); write one of {KNOWN}"
        ) from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("its brackets are too deep") from error
    if not isinstance(tree, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Name | ast.Attribute):
        raise ValueError(f"{text!r} compares nothing; write such as `level >= 3`")
    return Condition(text, tuple(dict.fromkeys(columns)), tree)


def _columns(node: ast.expr) -> list[str]:
    match node:
        case ast.Name() | ast.Attribute():
            return [_path(node)]
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return []
        case ast.UnaryOp(op=ast.Not(), operand=inside):
            return _columns(inside)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return []
        case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [name for part in parts for name in _columns(part)]
        case ast.Compare(left=left, comparators=others):
            return [name for part in (left, *others) for name in _columns(part)]
    raise ValueError(
        f"`{ast.unparse(node)[:80]}` is not allowed in a condition; it may hold {KNOWN}"
    )


def _path(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_path(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError(f"`{ast.unparse(node)[:80]}` names no column")


def _value(node: ast.expr, row: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name() | ast.Attribute():
            found = value_at(row, _path(node))
            return None if found is MISSING else found
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.Not(), operand=inside):
            return not _truth(_value(inside, row))
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(_value(part, row)) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(_value(part, row)) for part in parts)
        case ast.Compare():
            return _compared(node, row)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, row) for part in parts]
    raise AssertionError(node)  # `condition` has let nothing else in


def _truth(value: Any) -> bool:
    """What a column alone says: a table in CSV holds `False` and `0` as texts."""
    if isinstance(value, str):
        number = _number(value)
        value = _TRUTHS.get(value.strip().lower(), value.strip()) if number is None else number
    return bool(value) and not _is_nan(value)


def _compared(node: ast.Compare, row: Mapping[str, Any]) -> bool:
    left = _value(node.left, row)
    for kind, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, row)
        if not _holds(kind, left, right):
            return False
        left = right
    return True


def _holds(kind: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(kind, ast.Eq | ast.Is):
        return _equal(left, right)
    if isinstance(kind, ast.NotEq | ast.IsNot):
        return not _equal(left, right)
    if isinstance(kind, ast.In | ast.NotIn):
        return _contains(right, left) != isinstance(kind, ast.NotIn)
    if left is None or right is None:
        return False
    one, other = _alike(left, right)
    try:
        return bool(_ORDERS[type(kind)](one, other))
    except TypeError as error:
        raise ValueError(
            f"{left!r:.60} and {right!r:.60} cannot be compared: one is a {type(left).__name__}, the "
            f"other a {type(right).__name__}"
        ) from error


def _equal(left: Any, right: Any) -> bool:
    one, other = _alike(left, right)
    return bool(one == other)


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, str):
        return isinstance(part, str) and part in whole
    if isinstance(whole, list):
        return any(_equal(part, each) for each in whole)
    return isinstance(whole, Mapping) and isinstance(part, str) and part in whole


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """Both as what one of them is: a table in CSV holds numbers and truths as texts, and dates are written
    as texts. NaN equals nothing and fulfils no order."""
    one, other = _like(left, right), _like(right, left)
    if _is_nan(one) or _is_nan(other):
        return (math.nan, math.nan) if _is_number(one) and _is_number(other) else (one, other)
    if isinstance(one, Decimal) != isinstance(other, Decimal):
        return _exact(one), _exact(other)
    return one, other


def _like(value: Any, other: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time) and isinstance(other, str):
        return value.isoformat()
    if not isinstance(value, str):
        return value
    if isinstance(other, bool):
        return _TRUTHS.get(value.strip().lower(), value)
    number = _number(value) if _is_number(other) else None
    return value if number is None else number


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text.strip())
    except InvalidOperation:
        return None


def _exact(value: Any) -> Any:
    """A float with the digits that it is written with."""
    return Decimal(repr(value)) if isinstance(value, float) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _is_nan(value: Any) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else value != value
