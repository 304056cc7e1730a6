"""One end of a conversation between two processes that use each other's functions and objects.

Each message brings the containers that changed up to date on the other side, so an argument that is
changed in place has changed for its owner as soon as the function returns. The end that judges is
`guarded`: it hands out no more than the tests do, and objects of the program are never asked whether
they equal the tests' data.
"""

from __future__ import annotations

import builtins
import copy
import inspect
import json
import operator
import os
import sys
import threading
import types
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, final

from . import frames, mirror, wire
from .clock import Clock
from .patches import Patches, put_in_place
from .reading import Reading
from .surroundings import Surroundings, applied
from .wire import HandoverError, NonsenseError
from .writing import Writing

TESTS_MODULE = "tests"
_process = os.getpid
_LENT_MODULES = ("_io", "io", "re", "random")
_OF_ITERATORS = ("__next__", "__iter__", "__length_hint__")
_TOLD = ("__name__", "__qualname__", "__doc__", "__module__")
"""What `functools.wraps` copies of a function."""
_OF_KINDS = {
    types.GeneratorType: ("send", "throw", "close"),
    types.FunctionType: (*_TOLD, *mirror.PARAMETERS),
}
"""What programs may read of the tests' objects of these kinds."""


class EndedError(EOFError):
    """The other process is gone."""


