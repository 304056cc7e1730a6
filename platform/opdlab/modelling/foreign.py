"""Whether a model runs code that is neither transformers' nor torch's.

What is written in its place, and was tried on a few tokens, may differ from it further on.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import partial
from types import FunctionType
from typing import Any

from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from opdlab.modelling.eval_mode import replaced

_LIBRARIES = ("transformers", "torch")


def foreign_code(model: PreTrainedModel) -> bool:
    """Whether a module's forward, a function that it calls by name, or attention is somebody's own."""
    kinds = dict.fromkeys(type(module) for module in model.modules())
    return (
        any(_foreign(one) for kind in kinds for one in code_of(kind))
        or any(replaced(module) for module in model.modules())
        or foreign_attention(model) is not None
    )


def foreign_attention(model: PreTrainedModel) -> str | None:
    """Name of the attention that a model uses, if it is a custom function."""
    name: Any = model.config.get_text_config()._attn_implementation
    if name == "eager":
        modules = {type(module).__module__ for module in model.modules()}
        found = [getattr(sys.modules[one], "eager_attention_forward", None) for one in modules]
        # That of the model's own file is its own, whoever wrote it.
        own = {one.partition(".")[0] for one in modules} | set(_LIBRARIES)
        foreign = any(_foreign(one, own) for one in found)
    else:
        foreign = _foreign(AttentionInterface().get(name))
    return name if foreign else None


def code_of(kind: type[nn.Module]) -> Iterator[Any]:
    """The forward of a class, and the functions that it calls by name: libraries patch either."""
    forward: Any = kind.forward
    yield forward
    bare: Any = inspect.unwrap(forward)
    known, code = getattr(bare, "__globals__", {}), getattr(bare, "__code__", None)
    yield from (known[name] for name in getattr(code, "co_names", ()) if name in known)


def _foreign(function: Any, own: set[str] | tuple[str, ...] = _LIBRARIES) -> bool:
    while isinstance(function, partial):
        function = function.func
    return isinstance(function, FunctionType) and function.__module__.partition(".")[0] not in own
