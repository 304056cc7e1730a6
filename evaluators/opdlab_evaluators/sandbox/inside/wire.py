"""Values as JSON that mean the same in another process, whatever their depth, cycles and shared parts.

A message lists nodes and says how they hang together. Scalars stand for themselves; `[number]` is an
object that both sides know by that number, or, below zero, a node of this message. Containers that can
change have numbers: both sides keep one each and bring them up to date with every message. What is no
data (functions, objects of classes of the program's own, iterators) has a number too and stays where it is.

What is read here may have been written by untrusted code: it can only become data of exactly the types
below, or raise `NonsenseError`.
"""

from __future__ import annotations

import re
import sys
import types
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath
from typing import Any

BIGGEST = 1 << 63
"""Longer integers are written in base 16: reading decimals takes quadratic time."""


class NonsenseError(RuntimeError):
    """A message that no honest peer sends."""


class HandoverError(TypeError):
    """An object of this side cannot be handed over."""


SCALARS = frozenset({int, float, str, bool, type(None)})
_WHOLE = frozenset({int, bool})

MUTABLE: dict[str, type] = {
    "list": list,
    "dict": dict,
    "set": set,
    "bytearray": bytearray,
    "deque": deque,
    "Counter": Counter,
    "OrderedDict": OrderedDict,
    "defaultdict": defaultdict,
}
MUTABLE_NAMES = {kind: name for name, kind in MUTABLE.items()}

# How each is taken apart, into values that do not change, and put together again.
MADE: dict[str, tuple[type, Callable[..., Any], Callable[[Any], tuple]]] = {
    "range": (range, range, lambda v: (v.start, v.stop, v.step)),
    "slice": (slice, slice, lambda v: (v.start, v.stop, v.step)),
    "Decimal": (Decimal, Decimal, lambda v: (Decimal.__str__(v),)),
    "Fraction": (Fraction, Fraction, lambda v: (v.numerator, v.denominator)),
    "date": (date, date, lambda v: (v.year, v.month, v.day)),
    "timedelta": (timedelta, timedelta, lambda v: (v.days, v.seconds, v.microseconds)),
    "timezone": (timezone, timezone, lambda v: (v.utcoffset(None),)),
    "time": (
        time,
        lambda *parts: time(*parts[:5], fold=parts[5]),
        lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold),
    ),
    "datetime": (
        datetime,
        lambda *parts: datetime(*parts[:8], fold=parts[8]),
        lambda v: (*v.timetuple()[:6], v.microsecond, v.tzinfo, v.fold),
    ),
    "complex": (complex, complex, lambda v: (v.real, v.imag)),
    "memoryview": (memoryview, memoryview, lambda v: (v.tobytes(),)),
    "PosixPath": (PosixPath, PosixPath, lambda v: (str(v),)),
    "PurePosixPath": (PurePosixPath, PurePosixPath, lambda v: (str(v),)),
    "keys": (type({}.keys()), lambda *v: dict.fromkeys(v).keys(), tuple),
    "values": (type({}.values()), lambda *v: dict(enumerate(v)).values(), tuple),
    "items": (type({}.items()), lambda *v: dict(v).items(), tuple),
    "ChainMap": (ChainMap, lambda *maps: ChainMap(*map(_mapped, maps)), lambda v: tuple(v.maps)),
    "Pattern": (
        re.Pattern,
        lambda text, flags: _pattern(text, flags),
        lambda v: (v.pattern, v.flags),
    ),
    "mappingproxy": (
        types.MappingProxyType,
        lambda *v: types.MappingProxyType(dict(v)),
        lambda v: tuple(v.items()),
    ),
    "SimpleNamespace": (
        types.SimpleNamespace,
        lambda *v: types.SimpleNamespace(**dict(v)),
        lambda v: tuple(vars(v).items()),
    ),
}
MADE_NAMES = {kind: name for name, (kind, _, _) in MADE.items()}
PACKAGED = {
    ("sortedcontainers.sortedlist", "SortedList"),
    ("sortedcontainers.sortedset", "SortedSet"),
    ("sortedcontainers.sorteddict", "SortedDict"),
    ("array", "array"),
    ("uuid", "UUID"),
}
"""Types of packages that both sides may load: rebuilt from the arguments below."""


def _mapped(value: Any) -> dict:
    if not isinstance(value, dict):
        raise NonsenseError("no dictionary")
    return value


def _pattern(text: Any, flags: Any) -> re.Pattern:
    if type(text) not in (str, bytes) or type(flags) is not int:
        raise NonsenseError("no pattern")
    return re.compile(text, flags)


