"""Values as JSON that means the same on the other side: nothing in it can run, compare or pretend.

What comes out of a sandbox was written by untrusted code. Types other than those below become
`Opaque`: a number that only its own process can resolve.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEEPEST = 400
BIGGEST_JSON_INT = 1 << 63


class UnplainError(ValueError):
    """A value cannot leave its process: too deep, or no data."""


@dataclass(frozen=True)
class Opaque:
    """An object that stays where it is."""

    handle: int
    kind: str


def encode(value: Any, opaque: Callable[[Any], dict] | None = None, depth: int = 0) -> Any:
    """JSON values for `value`; `opaque` gives the form of what is no data.

    Raises:
        UnplainError: the value is nested too deeply or into itself, or is no data and `opaque` is None.
    """
    if depth > DEEPEST:
        raise UnplainError(f"nested more than {DEEPEST} deep")
    if value is None or value is True or value is False:
        return value
    for kind, form in _SCALARS.items():
        if isinstance(value, kind):
            return form(value)
    if isinstance(value, dict):
        pairs = [[encode(each, opaque, depth + 1) for each in pair] for pair in dict.items(value)]
        return {"dict": pairs}
    sequence = next((kind for kind in _SEQUENCES if isinstance(value, kind)), None)
    if sequence is not None:
        name = _SEQUENCES[sequence]
        items = [encode(each, opaque, depth + 1) for each in sequence.__iter__(value)]
        return items if name == "list" else {name: items}
    return _unusual(value, opaque, depth)


def _unusual(value: Any, opaque: Callable[[Any], dict] | None, depth: int) -> Any:
    if isinstance(value, Opaque):
        return {"object": [value.handle, value.kind]}
    if hasattr(value, "tolist"):  # arrays and scalars of numpy
        return encode(value.tolist(), opaque, depth + 1)
    if opaque is None:
        raise UnplainError(f"a {type(value).__name__} is no data")
    return opaque(value)


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
        UnplainError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnplainError(f"no JSON ({type(error).__name__})") from error


def _integer(value: int) -> Any:
    exact = int.__index__(value)
    return exact if -BIGGEST_JSON_INT < exact < BIGGEST_JSON_INT else {"int": hex(exact)}


_SCALARS: dict[type, Callable[[Any], Any]] = {
    str: lambda value: str.__str__(value),
    int: _integer,
    float: lambda value: {"float": float.hex(value)},
    bytes: lambda value: {"bytes": bytes.hex(value)},
    bytearray: lambda value: {"bytes": bytearray.hex(value)},
    complex: lambda value: {"complex": [value.real.hex(), value.imag.hex()]},
}
_SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    range: "list",
}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda content: int(content, 16),
    "float": float.fromhex,
    "bytes": bytes.fromhex,
    "complex": lambda content: complex(*map(float.fromhex, content)),
    "tuple": lambda content: tuple(map(decode, content)),
    "set": lambda content: set(map(decode, content)),
    "frozenset": lambda content: frozenset(map(decode, content)),
    "dict": lambda content: {decode(key): decode(each) for key, each in content},
    "object": lambda content: Opaque(int(content[0]), str(content[1])),
}
