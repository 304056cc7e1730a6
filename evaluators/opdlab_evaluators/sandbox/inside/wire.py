"""Values as JSON that mean the same in another process, whatever their depth, cycles and shared parts.

A message lists nodes and says how they hang together. Scalars stand for themselves; `[number]` is an
object that both sides know by that number, or, below zero, a node of this message. Containers that can
change have numbers: both sides keep one each and bring them up to date with every message. What is no
data (functions, objects of classes of the program's own, iterators) has a number too and stays where it is.

What is read here may have been written by untrusted code: it can only become data of exactly the types
below, or raise `NonsenseError`.
"""

from __future__ import annotations

import gc
import operator
import re
import sys
import types
from array import array
from collections import ChainMap, Counter, OrderedDict, UserList, defaultdict, deque
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
    "SimpleNamespace": types.SimpleNamespace,
    "typed array": array,
    "UserList": UserList,
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
    "memoryview": (memoryview, lambda v: memoryview(_bytes(v)), lambda v: (_seen_through(v),)),
    "PosixPath": (PosixPath, PosixPath, lambda v: (str(v),)),
    "PurePosixPath": (PurePosixPath, PurePosixPath, lambda v: (str(v),)),
    # A view shows what its dictionary holds later, too.
    "keys": (type({}.keys()), lambda v: dict.keys(_mapped(v)), lambda v: (_viewed(v),)),
    "values": (type({}.values()), lambda v: dict.values(_mapped(v)), lambda v: (_viewed(v),)),
    "items": (type({}.items()), lambda v: dict.items(_mapped(v)), lambda v: (_viewed(v),)),
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
    "alias": (
        types.GenericAlias,
        lambda origin, *args: types.GenericAlias(origin, args),
        lambda v: (v.__origin__, *v.__args__),
    ),
}
MADE_NAMES = {kind: name for name, (kind, _, _) in MADE.items()}
PACKAGED = {
    ("sortedcontainers.sortedlist", "SortedList"),
    ("sortedcontainers.sortedset", "SortedSet"),
    ("sortedcontainers.sorteddict", "SortedDict"),
    ("uuid", "UUID"),
}
"""Types of packages that both sides may load: rebuilt from the arguments below."""


def _mapped(value: Any) -> dict:
    if not isinstance(value, dict):
        raise NonsenseError("no dictionary")
    return value


def _viewed(view: Any) -> dict:
    (found,) = gc.get_referents(view)
    return found


VIEWS: dict[type, Callable[[Any], dict]] = {
    type({}.keys()): dict.fromkeys,
    type({}.values()): lambda view: dict(enumerate(view)),
    type({}.items()): dict,
}
"""Views of dictionaries, and how one is copied that shows no more than the view."""


def _bytes(value: Any) -> bytes | bytearray:
    if not isinstance(value, (bytes, bytearray)):
        raise NonsenseError("no bytes")
    return value


def _seen_through(view: memoryview) -> Any:
    """What a view of memory shows: the bytes that it may change, where it shows all of them."""
    shown = view.obj
    if type(shown) is not bytearray or not view.contiguous or view.format != "B":
        return view.tobytes()
    return shown if view.nbytes == len(shown) else view.tobytes()


def _pattern(text: Any, flags: Any) -> re.Pattern:
    if type(text) not in (str, bytes) or type(flags) is not int:
        raise NonsenseError("no pattern")
    return re.compile(text, flags)


def packaged(value: Any) -> tuple[str, tuple] | None:
    """Name and arguments of a value of such a type."""
    kind = type(value)
    if (kind.__module__, kind.__qualname__) not in PACKAGED or _loaded(kind) is not kind:
        return None
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


ARRAY = "array"
"""Form of numpy's arrays, which are containers that can change; their type is known where numpy is."""


def array_type() -> type | None:
    """The type of arrays, if this process has loaded numpy."""
    numpy = sys.modules.get("numpy")
    return getattr(numpy, "ndarray", None)


def is_array(value: Any) -> bool:
    """Whether it is an array of numbers or texts, and of no class of its own."""
    return type(value) is array_type() and _is_flat(value.dtype)


def _is_flat(kind: Any) -> bool:
    return not (kind.hasobject or kind.names or kind.subdtype)


def number_parts(value: Any) -> list | None:
    """`[dtype, bytes]` of one number of numpy; None for others."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value).__module__ != "numpy" or not isinstance(value, numpy.generic):
        return None
    return [value.dtype.str, value.tobytes().hex()] if _is_flat(value.dtype) else None


def number_of(parts: list) -> Any:
    """The number; raises whatever numpy raises."""
    kind, content = parts
    return _read_numbers(kind, bytes.fromhex(content))[0]


def array_of(parts: list) -> Any:
    """An array of what `parts` gives; raises whatever numpy raises."""
    kind, content, changeable, *shape = parts
    made = _read_numbers(kind, content).reshape(shape).copy()
    made.flags.writeable = changeable is True
    return made


def _read_numbers(kind: Any, content: bytes) -> Any:
    import numpy

    if not isinstance(kind, str) or "O" in kind or "," in kind or "V" in kind:
        raise NonsenseError("no type of an array")
    return numpy.frombuffer(content, numpy.dtype(kind))


def _fill_array(value: Any, items: list) -> None:
    found = array_of(items)
    if value.dtype != found.dtype or value.size != found.size:
        raise NonsenseError("another array")
    if value.shape != found.shape:
        value.shape = found.shape
    if value.tobytes() != found.tobytes():
        value[...] = found
    value.flags.writeable = found.flags.writeable


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
    if kind is types.SimpleNamespace:
        return [each for pair in vars(value).items() for each in pair]
    if kind is array_type():
        return [value.dtype.str, value.tobytes(), value.flags.writeable, *value.shape]
    return list(kind.__iter__(value))


def same(kind: type, one: list, other: list) -> bool:
    """Whether the parts that a container had are those that it has."""
    if kind is array_type():
        return one == other
    return len(one) == len(other) and all(map(operator.is_, one, other))


def _mapping(kind: type) -> Any:
    """Whose methods read and fill a dictionary: one keeps an order of its own, others count or make."""
    return OrderedDict if kind is OrderedDict else dict


def fill(kind: type, value: Any, items: list) -> None:
    """Let a container hold these parts, if it does not already."""
    if issubclass(kind, dict):
        _mapping(kind).clear(value)
        _mapping(kind).update(value, zip(items[::2], items[1::2], strict=True))
    elif kind is types.SimpleNamespace:
        vars(value).clear()
        vars(value).update(zip(map(_named, items[::2]), items[1::2], strict=True))
    elif kind is array:
        value[:] = array(value.typecode, items)
    elif kind is array_type():
        _fill_array(value, items)
    elif kind is set:
        set.clear(value)
        set.update(value, items)
    elif kind is deque:
        deque.clear(value)
        deque.extend(value, items)
    else:
        kind.__setitem__(value, slice(None), items)


def _named(name: Any) -> str:
    if not isinstance(name, str):
        raise NonsenseError("no name")
    return name


def global_type(module: str, name: str) -> type | None:
    """A type that both sides know by name: built in, one of those above, or the library's exceptions."""
    found = getattr(sys.modules.get(module), name, None)
    if not isinstance(found, type):
        return None
    if module == "builtins" or found in MUTABLE_NAMES or found in MADE_NAMES:
        return found
    known = module.partition(".")[0] in sys.stdlib_module_names
    return found if known and issubclass(found, BaseException) else None
