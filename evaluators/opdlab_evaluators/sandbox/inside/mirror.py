"""Stand-ins for objects that live in another process: their operations are carried out there.

The stand-in's class has the name, the bases and those operators that the real class has, so that `len`,
`[]`, `isinstance`, `with`, `except` and arithmetic mean what they mean in one interpreter. Content of a
built-in type (a named tuple's items, a string's text) is copied, and compared here.
"""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import itertools
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import Field, fields, is_dataclass, make_dataclass
from functools import partial
from typing import Any, NoReturn, Protocol

from .wire import HandoverError

_ARITHMETIC = "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor"
EQUAL = frozenset({"__eq__", "__ne__"})
ORDER = frozenset({"__lt__", "__le__", "__gt__", "__ge__"})
BINARY = frozenset(
    f"__{prefix}{name}__" for name in _ARITHMETIC.split() for prefix in ("", "r", "i")
)
_OTHER = """bool len iter next reversed getitem setitem delitem contains call hash str repr format bytes
int float complex index round trunc floor ceil neg pos abs invert enter exit length_hint fspath copy
deepcopy missing aiter anext aenter aexit await dir"""
OTHER = frozenset(f"__{name}__" for name in _OTHER.split())
SPECIAL = EQUAL | ORDER | BINARY | OTHER
"""Operators that are carried out where the object lives. Hooks by which a library lets an object decide
how it is compared (`__array_function__`, `__subclasscheck__`, ...) are not among them."""
_READABLE = """dict doc name qualname module annotations wrapped defaults kwdefaults code func self
slots members match_args"""
READABLE = frozenset(f"__{name}__" for name in _READABLE.split())
"""Attributes with underscores that may be read."""
_ASSURING = """startswith endswith issubset issuperset isdisjoint equals equal allclose isclose
array_equal"""
ASSURING = frozenset(_ASSURING.split())
"""Methods of well-known types that are told what is expected, and say whether it is so."""

_KNOWN = {
    (kind.__module__, kind.__name__): kind
    for kind in (
        *(types.GeneratorType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
        *(types.ModuleType, map, filter, zip, enumerate, reversed),
        *(each for each in vars(itertools).values() if isinstance(each, type)),
    )
}
_ABSTRACT: dict[str, Any] = {
    f"collections.abc.{name}": getattr(collections.abc, name)
    for name in ("Mapping", "MutableMapping", "Sequence", "MutableSequence", "Set", "MutableSet")
}
"""Abstract classes whose children are told by nothing but that they derive from them."""


(_FIELD,) = fields(make_dataclass("Example", ["name"]))


class UnreadableError(AttributeError):
    """An attribute that the object may have where it lives."""


class Carrier(Protocol):
    """What stand-ins need of the connection."""

    def carry(self, op: str, *values: Any) -> Any: ...

    def operate(self, target: Any, name: str, args: tuple) -> Any: ...

    def readable(self, target: Any, name: str) -> bool: ...

    def knows(self, target: Any) -> bool: ...

    def belongs(self, kind: type, value: Any) -> bool: ...

    def made_by_tests(self, kind: type, made: Any) -> None: ...

    def derived_by_tests(self, bases: tuple[type, ...], made: Any) -> None: ...

    def inherits(self, kind: Any, base: Any, name: str) -> bool: ...

    def refuse(self, error: HandoverError) -> None: ...


class Mirror(type):
    """Class of the classes of stand-ins; what is asked of such a class is answered by the real one."""

    carrier: Carrier

    def __new__(
        mcs, name: str, bases: tuple[type, ...], space: dict[str, Any], /, **named: Any
    ) -> Any:
        """A class of stand-ins, or what the tests derive from one: that is made where the program is."""
        if "carrier" not in space:
            return _derived(name, bases, space, named)
        return super().__new__(mcs, name, bases, space)

    def __init__(
        cls, name: str, bases: tuple[type, ...], space: dict[str, Any], /, **_: Any
    ) -> None:
        super().__init__(name, bases, space)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if type.__subclasscheck__(Mirror, cls) and len(args) == 3:
            return _derived(*args, {**kwargs, "metaclass": cls})
        made = cls.carrier.carry("call", cls, args, kwargs)
        cls.carrier.made_by_tests(cls, made)
        return made

    def __getattr__(cls, name: str) -> Any:
        return _read(cls, name, cls.carrier)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.startswith("__") or not cls.carrier.knows(cls):
            type.__setattr__(cls, name, value)
        else:
            cls.carrier.carry("set", cls, name, value, told_of(value))

    def __delattr__(cls, name: str) -> None:
        if name.startswith("__") or not cls.carrier.knows(cls):
            type.__delattr__(cls, name)
        else:
            cls.carrier.carry("del", cls, name)

    def __instancecheck__(cls, value: Any) -> bool:
        return type.__instancecheck__(cls, value) or cls.carrier.belongs(cls, value)

    def __iter__(cls) -> Any:
        return cls.carrier.operate(cls, "__iter__", ())

    def __len__(cls) -> int:
        return cls.carrier.operate(cls, "__len__", ())

    def __bool__(cls) -> bool:
        return True

    def __dir__(cls) -> list[str]:
        return list(cls.carrier.operate(cls, "__dir__", ()))

    def __getitem__(cls, key: Any) -> Any:
        return cls.carrier.operate(cls, "__getitem__", (key,))

    def __contains__(cls, value: Any) -> bool:
        return cls.carrier.operate(cls, "__contains__", (value,))


def _derived(
    name: str, bases: tuple[type, ...], space: dict[str, Any], named: dict[str, Any]
) -> Any:
    """A class of the tests on one of the program's; its methods are lent, and the rest of it must be data.

    Raises:
        HandoverError: it holds something else, has a base of the tests, or asks for what its bases do.
    """
    far = [each for each in (*bases, named.get("metaclass")) if isinstance(each, Mirror)]
    space = dict(space)
    cell = space.pop("__classcell__", None)
    what = next(filter(None, map(_unlendable, space, space.values())), "")
    if any(not isinstance(each, Mirror) and each.__module__ != "builtins" for each in bases):
        what = "a base of their own"
    if what:
        refuse_derived(far[0], what)
    carrier = far[0].carrier
    told = {key: told_of(value) for key, value in space.items()}
    lent = {key: _unwrapped(value) or value for key, value in space.items()}
    made = carrier.carry("derive", name, tuple(bases), lent, dict(named), told)
    carrier.derived_by_tests(bases, made)
    if cell is not None:
        cell.cell_contents = made
    return made


WRAPPERS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (property, staticmethod, classmethod)
}


