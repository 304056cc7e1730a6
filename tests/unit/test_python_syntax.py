"""Python that several threads read at once."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from opdlab.datafiles import syntax_tree

TEXT = "\n".join(
    f"def f{i}(x):\n    return [x + {i} * (y - 3) for y in range({i})]" for i in range(30)
)


@pytest.fixture
def threads_let_in() -> Iterator[None]:
    """Collections of garbage within `ast.parse`, each of which lets other threads go on."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.freeze()
    gc.set_threshold(20, 1000, 1000)
    yield
    gc.unfreeze()
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


class Garbage:
    """Whose end takes a while."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


def parsed(depth: int) -> None:
    if depth:
        parsed(depth - 1)
        return
    for _ in range(10):
        Garbage()
        assert isinstance(syntax_tree(TEXT), ast.Module)


@pytest.mark.usefixtures("threads_let_in")
def test_threads_read_at_once() -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(parsed, range(0, 30, 5)))


def test_other_threads_parse_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, failures = ast.parse, [SystemError("AST constructor recursion depth mismatch")] * 2

    def disturbed(*what: Any, **how: Any) -> ast.AST:
        if failures:
            raise failures.pop()
        return parse(*what, **how)

    with monkeypatch.context() as patched:
        patched.setattr(ast, "parse", disturbed)
        assert isinstance(syntax_tree("a == 1", "eval").body, ast.Compare)
        with pytest.raises(SyntaxError):
            syntax_tree("a ==", "eval")
