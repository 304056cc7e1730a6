"""What tests assert, whatever their comments, messages and layout: so copies of them are told."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import cast

from opdlab.datafiles import syntax_tree

_PARTS = ("body", "orelse", "handlers", "finalbody")
CANDIDATE = "candidate"
"""What HumanEval's tests call the function that they check."""


def conditions(tree: ast.Module) -> list[str]:
    """Every condition that the tests assert, once, as Python writes it.

    Data beside them are not looked at: some tests hold megabytes.
    """
    found = [(node, name) for node, name in _asserted(tree.body, None)]
    texts = [ast.unparse(_Renamed(name).visit(node)) for node, name in found]
    return list(dict.fromkeys(texts))


def _asserted(body: list[ast.stmt], name: str | None) -> Iterator[tuple[ast.AST, str | None]]:
    """Conditions and calls such as `assertEqual(f(x), 3)`, with the name of what is checked."""
    for node in body:
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant):
            yield node.test, name
        called = node.value if isinstance(node, ast.Expr) else None
        if isinstance(called, ast.Call) and "assert" in ast.unparse(called.func).lower():
            yield called, name
        inner = _argument(node) or name
        for part in _PARTS:
            yield from _asserted(getattr(node, part, None) or [], inner)


def _argument(node: ast.AST) -> str | None:
    if isinstance(node, ast.FunctionDef) and node.name == "check" and node.args.args:
        return node.args.args[0].arg
    return None


class _Renamed(ast.NodeTransformer):
    """The name of the checked function is one in all copies."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(CANDIDATE, node.ctx) if node.id == self.name else node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(CANDIDATE) if node.arg == self.name else node


class _Bare(ast.NodeTransformer):
    """Without messages, documentation, what always holds, and the notes on the tests' origin."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        found = _Renamed(_argument(node)).generic_visit(node)
        return self.generic_visit(found)

    def visit_Assert(self, node: ast.Assert) -> ast.AST | None:
        always = isinstance(node.test, ast.Constant) and node.test.value
        return None if always else ast.Assert(node.test)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if ast.unparse(node.targets[0]) == "METADATA" else node


def bare(tests: str) -> str:
    """The tests as Python writes them, without what changes no verdict; of tests of a few lines.

    Raises:
        SyntaxError: they are no Python.
    """
    tree = cast(ast.Module, _Bare().visit(syntax_tree(tests)))
    return ast.unparse(ast.fix_missing_locations(tree))
