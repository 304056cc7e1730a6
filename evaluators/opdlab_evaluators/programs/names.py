"""Names that tests take from a program, found as Python's own compiler finds them."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator
from importlib import import_module

from opdlab.datafiles import syntax_tree
from opdlab_evaluators.programs.extraction import bound_by

_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "math", "random", "statistics"),
    *(
        "itertools",
        "functools",
        "operator",
        "typing",
        "decimal",
        "fractions",
        "dataclasses",
        "enum",
    ),
)
"""Modules whose `from ... import *` is resolved; importing them does nothing else."""


def mentioned(tests: str) -> set[str]:
    """Every global name that the tests use before they define it or without defining it.

    Built-in names are among them; a local variable or a parameter of the same name is not.

    Raises:
        SyntaxError: they are no Python.
    """
    top = symtable.symtable(tests, "<tests>", "exec")
    used: set[str] = set()
    own: set[str] = set()
    for table in _tables(top):
        for symbol in table.get_symbols():
            if table is not top and not symbol.is_global():
                continue
            if symbol.is_referenced():
                used.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_imported():
                own.add(symbol.get_name())
    body = syntax_tree(tests).body
    return (used - own - _starred(body)) | _taken_over(body)


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _starred(body: list[ast.stmt]) -> set[str]:
    """Names that `from module import *` brings."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            if node.module not in _STARRED:
                continue
            module = import_module(node.module)
            found |= set(getattr(module, "__all__", dir(module)))
    return found


def _taken_over(body: list[ast.stmt]) -> set[str]:
    """Names that a statement such as `f = cached(f)` takes from the program and then defines anew."""
    found: set[str] = set()
    bound: set[str] = set()
    for node in body:
        stored = set(bound_by(node))
        if isinstance(node, ast.AugAssign):
            found |= stored - bound
        elif isinstance(node, ast.Assign) and not isinstance(node.value, _DATA):
            read = {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)}
            found |= (stored & read) - bound
        bound |= stored
    return found


_DATA = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set)
"""They may hold megabytes, and are not looked through."""


def class_names(tests: str, names: Iterable[str]) -> list[str]:
    """Those of the names that the tests use as classes: `Name`, `name.attribute`, `isinstance(x, name)`."""
    found = {name for name in names if name[:1].isupper()}
    for node in ast.walk(syntax_tree(tests)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(node.value.id)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            kinds = [each for argument in node.args[1:] for each in ast.walk(argument)]
            found |= {each.id for each in kinds if isinstance(each, ast.Name)}
    return sorted(found.intersection(names))
