"""Shapes in annotations are checked in tests: at the first calls of each function in each test.

At every call they would take half of the time of all tests. Functions within functions are left alone,
since each definition of one would take 3 ms.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType
from typing import Any
from unittest.mock import patch

import jaxtyping
from beartype import beartype
from jaxtyping import _import_hook

FIRST = 8
"""Calls that are checked, of each function in each test."""

_test = [0]


def begin_test() -> None:
    """From here on the first calls of each function are checked anew."""
    _test[0] += 1


def install(modules: list[str]) -> None:
    """Check the functions and dataclasses of modules that are imported from now on, and of those below."""
    _import_hook.JaxtypingTransformer = _Transformer  # type: ignore[misc]
    _import_hook._JaxtypingLoader = _Loader  # type: ignore[misc]
    jaxtyping.install_import_hook(modules, "shape_checks.checked")


def checked(thing: Any) -> Any:
    """A function or dataclass that raises where its values are not as its annotations say."""
    if not inspect.isclass(thing):
        return _at_first(thing)
    if dataclasses.is_dataclass(thing) and not hasattr(thing.__init__, "shapes_checked"):
        thing.__init__ = _at_first(thing.__init__)
    return thing


def _at_first(plain: Callable[..., Any]) -> Callable[..., Any]:
    strict = jaxtyping.jaxtyped(plain, typechecker=beartype)
    test, left = 0, 0

    @functools.wraps(strict)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal test, left
        if test != _test[0]:
            test, left = _test[0], FIRST
        if left:
            left -= 1
            return strict(*arguments, **named)
        return plain(*arguments, **named)

    call.shapes_checked = True  # type: ignore[attr-defined]
    return call


class _Loader(_import_hook._JaxtypingLoader):
    """Looks for bytecode of its own for its module alone.

    jaxtyping's does so for all that the module imports, too: torch and 2,300 files more were compiled.
    """

    def exec_module(self, module: ModuleType) -> None:
        SourceFileLoader.exec_module(self, module)

    def get_code(self, fullname: str) -> CodeType | None:
        marked = functools.partial(
            _import_hook._optimized_cache_from_source, self._typechecker.get_hash()
        )
        with patch("importlib._bootstrap_external.cache_from_source", marked):
            return super().get_code(fullname)


class _Transformer(_import_hook.JaxtypingTransformer):
    """Decorates by `checked`, and outermost functions alone."""

    def __init__(self, *, typechecker: Any) -> None:
        super().__init__(typechecker=_Decorator(typechecker))  # type: ignore[arg-type]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:  # noqa: N802
        if any(isinstance(parent, ast.FunctionDef) for parent in self._parents):
            return node
        return super().visit_FunctionDef(node)


@dataclasses.dataclass
class _Decorator:
    typechecker: Any

    def get_ast(self) -> ast.expr:
        """`checked`, out of `jaxtyped(typechecker=checked)`."""
        return self.typechecker.get_ast().keywords[0].value