def _unwrapped(value: Any) -> tuple | None:
    """The functions of a property, a static method or a class method."""
    if type(value) is property:
        return value.fget, value.fset, value.fdel
    return (value.__func__,) if type(value) in (staticmethod, classmethod) else None


def told_of(value: Any) -> tuple | None:
    """Name, qualified name, documentation and parameters of a function of the tests; None of others.

    Of what wraps functions: its kind, and that of each.
    """
    functions = _unwrapped(value)
    if functions is not None:
        return type(value).__name__, tuple(map(told_of, functions))
    # By its type: a stand-in of the program's function says that it is one too.
    if type(value) is not types.FunctionType:
        return None
    parameters = [
        (each.name, int(each.kind), each.default is not each.empty, _shown(each.default))
        for each in inspect.signature(value, follow_wrapped=False).parameters.values()
    ]
    return value.__name__, value.__qualname__, value.__doc__, parameters


PARAMETERS = ("__code__", "__defaults__", "__kwdefaults__")
"""What tells how a function takes its arguments."""


def parameters(function: Any, name: str) -> Any:
    """One of these of a function of the tests, without what else its code holds."""
    if name == "__defaults__":
        return function.__defaults__ and tuple(map(_shown, function.__defaults__))
    if name == "__kwdefaults__":
        found = function.__kwdefaults__
        return found and {key: _shown(value) for key, value in found.items()}
    code = function.__code__
    counts = {name: getattr(code, name) for name in _COUNTS}
    rest = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + rest]
    return types.SimpleNamespace(**counts, co_varnames=names)


_COUNTS = ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags")


def _shown(default: Any) -> Any:
    return default if type(default) in (int, float, str, bool, type(None)) else ...


def refuse_derived(base: Any, what: str, do: str = "derive a class from") -> NoReturn:
    """Say why a class cannot be made where its base lives; raises HandoverError."""
    error = HandoverError(f"the tests {do} the program's {base.__name__}, with {what}")
    base.carrier.refuse(error)
    raise error