def packaged(value: Any) -> tuple[str, tuple] | None:
    """Name and arguments of a value of such a type."""
    kind = type(value)
    if (kind.__module__, kind.__qualname__) not in PACKAGED or _loaded(kind) is not kind:
        return None
    if kind.__qualname__ == "array":
        return "array.array", (value.typecode, tuple(value))
    if kind.__qualname__ == "UUID":
        return "uuid.UUID", (value.hex,)
    plain = tuple(value.items()) if kind.__qualname__ == "SortedDict" else tuple(value)
    # An order of its own is a function, and stays where it is: the order itself is what counts.
    return f"{kind.__module__}.{kind.__qualname__}", (plain,)


def _loaded(kind: type) -> Any:
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None)


def rebuilt(name: str, args: list) -> Any:
    """The value that `packaged` took apart, or one of `MADE`."""
    if name in MADE:
        return MADE[name][1](*args)
    module, _, kind = name.rpartition(".")
    if (module, kind) not in PACKAGED:
        raise NonsenseError(f"no type {name[:100]!r}")
    __import__(module)
    return getattr(sys.modules[module], kind)(*args)


def array_parts(value: Any) -> list | None:
    """`[dtype, shape, bytes]` of an array or scalar of numpy, without objects in it; None for others."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value).__module__ != "numpy":
        return None
    if isinstance(value, numpy.ndarray) and type(value) is numpy.ndarray:
        shape = list(value.shape)
    elif isinstance(value, numpy.generic):
        shape = None
    else:
        return None
    if value.dtype.hasobject or value.dtype.names:
        return None
    return [value.dtype.str, shape, value.tobytes().hex()]


def array_of(parts: list) -> Any:
    """The array or scalar; raises whatever numpy raises."""
    import numpy

    kind, shape, content = parts
    if not isinstance(kind, str) or "O" in kind or "," in kind or "V" in kind:
        raise NonsenseError("no type of an array")
    flat = numpy.frombuffer(bytes.fromhex(content), numpy.dtype(kind))
    return flat[0] if shape is None else flat.reshape(shape).copy()


def all_scalar(values: Any) -> bool:
    """Whether all of a sequence can be written as they are."""
    kinds = set(map(type, values))
    if not kinds <= SCALARS:
        return False
    if int not in kinds:
        return True
    if kinds <= _WHOLE:
        return min(values) > -BIGGEST and max(values) < BIGGEST
    return all(type(v) is not int or -BIGGEST < v < BIGGEST for v in values)


def scalar(value: Any) -> Any:
    """The written form of what has neither parts nor identity; `ABSENT` for everything else."""
    kind = type(value)
    if kind is int:
        return value if -BIGGEST < value < BIGGEST else ["i", hex(value)]
    if kind in SCALARS:
        return value
    if kind is bytes:
        return ["b", value.hex()]
    if value is Ellipsis or value is NotImplemented:
        return ["e", value is Ellipsis]
    return ABSENT


ABSENT: Any = object()


def unscaled(item: list) -> Any:
    """The value of a written scalar that is no JSON scalar."""
    kind, content = item
    if kind == "i":
        return int(content, 16)
    if kind == "b":
        return bytes.fromhex(content)
    if kind == "e":
        return Ellipsis if content else NotImplemented
    raise NonsenseError(f"no scalar {kind!r}")


def parts(kind: type, value: Any) -> list:
    """What a container holds, read by the built-in type's own means, in one flat list."""
    if issubclass(kind, dict):
        return [each for pair in _mapping(kind).items(value) for each in pair]
    return list(kind.__iter__(value))


def _mapping(kind: type) -> Any:
    """Whose methods read and fill a dictionary: one keeps an order of its own, others count or make."""
    return OrderedDict if kind is OrderedDict else dict


def fill(kind: type, value: Any, items: list) -> None:
    """Let a container hold these parts, if it does not already."""
    if issubclass(kind, dict):
        _mapping(kind).clear(value)
        _mapping(kind).update(value, zip(items[::2], items[1::2], strict=True))
    elif kind is set:
        set.clear(value)
        set.update(value, items)
    elif kind is deque:
        deque.clear(value)
        deque.extend(value, items)
    else:
        kind.__setitem__(value, slice(None), items)


def global_type(module: str, name: str) -> type | None:
    """A type that both sides know by name: built in, one of those above, or the library's exceptions."""
    found = getattr(sys.modules.get(module), name, None)
    if not isinstance(found, type):
        return None
    if module == "builtins" or found in MUTABLE_NAMES or found in MADE_NAMES:
        return found
    known = module.partition(".")[0] in sys.stdlib_module_names
    return found if known and issubclass(found, BaseException) else None
