"""Values into the nodes of one message; see `wire`."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any, final

from . import mirror, wire

if TYPE_CHECKING:
    from .party import Party

COPIED: tuple[type, ...] = (int, float, str, bytes, tuple, frozenset, complex)
_WHOLE = {types.SimpleNamespace, wire.MUTABLE["typed array"], wire.MUTABLE["UserList"]}
BASES = frozenset({*COPIED, *wire.MUTABLE_NAMES} - _WHOLE)
"""Types whose content is copied, and whose subclasses' content is."""


@final
class Stand:
    """A type that the other side has too, described for the sake of its objects that stay here."""

    def __init__(self, kind: type) -> None:
        self.kind = kind


@final
class Writing:
    """One message being written. Depth costs no stack, and each object is written once."""

    def __init__(self, peer: Party) -> None:
        self.peer = peer
        self.nodes: list[list] = []
        self.local: dict[int, int] = {}
        self.kept: list[Any] = []

    def item(self, value: Any) -> Any:
        """The written form of a value, whose parts are in `nodes`; raises HandoverError."""
        out: list = []
        stack: list[tuple[list, Any, list]] = [([], iter((value,)), out)]
        while stack:
            _, waiting, items = stack[-1]
            for each in waiting:
                written = self._known(each)
                if written is not wire.ABSENT:
                    items.append(written)
                    continue
                opened = self._opened(each)
                items.append([opened[0][1]])
                stack.append((opened[0], iter(opened[1]), opened[2]))
                break
            else:
                node, _, _ = stack.pop()
                if node:
                    self.nodes.append(node)
        return out[0]

    def again(self, number: int) -> None:
        """Write what a known container holds now."""
        value = self.peer.objects[number]
        base = self.peer.containers[number]
        items: list = []
        node = [_form(base), number, items]
        parts = wire.parts(base, value)
        items += parts if wire.all_scalar(parts) else [self.item(part) for part in parts]
        self.nodes.append(node)

    def _known(self, value: Any) -> Any:
        written = wire.scalar(value)
        if written is not wire.ABSENT:
            return written
        if self.peer.guarded and type(value) is types.TracebackType:
            return None  # `__exit__` is told of it, and it leads to the judge's frames
        number = self.peer.numbers.get(id(value))
        if number is None:
            number = self.local.get(id(value))
        if number is not None:
            self.peer.fresh.discard(id(value))
            return [number]
        return self._by_name(value)

    def _by_name(self, value: Any) -> Any:
        """Types, and functions of libraries that the tests hand over: the other side has its own."""
        kinds = (
            type if not self.peer.guarded else (type, types.BuiltinFunctionType, types.FunctionType)
        )
        if not isinstance(value, kinds) or isinstance(value, mirror.Mirror):
            return wire.ABSENT
        module, name = value.__module__, value.__qualname__
        known = wire.global_type(module, name)
        if known is None and self.peer.guarded and _of_library(module):
            known = getattr(sys.modules.get(module), name, None)
        return ["g", module, name] if known is value else wire.ABSENT

    def _opened(self, value: Any) -> tuple[list, list, list]:
        """A node, the parts that are still to be written, and where their written forms go."""
        kind = type(value)
        items: list = []
        if kind in wire.MUTABLE_NAMES:
            return self._container(value, kind, items, None)
        if kind is tuple or kind is frozenset:
            return self._local(value, kind.__name__, list(value), items)
        if kind in wire.MADE_NAMES:
            name = wire.MADE_NAMES[kind]
            return self._local(value, "made", self._taken_apart(value, name), items, name)
        if wire.is_array(value):
            return self._container(value, kind, items, None)
        number = wire.number_parts(value)
        if number is not None:
            return self._local(value, "number", [], number)
        packaged = wire.packaged(value)
        if packaged is not None:
            return self._local(value, "made", list(packaged[1]), items, packaged[0])
        if isinstance(value, BaseException) and self._named(kind):
            return self._local(value, "error", [kind, *self._told(value)], items)
        if isinstance(value, type):
            self.peer.may_leave(value)
            return self._class(value, value, items)
        if type(value) is Stand:
            return self._class(value.kind, value, items)
        return self._object(value, kind, items)

    def _taken_apart(self, value: Any, name: str) -> list:
        if self.peer.guarded and type(value) in wire.VIEWS:
            return [wire.VIEWS[type(value)](value)]
        return list(wire.MADE[name][2](value))

    def _told(self, error: BaseException) -> list:
        """What an error came from, whether that is hidden, and its arguments."""
        if self.peer.guarded:  # what the tests' error came from may hold anything
            return [None, None, False, *self._args(error)]
        came = (error.__cause__, error.__context__, error.__suppress_context__)
        return [*came, *self._args(error)]

    def _named(self, kind: type) -> bool:
        return wire.global_type(kind.__module__, kind.__qualname__) is kind

    def _described(self, kind: type) -> Any:
        """What stands for the class of an object that stays here."""
        if self._by_name(kind) is wire.ABSENT:
            return kind
        if kind not in self.peer.stands:
            self.peer.stands[kind] = Stand(kind)
        return self.peer.stands[kind]

    def _args(self, error: BaseException) -> list:
        args = error.args
        if isinstance(error, OSError) and len(args) == 2 and isinstance(error.filename, str):
            args = (*args, error.filename)
        if isinstance(error, BaseExceptionGroup):
            args = (error.message, error.exceptions)
        # What an error of the tests holds is handed over where it is data.
        plain = not self.peer.guarded or all(type(each) in wire.SCALARS for each in args)
        return list(args) if plain else [_text(error)]

    def _local(
        self, value: Any, form: str, parts: list, items: list, name: str | None = None
    ) -> tuple[list, list, list]:
        number = -1 - len(self.local)
        self.local[id(value)] = number
        self.kept.append(value)
        node = [form, number, items] if name is None else [form, number, items, name]
        if parts and wire.all_scalar(parts):
            items += parts
            return node, [], items
        return node, parts, items

    def _container(
        self, value: Any, base: type, items: list, kind: type | None
    ) -> tuple[list, list, list]:
        number = self.peer.add(value, container=base)
        extra: list = []
        node = [_form(base), number, items, extra]
        parts = wire.parts(base, value)
        more: list = []
        if base is wire.MUTABLE["deque"]:
            extra.append(value.maxlen)
        elif base is wire.MUTABLE["typed array"]:
            extra.append(value.typecode)
        elif base is wire.MUTABLE["defaultdict"]:
            extra.append(self.item(value.default_factory))
        if kind is not None:
            node.append(self.item(kind))
        if wire.all_scalar(parts):
            items += parts
        else:
            more = parts
        return node, more, items

    def _class(self, kind: type, stand: object, items: list) -> tuple[list, list, list]:
        """A class as its stand-in is made; `stand` is what its number means here."""
        number = self.peer.add(stand)
        known = frozenset(each for each in type.mro(kind) if each in BASES or self._raised(each))
        inherited = known if stand is kind else frozenset()
        specials = mirror.specials_of(kind, inherited) + mirror.overridden(kind, inherited)
        node = ["class", number, items, str(kind.__name__)[:200], str(kind.__module__), specials]
        node.append(mirror.fields_of(kind))
        bases = [each for each in kind.__bases__ if self._is_base(each)] if stand is kind else []
        if stand is kind and not self.peer.guarded:
            if issubclass(kind, type):
                node.append("metaclass")
            elif not _of_library(type(kind).__module__):
                node.append("of a metaclass")
                bases.append(type(kind))
        return node, bases, items

    def _raised(self, kind: type) -> bool:
        return issubclass(kind, BaseException) and self._named(kind)

    def _is_base(self, kind: type) -> bool:
        return kind is not object and (
            kind in BASES or issubclass(kind, BaseException) or self._by_name(kind) is wire.ABSENT
        )

    def _object(self, value: Any, kind: type, items: list) -> tuple[list, list, list]:
        base = next((each for each in type.mro(kind) if each in BASES), None)
        if base in wire.MUTABLE_NAMES and base is not None:
            return self._container(value, base, items, kind)
        self.peer.may_leave(value)
        number = self.peer.add(value)
        content: list = []
        form = "object"
        if base is not None:
            form = base.__name__
            content = (
                list(base.__iter__(value)) if base in (tuple, frozenset) else [_exact(base, value)]
            )
        elif isinstance(value, BaseException):
            form, content = "error", self._told(value)
        elif isinstance(value, types.CoroutineType):
            form = "coroutine"
        return ["far", number, items, form], [self._described(kind), *content], items


def _form(base: type) -> str:
    return wire.MUTABLE_NAMES.get(base, wire.ARRAY)


def _of_library(module: Any) -> bool:
    return str(module).partition(".")[0] in sys.stdlib_module_names


def _exact(base: type, value: Any) -> Any:
    if base is str:
        return str.__str__(value)
    return bytes.__getitem__(value, slice(None)) if base is bytes else base.__pos__(value)  # pyright: ignore


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:  # noqa: BLE001
        # An exception whose text raises is only a program's joke.
        return ""