def _unlendable(key: str, value: Any) -> str:
    """What of a class cannot be made elsewhere; empty of methods and data."""
    if key == "__annotations__":
        return "fields"
    functions = _unwrapped(value)
    if functions is not None:
        return next(filter(None, map(partial(_unlendable, key), functions)), "")
    if type(value) is types.FunctionType:
        return ""
    if isinstance(type(value), Mirror) and isinstance(value, types.FunctionType):
        return ""  # the program's own
    return "" if type(value) in _PLAIN else f"a {type(value).__name__}"


_PLAIN = (int, float, str, bool, bytes, type(None), list, dict, set, tuple)


def mirrored(
    carrier: Carrier,
    name: str,
    module: str,
    bases: list[type],
    specials: list[str],
    fields: list[str] | None = None,
    metaclass: type[Mirror] = Mirror,
) -> type:
    """A class of stand-ins.

    Args:
        fields: of a data class.
        metaclass: the stand-in of its class, if that is one of the program's own.

    Raises:
        TypeError, ValueError: there can be no class of this name, or no field.
    """

    def get(self: Any, name: str) -> Any:
        return _read(self, name, carrier)

    def put(self: Any, name: str, value: Any) -> None:
        if carrier.knows(self) and not name.startswith("__"):
            carrier.carry("set", self, name, value)
        else:
            object.__setattr__(self, name, value)

    def drop(self: Any, name: str) -> None:
        carrier.carry("del", self, name)

    space: dict[str, Any] = {
        "__getattr__": get,
        "__setattr__": put,
        "__delattr__": drop,
        "__module__": module,
        "__doc__": _Documentation(),
        "__slots__": (),
        "__dir__": lambda self: carrier.operate(self, "__dir__", ()),
        "__copy__": lambda self: carrier.operate(self, "__copy__", ()),
        "__deepcopy__": lambda self, memo: carrier.operate(self, "__deepcopy__", ()),
    }
    owner: list[type] = []
    space |= {each: _forwarder(carrier, each, owner) for each in specials if each in SPECIAL}

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        # Stand-ins are made without it: only tests call it, by its name.
        _by_name(owner[0], "__init__", (self, *args), kwargs)

    space["__init__"] = begin
    own = [each for each in specials if each.isidentifier() and not each.startswith("_")]
    space |= {each: property(partial(get, name=each)) for each in own}
    # Defining `==` alone takes `hash` away, as Python itself does.
    if "__eq__" in specials and "__hash__" not in specials:
        space["__hash__"] = None
    if fields is not None:
        # `asdict`, `fields` and `replace` read the fields here, and ask for what they hold there.
        space["__dataclass_fields__"] = {name: _field(name) for name in fields}
    known = _KNOWN.get((module, name))
    if known is not None and not bases:
        space["__class__"] = property(lambda self: known)
    space["carrier"] = carrier
    try:
        owner.append(_built(metaclass, name, bases or [object], space))
    except TypeError:
        # Bases that only fit together with what was left out of them.
        owner.append(_built(Mirror, name, bases[:1], space))
    return _registered(owner[0], specials)


def _registered(made: type, specials: list[str]) -> type:
    """The class as a child of abstract ones, without what only served to make it."""
    type.__delattr__(made, "__slots__")
    for each in _ABSTRACT.keys() & set(specials):
        _ABSTRACT[each].register(made)
    return made


_DEFINED = "hash call bool dir iter len getitem contains"
_OF_CLASSES = SPECIAL - EQUAL - {f"__{name}__" for name in _DEFINED.split()}


def metaclass(
    carrier: Carrier, name: str, module: str, bases: list[type], specials: list[str]
) -> type:
    """A stand-in of a metaclass, of which classes of stand-ins may be; it makes as `Mirror` does.

    Raises:
        TypeError: there can be no class of these bases.
    """
    space: dict[str, Any] = {"carrier": carrier, "__module__": module}
    space |= {each: _forwarder(carrier, each) for each in specials if each in _OF_CLASSES}
    return _built(Mirror, name, bases or [Mirror], space)


def _built(kind: type[Mirror], name: str, bases: list[type], space: dict[str, Any]) -> type:
    # To call one's stand-in would call the program's.
    made = kind.__new__(kind, name, tuple(bases), space)
    type.__init__(made, name, tuple(bases), space)
    return made


def _by_name(owner: Any, name: str, args: tuple, kwargs: dict) -> Any:
    """What a class's own method does, whatever overrides it."""
    return owner.carrier.carry("call", owner.carrier.carry("get", owner, name), args, kwargs)


