"""Tests that no program can fail are a fault of the data: with them everything would be right."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from opdlab.datafiles import syntax_tree
from opdlab.errors import DataError
from opdlab_evaluators.programs.asserted import conditions


def read_tests(tests: str, name: str, number: int) -> dict[str, Any]:
    """The tests of row `number`, as `tests`, and what they assert, as `_conditions`.

    Raises:
        DataError: nothing in them asserts or raises, or what they assert holds for any program.
        SyntaxError: they are no Python.
    """
    tree = syntax_tree(tests)
    if _cannot_fail(tree, strict=True):
        raise DataError(
            f"{name}: row {number} has tests that no program can fail: they assert nothing of it; "
            "take another copy"
        )
    return {"tests": tests, "_conditions": conditions(tree)}


@lru_cache(maxsize=1024)
def cannot_fail(tests: str, strict: bool = False) -> bool:
    """Whether the tests pass whatever they are run on; raises SyntaxError.

    Args:
        strict: a call alone, which could raise, is no test.
    """
    return _cannot_fail(syntax_tree(tests), strict)


def _cannot_fail(tree: ast.Module, strict: bool) -> bool:
    checks = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "check"]
    # The walk goes by depth and stops early: some tests hold megabytes of data.
    able = any(map(_may_fail, ast.walk(tree))) or (
        not strict and any(isinstance(node, ast.Call) for node in ast.walk(tree))
    )
    return not able or not all(map(_uses_argument, checks))


def _may_fail(node: ast.AST) -> bool:
    if isinstance(node, (ast.Raise, ast.While)):
        return True
    if isinstance(node, ast.Assert):
        return any(isinstance(part, (ast.Call, ast.Name)) for part in ast.walk(node.test))
    # `assertion(f(x), 3)`, `np.testing.assert_allclose(...)`, `self.assertEqual(...)`
    return isinstance(node, ast.Call) and "assert" in ast.unparse(node.func).lower()


def _uses_argument(check: ast.FunctionDef) -> bool:
    """Whether HumanEval's `check(candidate)` does anything with its candidate."""
    given = {argument.arg for argument in check.args.args}
    # Data stand first, calls last.
    return any(
        isinstance(n, ast.Name) and n.id in given
        for statement in reversed(check.body)
        for n in ast.walk(statement)
    )