@final
class Peer:
    """A connection, and the objects that both ends know.

    Args:
        channel: file descriptor of a stream socket.
        guarded: this end is the judge.
        clock: tells how long this end worked itself.
    """

    def __init__(self, channel: int, guarded: bool, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.channel, self.guarded = channel, guarded
        self.process = _process()
        self.objects: dict[int, Any] = {}
        self.numbers: dict[int, int] = {}
        self.containers: dict[int, type] = {}
        self.seen: dict[int, list] = {}
        self.next = 2 if guarded else 1
        self.lock = threading.RLock()
        self.around = Surroundings()
        self.patches: Patches | None = None
        self.broken = ""
        self.refusal: tuple[HandoverError, list[tuple[str, int]]] | None = None
        self.on_ask: Callable[[], None] = lambda: None
        self.stands: dict[type, Any] = {}
        self.trusted: set[type] = set()
        self.derived: set[type] = set()
        self.served: set[int] = set()
        self.fresh: set[int] = set()
        self.created: set[int] = set()
        self.on_names: Callable[[dict[str, Any]], None] = lambda names: None
        self.names: Callable[[], dict[str, Any]] = dict

    # Which object is which.

    def mine(self, number: int) -> bool:
        """Whether this end gave the number."""
        return number % 2 == self.next % 2

    def add(self, value: Any, number: int | None = None, container: type | None = None) -> int:
        """Know an object from now on."""
        if number is None:
            number, self.next = self.next, self.next + 2
        else:
            self.created.add(id(value))
        self.objects[number] = value
        self.numbers[id(value)] = number
        if container is not None:
            self.containers[number] = container
        return number

    def forget(self, number: int) -> None:
        """Know a container no longer."""
        self.numbers.pop(id(self.objects.pop(number)), None)
        self.seen.pop(number, None)
        del self.containers[number]

    def knows(self, target: Any) -> bool:
        """Whether a stand-in is complete."""
        return id(target) in self.numbers

    def far(self, value: Any) -> bool:
        """Whether a value lives at the other end."""
        number = self.numbers.get(id(value))
        return number is not None and not self.mine(number) and number not in self.containers

    # Asking.

    def carry(self, op: str, *values: Any) -> Any:
        """Have something done at the other end; raises what it raised there."""
        with self.lock:
            if self.refusal is not None:
                raise HandoverError(*self.refusal[0].args)
            if self.broken:
                raise EndedError(self.broken)
            try:
                return self._carried(op, values)
            except HandoverError as error:
                self.refuse(error)
                raise

    def refuse(self, error: HandoverError) -> None:
        """Keep the first object that cannot be handed over, and from where: a test may catch the error."""
        if self.guarded and self.refusal is None and not self.broken:
            self.refusal = error, _stack()

    def _carried(self, op: str, values: tuple) -> Any:
        patched = self.patches.now() if self.patches else []
        told = self.around.told() if self.guarded else {}
        self.on_ask()
        fresh = self.fresh & {id(values[0])}
        if patched:
            told["patched"] = [patch[:2] for patch in patched]
        self._send({"ask": op, **told}, (*values, *(patch[2] for patch in patched)))
        # What is asked for its own operators has not been handed over by that.
        self.fresh |= fresh
        while True:
            message = self.receive()
            if "ask" not in message:
                break
            self.answer(message)
        found = self.read(message)
        if self.guarded:
            self.around.heard(message)
        if message.get("raised"):
            raise self._raised(found[0])
        return found[0]

    def _raised(self, error: Any) -> BaseException:
        if not isinstance(error, BaseException):
            return NonsenseError("no error was raised")
        return error

    def operate(self, target: Any, name: str, args: tuple) -> Any:
        """Have an operator of a far object carried out, unless it would be told what is expected."""
        if not self.guarded or self._may_operate(target, name, args):
            if name == "__contains__" or name == "__bool__":
                return bool(self.carry("do", target, name, args))
            if name == "__exit__" and self.guarded and args[:1] == (AssertionError,):
                # What failed in a `with` of the tests is no error that a program may swallow.
                self.carry("do", target, name, args)
                return False
            return self.carry("do", target, name, args)
        kinds = (k for k in type(target).__mro__ if not isinstance(k, mirror.Mirror))
        base = next((kind for kind in kinds if kind is not mirror.Mirror), object)
        if base is not object and hasattr(base, name):
            return getattr(base, name)(target, *args)
        if name == "__contains__":
            return any(each is args[0] or each == args[0] for each in target)
        for kind, content in ((Mapping, dict), (Set, set)) if name in mirror.EQUAL else ():
            if isinstance(target, kind) and isinstance(args[0], kind):
                return (content(target) == content(args[0])) is (name == "__eq__")
        return NotImplemented

    def _may_operate(self, target: Any, name: str, args: tuple) -> bool:
        if name in mirror.OTHER and name != "__contains__":
            return True
        if all(map(self.far, args)):
            return True
        if name in mirror.EQUAL:
            return id(target) in self.fresh
        return self._trusts(target)

    def made_by_tests(self, kind: type, made: Any) -> None:
        """Note that the tests made an object of a class that they are about.

        Until it is handed over or comes back, its `==` cannot stand for a function's result.
        """
        new = id(made) in self.created  # a class may give the same object again
        if self.guarded and new and kind in self.trusted | self.derived and type(made) is kind:
            self.fresh.add(id(made))

    def derived_by_tests(self, bases: tuple[type, ...], made: Any) -> None:
        """Note that the tests are about a class that they made of one that they are about."""
        if id(made) in self.created - self.served and any(map(self._trusts, bases)):
            self.derived.add(made)

    def know_served(self, found: Iterable[Any]) -> None:
        """Note what the program has for the tests' names: nothing of that is what the tests derived."""
        self.served |= {id(each) for each in found if isinstance(each, mirror.Mirror)}
        self.derived = {each for each in self.derived if id(each) not in self.served}

    def _trusts(self, target: Any) -> bool:
        kind = target if isinstance(target, type) else type(target)
        return any(each in self.trusted for each in kind.__mro__)

    def belongs(self, kind: type, value: Any) -> bool:
        """Whether a far class counts a far object as its own, though it is none of its children.

        So protocols do, and abstract classes. The judge alone asks: of nothing that is the tests' own.
        """
        known = self.guarded and self.far(kind) and self.far(value)
        return known and self.carry("isinstance", kind, value) is True

    def inherits(self, kind: Any, base: Any, name: str) -> bool:
        """Whether a far class has a method as it is in a far base."""
        known = self.guarded and self.far(kind) and self.far(base)
        return known and self.carry("get", kind, name) is self.carry("get", base, name)

    def readable(self, target: Any, name: str) -> bool:
        """Whether an attribute of a far object may be asked for."""
        if name.startswith("__") and name.endswith("__"):
            return name in mirror.READABLE
        return not self.guarded or name not in mirror.ASSURING or self._trusts(target)

    # Answering.

    def answer(self, message: dict) -> None:
        """Do what the other end asks, and say what came of it."""
        values = self.read(message)
        patched = [] if self.guarded else message.get("patched", [])
        count = len(values) - len(patched)
        values, stand_ins = values[:count], values[count:]
        with applied({} if self.guarded else message) as said, put_in_place(patched, stand_ins):
            if not self.guarded and message.keys() & {"environment", "limits"}:
                self.around.own()  # this much the judge knows
            try:
                outcome, raised = [self._perform(message["ask"], values)], False
            except (EndedError, NonsenseError, HandoverError):
                raise
            except BaseException as error:  # noqa: BLE001
                # An exception is an answer too; a test may even ask for it.
                outcome, raised = [error.with_traceback(None)], True
        values.clear()
        try:
            self.reply(outcome, raised, said)
        except HandoverError as error:
            if not self.guarded or message["ask"] == "call":
                raise
            # What a program reads of the tests' objects is its own affair.
            self.reply([TypeError(str(error))], True)

    def reply(self, outcome: list, raised: bool = False, said: Any = None) -> None:
        """Say what came of it; `outcome` is emptied, so that nothing here holds it any longer."""
        names = {} if self.guarded else self.names()
        message = self._written((*outcome, *names.values()))
        message |= {"raised": raised, "names": list(names), **(said or {})}
        outcome.clear()
        names.clear()
        if not self.guarded:
            message["gone"] = self._released()
        self._forward(message)

    def _perform(self, op: Any, values: list) -> Any:
        if self.guarded:
            self._check(op, values)
            if op == "get" and values[1] in mirror.PARAMETERS:
                return mirror.parameters(*values)
        return _OPERATIONS[op](*values)

    def _check(self, op: Any, values: list) -> None:
        """Refuse what leads from the tests' objects into the judge itself."""
        target = values[0]
        if not isinstance(op, str) or op not in ("get", "set", "do", "call"):
            raise NonsenseError(f"the program asked for {op!r}")
        number = self.numbers.get(id(target))
        plain = number in self.containers and not _tests_own(target)
        if number is None or not self.mine(number) or plain:
            raise NonsenseError("the program asked for something of no object")
        if op == "call":
            return
        name = values[1]
        if not _may_ask(target, op, name):
            what = f"{str(name)[:100]!r} of the tests' {type(target).__name__}"
            if _is_mock(target):
                raise HandoverError(f"the program uses {what}")
            raise AttributeError(what)

    def may_leave(self, value: Any) -> None:
        """Raise HandoverError for an object that this end must not lend."""
        if not self.guarded:
            return
        kind = type(value)
        if not (
            callable(value)
            or hasattr(kind, "__next__")
            or _tests_own(value)
            or kind.__module__ in _LENT_MODULES
        ) or isinstance(value, mirror.Mirror):
            raise HandoverError(f"the tests hand over a {kind.__name__}")

    def _released(self) -> list[int]:
        """Containers that nothing here holds any more; both ends may forget them."""
        self.seen.clear()
        gone = []
        for number in sorted(self.containers):
            # One of a class of the program's own may have attributes, which stay here.
            own = type(self.objects[number]) is not self.containers[number]
            if not own and sys.getrefcount(self.objects[number]) == _ALONE:
                self.forget(number)
                gone.append(number)
        return gone

    # Messages.

    def _written(self, values: tuple) -> dict:
        writing = Writing(self)
        items = [writing.item(value) for value in values]
        for number, kind in list(self.containers.items()):
            known = self.seen.get(number)
            if known is not None and not wire.same(
                kind, known, wire.parts(kind, self.objects[number])
            ):
                writing.again(number)
        message = {"items": items, "nodes": writing.nodes}
        return message if self.guarded else message | self.around.own()

    def _send(self, head: dict, values: tuple) -> None:
        message = self._written(values)
        try:
            self._forward(head | message)
        except OSError as error:
            self._break("the program ended in the middle of a test", error)

    def _forward(self, message: dict) -> None:
        if _process() != self.process:
            # A fork that came back from a program's function answers for nobody: its parent does.
            os._exit(1)
        frames.forward(self.channel, json.dumps(message).encode())

    def receive(self) -> dict:
        """The next message; raises EndedError."""
        self.clock.pause()
        text = frames.receive(self.channel)
        self.clock.resume()
        if text is None:
            self._break("the program ended in the middle of a test")
        try:
            message = json.loads(text)  # pyright: ignore
            if isinstance(message, dict):
                return message
        except (ValueError, RecursionError) as error:
            self._break("the program says nonsense", error)
        self._break("the program says nonsense")
        raise AssertionError

    def _break(self, why: str, cause: BaseException | None = None) -> None:
        self.broken = why
        raise EndedError(why) from cause

    def read(self, message: dict) -> list:
        """The values of a message; raises EndedError where it is none."""
        self.created = set()
        try:
            found = Reading(self, message["nodes"]).values(message["items"])
            if self.guarded:
                self.around.learn(message)
            for number in message.get("gone", ()):
                if number in self.containers:
                    self.forget(number)
            if self.guarded and message.get("names"):
                self.on_names(dict(zip(message["names"], found[1:], strict=True)))
        except HandoverError:
            raise
        except (EndedError, MemoryError):
            raise
        except Exception as error:
            # Whatever reading raises, no honest peer wrote it.
            self._break("the program says nonsense", error)
            raise AssertionError from error
        self.seen = {n: wire.parts(kind, self.objects[n]) for n, kind in self.containers.items()}
        return found


def _stack() -> list[tuple[str, int]]:
    """File and line of each call, the last one at the end; no file is asked, for tests may mock that."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def _tests_own(value: Any) -> bool:
    kind = value if isinstance(value, type) else type(value)
    return kind.__module__ == TESTS_MODULE and not isinstance(kind, mirror.Mirror)


def _may_ask(target: Any, op: str, name: Any) -> bool:
    """Whether a program may ask for this of an object that the tests lend."""
    kind = type(target)
    own = _tests_own(target) or kind.__module__ in _LENT_MODULES
    if op == "do":
        return name in mirror.SPECIAL and (own or _is_mock(target) or name in _OF_ITERATORS)
    told = _TOLD if isinstance(target, type) else _OF_KINDS.get(kind, ())
    if op == "get" and name in told:
        return True
    if not isinstance(name, str) or name.startswith("_"):
        return False
    # What a mock's class has is for the tests: what it was called with, and what it is to return.
    return own or (op == "get" and _is_mock(target) and not hasattr(kind, name))


def _is_mock(value: Any) -> bool:
    return type(value).__module__ == "unittest.mock"


def _do(target: Any, name: str, args: tuple) -> Any:
    if name in _BY_FUNCTION:
        return _BY_FUNCTION[name](target, *args)
    return getattr(type(target), name)(target, *args)


_BY_FUNCTION: dict[str, Callable[..., Any]] = {
    "__iter__": iter,
    "__next__": next,
    "__len__": len,
    "__getitem__": operator.getitem,
    "__contains__": operator.contains,
    "__hash__": hash,
    "__copy__": copy.copy,
    "__deepcopy__": copy.deepcopy,
}


def _call(target: Any, args: tuple, kwargs: dict) -> Any:
    try:
        return target(*args, **kwargs)
    except StopIteration as stop:
        if isinstance(target, (types.BuiltinMethodType, types.MethodWrapperType)):
            raise  # `next` of a generator, by another name
        # It would end a loop of the tests before its time, and with it what they check.
        raise RuntimeError("a function raised StopIteration") from stop


def _awaited(awaitable: Any) -> Any:
    """The result of an awaitable; all of them share a loop, as they do in one interpreter."""
    import asyncio

    async def whole() -> Any:
        return await awaitable

    if not _LOOPS:
        _LOOPS.append(asyncio.new_event_loop())
    return _LOOPS[0].run_until_complete(whole())


def _set(target: Any, name: str, value: Any, told: tuple | None = None) -> None:
    builtins.setattr(target, name, _method(value, told) if isinstance(target, type) else value)


def _derive(name: str, bases: tuple, space: dict, named: dict, told: dict) -> type:
    """A class of the tests, which holds functions for what they lend."""
    methods = {key: _method(value, told[key]) for key, value in space.items()}
    return types.new_class(name, bases, named, lambda own: own.update(methods))


def _method(value: Any, told: tuple | None) -> Any:
    if told and told[0] in mirror.WRAPPERS and len(told) == 2:
        return mirror.WRAPPERS[told[0]](*map(_method, value, told[1]))
    lent = type(type(value)) is mirror.Mirror and type(value).__name__ == "function"
    return _function(value, told) if lent and told else value


def _function(stand_in: Any, told: tuple) -> Callable[..., Any]:
    """A function for a stand-in of one, which would not be bound as a method is; see `told_of`."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return stand_in(*args, **kwargs)

    called.__name__, called.__qualname__, called.__doc__, parameters = told
    kinds = {int(kind): kind for kind in _PARAMETERS}
    signature = [
        inspect.Parameter(name, kinds[kind], default=default if has else inspect.Parameter.empty)
        for name, kind, has, default in parameters
    ]
    called.__signature__ = inspect.Signature(signature)  # pyright: ignore
    return called


_PARAMETERS = (
    *(inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD),
    *(inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY),
    inspect.Parameter.VAR_KEYWORD,
)


_LOOPS: list[Any] = []


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": builtins.getattr,
    "set": _set,
    "del": builtins.delattr,
    "call": _call,
    "do": _do,
    "await": _awaited,
    "derive": _derive,
    "isinstance": lambda kind, value: isinstance(value, kind),
    "super": lambda kind, value, name: getattr(super(kind, value), name),
}


def _alone() -> int:
    """References that are counted for an object which only a dictionary holds."""
    kept = {0: []}
    return sys.getrefcount(kept[0])


_ALONE = _alone()
