"""Answers that are compared with JSON, as JSON.

What comes out of a sandbox was written by untrusted code, and is read in the grader's own process. So
nothing is built there that costs more than its size: no sets, and no dictionaries but of texts, for
integers can be made to collide. What can equal no JSON value is `Other`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DEEPEST = 400
BIGGEST_JSON_INT = 1 << 63


class UnplainError(ValueError):
    """A value cannot leave its process: nested too deeply, or no encoded value at all."""


@dataclass(frozen=True)
class Other:
    """A value that equals no JSON value."""

    kind: str

    def __str__(self) -> str:
        return f"<{self.kind}>"


def encode(value: Any, depth: int = 0) -> Any:
    """JSON values for `value`; an object of a subclass is what its base holds, whatever it says.

    Raises:
        UnplainError: the value is nested too deeply or into itself.
    """
    if depth > DEEPEST:
        raise UnplainError(f"nested more than {DEEPEST} deep")
    if value is None or value is True or value is False:
        return value
    kind = next((kind for kind in _KINDS if issubclass(type(value), kind)), None)
    if kind is str:
        return str.__str__(value)
    if kind is int:
        exact = int.__index__(value)
        return exact if -BIGGEST_JSON_INT < exact < BIGGEST_JSON_INT else {"int": hex(exact)}
    if kind is float:
        return {"float": float.hex(value)}
    if kind is dict and all(issubclass(type(key), str) for key in dict.keys(value)):
        pairs = dict.items(value)
        return {"dict": [[str.__str__(key), encode(each, depth + 1)] for key, each in pairs]}
    if kind is list or kind is tuple:
        items = [encode(each, depth + 1) for each in kind.__iter__(value)]
        return items if kind is list else {"tuple": items}
    if type(value).__module__ == "numpy" and not getattr(value, "shape", True):
        return encode(value.item(), depth + 1)
    return {"other": type(value).__name__}


_KINDS = (str, int, float, dict, list, tuple)


def decode(value: Any) -> Any:
    """The value of what `encode` gave.

    Raises:
        UnplainError: it is nothing that `encode` gives.
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise UnplainError("no encoded value")
    ((name, content),) = value.items()
    try:
        return _DECODERS[name](content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnplainError(f"no encoded value ({type(error).__name__})") from error


def loads(text: bytes) -> Any:
    """JSON that untrusted code may have written.

    Raises:
        UnplainError: it is no JSON, nested too deeply, or has numbers of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnplainError(f"no JSON ({type(error).__name__})") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnplainError("no text")
    return value


_DECODERS = {
    "int": lambda content: int(content, 16),
    "float": float.fromhex,
    "tuple": lambda content: tuple(map(decode, content)),
    "dict": lambda content: {_text(key): decode(each) for key, each in content},
    "other": lambda content: Other(_text(content)[:100]),
}
