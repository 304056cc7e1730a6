"""Python that stands in data files, read by several threads at once."""

from __future__ import annotations

import ast
from threading import RLock
from typing import Literal, overload

_ONE_AT_A_TIME = RLock()
_TRIES = 100


@overload
def syntax_tree(text: str, mode: Literal["exec"] = "exec") -> ast.Module: ...
@overload
def syntax_tree(text: str, mode: Literal["eval"]) -> ast.Expression: ...
def syntax_tree(text: str, mode: Literal["exec", "eval"] = "exec") -> ast.AST:
    """`ast.parse`, right beside other threads.

    Python 3.11 counts the depth of a tree in one place for all threads, and a collection of garbage within
    `ast.parse` lets another thread in: `SystemError: AST constructor recursion depth mismatch`. Threads of
    others, which write tracebacks, parse as well.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: as `ast.parse`.
    """
    with _ONE_AT_A_TIME:
        for _ in range(_TRIES - 1):
            try:
                return ast.parse(text, mode=mode)
            except SystemError:
                continue
        return ast.parse(text, mode=mode)
