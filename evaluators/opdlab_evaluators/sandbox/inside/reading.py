"""The nodes of one message into values; see `wire`. Whatever is wrong with them raises."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, final

from . import mirror, wire
from .wire import NonsenseError

if TYPE_CHECKING:
    from .party import Party

_COPIED = {"int": int, "float": float, "str": str, "bytes": bytes, "complex": complex}
_SEQUENCES = {"tuple": tuple, "frozenset": frozenset}


@final
class Reading:
    """One message being read: what can change is made empty, then comes the rest, then it is filled."""

    def __init__(self, peer: Party, nodes: list[list]) -> None:
        self.peer, self.nodes = peer, nodes
        self.local: dict[int, Any] = {}

    def values(self, items: list) -> list:
        """The values that a message is about."""
        self._empty()
        for node in self.nodes:
            if not _can_change(node):
                if node[0] != "class":
                    self._fixed(node)
            elif node[1] not in self.peer.objects:
                self._container(node)
        for node in self.nodes:
            if _can_change(node):
                self._fill(node)
        return self._all(items)

    def _empty(self) -> None:
        """Make the classes, and the containers that need nothing else."""
        for node in self.nodes:
            if node[0] == "class":
                self._class(node)
            elif _can_change(node) and _alone(node) and node[1] not in self.peer.objects:
                self._container(node)

    def _all(self, items: list) -> list:
        if list not in set(map(type, items)):
            return items
        return [self._value(item) if type(item) is list else item for item in items]

    def _value(self, item: Any) -> Any:
        if type(item) is not list:
            return item
        if len(item) == 1:
            (number,) = item
            found = self.local[number] if number < 0 else self.peer.objects[number]
            self.peer.fresh.discard(id(found))
            return found
        if item[0] == "g":
            return self._global(item[1], item[2])
        return wire.unscaled(item)

    def _global(self, module: str, name: str) -> Any:
        found: Any = wire.global_type(module, name)
        if found is None and not self.peer.guarded:
            __import__(module)
            found = getattr(sys.modules[module], name)
        if found is None:
            raise NonsenseError(f"no type {module}.{name}")
        return found

    def _given(self, number: Any) -> int:
        """A number that the other end may give to something new."""
        if type(number) is not int or number <= 0 or self.peer.mine(number):
            raise NonsenseError(f"no new number {number!r}")
        if number in self.peer.objects:
            raise NonsenseError(f"{number} is something else")
        return number

    def _container(self, node: list) -> None:
        form, number, items, extra = node[:4]
        if form == wire.ARRAY:
            made = wire.array_of(self._all(items))
            self.peer.add(made, self._given(number), type(made))
            return
        base: Any = wire.MUTABLE[form]
        kind = self._value(node[4]) if len(node) > 4 else base
        if not isinstance(kind, type) or not issubclass(kind, base):
            raise NonsenseError(f"no class of a {form}")
        made: Any = base.__new__(kind, *(extra if form == "typed array" else ()))
        if form == "deque":
            base.__init__(made, (), *extra)
        elif form == "defaultdict":
            base.__init__(made, self._value(extra[0]))
        elif form == "bytearray":
            base.__init__(made, len(items))  # a view of its memory forbids another size later
        elif base.__init__ is not object.__init__:
            base.__init__(made)
        self.peer.add(made, self._given(number), base)

    def _fill(self, node: list) -> None:
        form, number, items = node[:3]
        base: Any = wire.MUTABLE.get(form) or wire.array_type()
        if self.peer.containers[number] is not base:
            raise NonsenseError(f"{number} is no {form}")
        self.peer.seen.pop(number, None)
        wire.fill(base, self.peer.objects[number], self._all(items))

    def _fixed(self, node: list) -> None:
        form, number, items = node[:3]
        if form == "far":
            self._far(node)
            return
        if number >= 0:
            raise NonsenseError("a value with a number")
        if form in _SEQUENCES:
            self.local[number] = _SEQUENCES[form](self._all(items))
        elif form == "made":
            self.local[number] = wire.rebuilt(node[3], self._all(items))
        elif form == "number":
            self.local[number] = wire.number_of(items)
        elif form == "error":
            self.local[number] = _error(*self._all(items))
        else:
            raise NonsenseError(f"no form {str(form)[:100]!r}")

    def _class(self, node: list) -> None:
        _, number, items, name, module, specials, fields, *meta = node
        bases = [self._value(item) for item in items]
        metaclass = bases.pop() if meta == ["of a metaclass"] else mirror.Mirror
        if not all(isinstance(base, type) for base in (*bases, metaclass)):
            raise NonsenseError("no bases")
        ranks = [issubclass(base, mirror.Mirror) for base in (*bases, metaclass)]
        if ranks != [meta == ["metaclass"]] * len(bases) + [True]:
            raise NonsenseError("no metaclass")
        if meta == ["metaclass"]:
            kind = mirror.metaclass(self.peer, str(name), str(module), bases, specials)
        else:
            named = str(name), str(module)
            kind = mirror.mirrored(self.peer, *named, bases, specials, fields, metaclass)
        self.peer.add(kind, self._given(number))

    def _far(self, node: list) -> None:
        _, number, items, form = node
        kind, *content = self._all(items)
        if not isinstance(kind, mirror.Mirror):
            raise NonsenseError("no class of an object")
        if form == "coroutine":
            made: Any = self._coroutine(number)
        elif form == "object":
            made = object.__new__(kind)
        elif form == "error":
            made = _error(kind, *content)
        elif form in _SEQUENCES:
            made = _SEQUENCES[form].__new__(kind, content)
        else:
            (exact,) = content
            if type(exact) is not _COPIED[form]:
                raise NonsenseError(f"no {form}")
            made = _COPIED[form].__new__(kind, exact)
        self.peer.add(made, self._given(number))

    def _coroutine(self, number: int) -> Any:
        async def awaited() -> Any:
            return self.peer.carry("await", self.peer.objects[number])

        return awaited()


def _can_change(node: list) -> bool:
    return node[0] in wire.MUTABLE or node[0] == wire.ARRAY


def _alone(node: list) -> bool:
    """Whether a new container needs nothing of the other nodes, such as a class."""
    return node[0] != "defaultdict" and len(node) == 4


def _error(kind: Any, cause: Any, context: Any, hidden: Any, *args: Any) -> BaseException:
    made = _bare_error(kind, args)
    made.__cause__, made.__context__ = cause, context  # a TypeError where one is no error
    made.__suppress_context__ = hidden is True
    return made


def _bare_error(kind: Any, args: tuple) -> BaseException:
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise NonsenseError("no error")
    if not isinstance(kind, mirror.Mirror):
        try:
            return kind(*args)
        except TypeError:
            # Some have arguments of a fixed number; their text alone is known.
            return BaseException.__new__(kind, *args)
    made: Any = BaseException.__new__(kind, *args)  # pyright: ignore
    BaseException.__init__(made, *args)
    return made
