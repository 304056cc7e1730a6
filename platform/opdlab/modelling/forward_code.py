"""What a module's forward takes, names and assigns, read from its code: without a call."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from types import CodeType
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from opdlab.shapes import Tensor

Places = Sequence[tuple[nn.Module, str]]
"""Modules, and attributes of theirs."""


def _code(module: nn.Module) -> Any:
    return getattr(inspect.unwrap(type(module).forward), "__code__", None)


def named_in(module: nn.Module) -> set[str]:
    """Functions and attributes that the code names."""
    code = _code(module)
    return set() if code is None else set(code.co_names)


def arguments_of(module: nn.Module) -> set[str]:
    """Of the forward, by name."""
    code = _code(module)
    return set() if code is None else set(code.co_varnames[: code.co_argcount])


@cache
def _assigned(code: CodeType) -> frozenset[str]:
    """Attributes that a function assigns: the same for every layer of a kind, at each pass."""
    found = (one.argval for one in dis.get_instructions(code) if one.opname == "STORE_ATTR")
    return frozenset(found)


def places_of(module: nn.Module) -> Places:
    """What may be a layer's state: modules within, and attributes of theirs."""
    return [(part, name) for part in module.modules() for name in kept_by(part)]


def kept_by(module: nn.Module) -> list[str]:
    """Attributes that a module's forward assigns and that may hold a state: tensors, or nothing yet.

    A flag is none, as layers of four bits a weight set one at their first call.
    """
    code = _code(module)
    if code is None or isinstance(module, PreTrainedModel):
        return []
    assigned = _assigned(code)
    kept = {name: value for name, value in vars(module).items() if name in assigned}
    return sorted(name for name, one in kept.items() if one is None or isinstance(one, Tensor))


def weights_read(module: nn.Module) -> set[str]:
    """Attributes whose `weight` or `bias` the code of a module's class reads itself."""
    found: set[str] = set()
    for function in vars(type(module)).values():
        code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
        if code is not None:
            read = [one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_ATTR"]
            found |= {name for name, then in pairwise(read) if then in ("weight", "bias")}
    return found
