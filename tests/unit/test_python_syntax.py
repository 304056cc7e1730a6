"""Python that several threads read at once."""

from __future__ import annotations

import ast
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Semaphore
from typing import Any

import pytest

from opdlab.datafiles import syntax_tree

THREADS = 4


def test_one_thread_at_a_time_is_within_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parse, within, most = ast.parse, Semaphore(0), []
    all_begun = Barrier(THREADS)

    def counted(*what: Any, **how: Any) -> ast.AST:
        within.release()
        time.sleep(0.01)  # lets the others in, if they are not kept out
        most.append(within._value)
        within.acquire()
        return parse(*what, **how)

    def read(text: str) -> ast.AST:
        all_begun.wait()
        return syntax_tree(text)

    with monkeypatch.context() as patched, ThreadPoolExecutor(THREADS) as threads:
        patched.setattr(ast, "parse", counted)
        assert len(list(threads.map(read, ["a = 1"] * THREADS))) == THREADS
    assert most == [1] * THREADS


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