class _Above:
    """What `super()` is in a class of the tests whose base is the program's."""

    def __init__(self, kind: Any, value: Any) -> None:
        object.__setattr__(self, "asked", (kind, value))

    def __getattribute__(self, name: str) -> Any:
        kind, value = object.__getattribute__(self, "asked")
        if name in SPECIAL - OTHER:
            refuse_derived(kind, f"a call of {name}", "name a method of")
        return kind.carrier.carry("super", kind, value, name)


def above(*args: Any) -> Any:
    """`super` for the tests, which finds what the program's classes have."""
    if not args:
        frame = sys._getframe(1)
        args = frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]]
    if isinstance(args[0], Mirror):
        return _Above(*args)
    return super(*args)  # pyright: ignore[reportArgumentType]


_build = builtins.__build_class__


def build_class(function: Any, name: str, /, *bases: Any, **named: Any) -> Any:
    """What a `class` statement does; refuses one whose metaclass is not that of a stand-in.

    Raises:
        HandoverError: in plain Python there may be such a class.
    """
    try:
        return _build(function, name, *bases, **named)
    except TypeError as error:
        all_bases = (*bases, named.get("metaclass"))
        base = next((each for each in all_bases if isinstance(each, Mirror)), None)
        raised_here = error.__traceback__ is None or error.__traceback__.tb_next is None
        if base is not None and raised_here and "metaclass conflict" in str(error):
            refuse_derived(base, "a metaclass of their own")
        raise


def _field(name: str) -> Field:
    """A field of this name alone: to make a data class of many takes long."""
    made = copy(_FIELD)
    made.name = str(name)
    return made


def _forwarder(carrier: Carrier, special: str, owner: Sequence[type] = ()) -> Callable[..., Any]:
    """What asks for an operator, which objects of `owner` have by it."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = next((each for each in type(self).__mro__ if special in vars(each)), None)
        named = owner and found is not owner[0]
        if named and not carrier.inherits(found, owner[0], special):
            # By its name, as a base's.
            if special not in OTHER:
                refuse_derived(owner[0], f"a call of {special}", "name a method of")
            return _by_name(owner[0], special, (self, *args), kwargs)
        if special == "__call__":
            return carrier.carry("call", self, args, kwargs)
        return carrier.operate(self, special, args)

    async def wait(self: Any, *args: Any) -> Any:
        return carrier.carry("await", carrier.operate(self, special, args))

    def awaited(self: Any) -> Iterator[None]:
        yield from ()
        return carrier.carry("await", self)

    if special in ("__anext__", "__aenter__", "__aexit__"):
        return wait
    if special == "__await__":
        return awaited
    forward.__name__ = forward.__qualname__ = special
    return forward


def _read(target: Any, name: str, carrier: Carrier) -> Any:
    if not carrier.readable(target, name):
        hidden = name.startswith("__") and name not in SPECIAL
        kind = UnreadableError if hidden else AttributeError
        raise kind(f"{name!r} of a {type(target).__name__} cannot be read from here")
    return carrier.carry("get", target, name)


class _Documentation:
    """The text of the real object: a class has one of its own before anyone is asked."""

    def __get__(self, target: Any, owner: Any) -> Any:
        asked = owner if target is None else target
        return _read(asked, "__doc__", owner.carrier) if owner.carrier.knows(asked) else None


def overridden(kind: type, inherited: frozenset[type]) -> list[str]:
    """Methods of the bases that both sides have, which a class carries out in its own way."""
    theirs = {name for base in inherited for name in dir(base)} - ASSURING
    own = {name for each in type.mro(kind) if each not in inherited for name in vars(each)}
    return sorted(name for name in own & theirs if not name.startswith("_"))


def fields_of(kind: type) -> list[str] | None:
    """Names of the fields of a data class; None of any other."""
    try:
        return [each.name for each in fields(kind)] if is_dataclass(kind) else None
    except Exception:  # noqa: BLE001
        # A class that only calls itself one.
        return None


def specials_of(kind: type, inherited: frozenset[type]) -> list[str]:
    """Operators that a class defines, but for those of the bases that both sides have."""
    found: set[str] = set()
    for each in type.mro(kind)[:-1] if kind is not type else ():
        if each not in inherited and each is not type:
            names = vars(each)
            found |= {name for name in SPECIAL if name in names and names[name] is not None}
            found |= {f"{each.__module__}.{each.__qualname__}"} & _ABSTRACT.keys()
    return sorted(found)
