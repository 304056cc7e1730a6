"""What a forked child does with a program: run it with a real stdin, serve its functions, or judge them.

`script`: the program is `__main__`, as if started by hand. `serve`: it is a module, and its functions are
called from outside, with data in and data out. `judge`: trusted tests run against functions that are
served by another process, so that values are compared where untrusted code never was.
"""

from __future__ import annotations

import atexit
import builtins
import io
import os
import sys
import threading
import traceback
from types import ModuleType
from typing import Any, NoReturn

from . import frames, plain

CHANNEL = 3
TESTS = "<tests>"
LONGEST_REASON = 300


def main(mode: str, program: str, options: dict[str, Any]) -> NoReturn:
    """Do one job and end the process."""
    _open_streams()
    sys.set_int_max_str_digits(0)
    sys.argv = ["solution.py"]
    code = 0
    try:
        {"script": _script, "serve": _serve, "judge": _judge}[mode](program, options)
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException:  # noqa: BLE001
        # Whatever a program raises ends it with a traceback, as the interpreter itself would.
        traceback.print_exc()
        code = 1
    _finish(code)


def _open_streams() -> None:
    def stream(number: int, mode: str, errors: str) -> io.TextIOWrapper:
        opened = open(number, mode + "b", buffering=-1, closefd=False)  # noqa: SIM115
        return io.TextIOWrapper(opened, "utf-8", errors, line_buffering=number == 2)  # pyright: ignore

    sys.stdin = sys.__stdin__ = stream(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = stream(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = stream(2, "w", "backslashreplace")


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0) & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _finish(code: int) -> NoReturn:
    """End as the interpreter does: threads, exit functions, streams."""
    try:
        threading._shutdown()  # pyright: ignore
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001
        # As above.
        traceback.print_exc()
        code = code or 1
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except Exception:  # noqa: BLE001
            # A full or closed output is the program's own doing.
            code = code or 120
    os._exit(code)


def _module(name: str, preamble: str, program: str) -> dict[str, Any]:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(preamble, "<preamble>", "exec"), module.__dict__)
    exec(compile(program, "solution.py", "exec"), module.__dict__)
    return module.__dict__


def _script(program: str, options: dict[str, Any]) -> None:
    _module("__main__", options.get("preamble", ""), program)


class _Objects:
    """What is no data stays here and is known outside by its number."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def opaque(self, value: Any) -> dict:
        self.kept.append(value)
        return {"object": [len(self.kept) - 1, type(value).__name__]}

    def resolve(self, value: Any) -> Any:
        """The decoded value with its objects put back, at any depth."""
        if isinstance(value, plain.Opaque):
            return self.kept[value.handle]
        if isinstance(value, (list, tuple, set, frozenset)):
            return type(value)(self.resolve(each) for each in value)
        if isinstance(value, dict):
            return {self.resolve(key): self.resolve(each) for key, each in value.items()}
        return value


def _serve(program: str, options: dict[str, Any]) -> None:
    try:
        names = _module("solution", options.get("preamble", ""), program)
    except BaseException as error:
        frames.send(CHANNEL, _described(error))
        raise
    frames.send(CHANNEL, {"value": None})
    objects = _Objects()
    while (request := frames.receive(CHANNEL)) is not None:
        frames.send(CHANNEL, _answer(plain.loads(request), names, objects))


def _answer(request: dict, names: dict[str, Any], objects: _Objects) -> dict:
    try:
        target, args, kwargs = (objects.resolve(plain.decode(part)) for part in request["call"])
        found = _target(target, names, objects)
        return {"value": plain.encode(found(*args, **kwargs), objects.opaque)}
    except BaseException as error:  # noqa: BLE001
        # An exception is an answer too; a test may even ask for it.
        return _described(error)


def _target(target: Any, names: dict[str, Any], objects: _Objects) -> Any:
    """A function by name, a method of a new object of a class, or an action on an object that is kept."""
    if isinstance(target, str):
        owner, _, method = target.rpartition("().")
        if owner:
            return getattr(names[owner](), method)
        if target not in names:
            raise NameError(f"name {target!r} is not defined")
        return names[target]
    kept, action = target
    return {
        "get": lambda name: getattr(kept, name),
        "set": lambda name, value: setattr(kept, name, value),
        "call": kept,
        "list": lambda: list(kept),
    }[action]


def _described(error: BaseException) -> dict:
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return {"error": [kinds[0], f"{type(error).__name__}: {_text(error)}"[:LONGEST_REASON]]}


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001
        # An exception whose text raises is only a program's joke.
        return ""


class _Object:
    """An object of the other process: its attributes can be read and set there, and it can be called."""

    def __init__(self, opaque: plain.Opaque) -> None:
        object.__setattr__(self, "_opaque", opaque)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _call([self._opaque, "get"], (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        _call([self._opaque, "set"], (name, value), {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _call([self._opaque, "call"], args, kwargs)

    def __iter__(self) -> Any:
        return iter(_call([self._opaque, "list"], (), {}))


def _call(target: Any, args: tuple, kwargs: dict) -> Any:
    def opaque(value: Any) -> dict:
        if isinstance(value, _Object):
            return plain.encode(value._opaque)
        raise plain.UnplainError(f"a {type(value).__name__} cannot be handed over")

    call = [plain.encode(part, opaque) for part in (target, list(args), kwargs)]
    frames.send(CHANNEL, {"call": call})
    reply = frames.receive(CHANNEL)
    if reply is None:
        raise EOFError("the program ended")
    answer = plain.loads(reply)
    if "error" in answer:
        kind, text = answer["error"]
        known = getattr(builtins, str(kind), None)
        # Memory that ran out there has not run out here.
        if isinstance(known, type) and issubclass(known, Exception) and known is not MemoryError:
            raise known(str(text))
        raise RuntimeError(str(text))
    return _wrapped(plain.decode(answer["value"]))


def _wrapped(value: Any) -> Any:
    if isinstance(value, plain.Opaque):
        return _Object(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_wrapped, value))
    if isinstance(value, dict):
        return {key: _wrapped(each) for key, each in value.items()}
    return value


def _remote(name: str) -> Any:
    return lambda *args, **kwargs: _call(name, args, kwargs)


def _judge(program: str, options: dict[str, Any]) -> None:
    names: dict[str, Any] = {"__name__": "tests"}
    verdict: dict[str, Any] = {"passed": True}
    try:
        exec(compile(options.get("preamble", ""), "<preamble>", "exec"), names)
        names |= {name: _remote(served) for name, served in options["remote"].items()}
        exec(compile(program, TESTS, "exec"), names)
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001
        # Any exception in a test is a test that failed.
        verdict = {"passed": False, "reason": _failure(error, program)}
    frames.send(CHANNEL, verdict)


def _failure(error: BaseException, program: str) -> str:
    """The error and the line of the tests that met it."""
    lines = program.splitlines()
    places = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == TESTS]
    line = lines[places[-1] - 1].strip() if places and places[-1] else ""
    text = f"{type(error).__name__}: {_text(error)}".removesuffix(": ")
    return (
        f"{text[:LONGEST_REASON]} at `{line[:LONGEST_REASON]}`" if line else text[:LONGEST_REASON]
    )
