"""What a forked child does with a program: run it with a real stdin, serve its functions, or judge them.

`script`: the program is `__main__`, as if started by hand. `call`: one function is called with data, and
answers with data. `serve`: it is a module that another process uses. `judge`: trusted tests run against
what is served, so that values are compared where untrusted code never was.
"""

from __future__ import annotations

import atexit
import builtins
import io
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Collection
from types import CodeType, ModuleType
from typing import Any, NoReturn

from . import frames, mirror, plain
from .clock import Clock
from .patches import Patches
from .peer import TESTS_MODULE, EndedError, Peer
from .wire import NonsenseError

CHANNEL, SERVED, CLOCK = 3, 4, 5
TESTS = "<tests>"
LONGEST_REASON = 300


def main(mode: str, program: str, options: dict[str, Any]) -> NoReturn:
    """Do one job and end the process."""
    _open_streams()
    if mode in ("script", "call"):
        sys.set_int_max_str_digits(0)
    sys.argv = ["solution.py"]
    code = 0
    try:
        _MODES[mode](program, options)
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


def _compiled(text: str, name: str) -> CodeType:
    # Else this file's own import from `__future__` would hold for programs, and annotations be texts.
    return compile(text, name, "exec", dont_inherit=True)


def _module(name: str, preamble: str, program: str) -> dict[str, Any]:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(_compiled(preamble, "<preamble>"), module.__dict__)
    exec(_compiled(program, "solution.py"), module.__dict__)
    return module.__dict__


def _script(program: str, options: dict[str, Any]) -> None:
    _module("__main__", options.get("preamble", ""), program)


def _serve(program: str, options: dict[str, Any]) -> None:
    """Let the process that judges use what a program defines."""
    peer = Peer(CHANNEL, guarded=False)
    try:
        names = _module("solution", options.get("preamble", ""), program)
    except BaseException as error:
        frames.send(CHANNEL, {"refused": _described(error)})
        raise
    shown: dict[str, Any] = {}

    def changed() -> dict[str, Any]:
        """Names that the tests use, and whose values are others than the tests know."""
        found = {
            name: names[served]
            for name, served in options["names"].items()
            if served in names and (name not in shown or shown[name] is not names[served])
        }
        shown.update(found)
        return found

    peer.names = changed
    peer.reply([None])
    try:
        while True:
            peer.answer(peer.receive())
    except EndedError:
        return


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text(error)}"[:LONGEST_REASON]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001
        # An exception whose text raises is only a program's joke.
        return ""


def _call(program: str, options: dict[str, Any]) -> None:
    """Call one function with data, and answer with data."""
    process, own = os.getpid, os.getpid()
    try:
        names = _module("solution", options.get("preamble", ""), program)
        asked = json.loads(frames.receive(CHANNEL) or b"null")
        owner, _, method = asked["target"].rpartition("().")
        if owner:
            found = getattr(names[owner](), method)
        elif method in names:
            found = names[method]
        else:
            raise NameError(f"name {method!r} is not defined")
        answer = {"value": plain.encode(found(*asked["args"]))}
    except BaseException as error:
        if process() == own:
            frames.send(CHANNEL, {"error": _described(error)})
        raise
    # A fork that came back answers for nobody: its parent does.
    if process() == own:
        frames.send(CHANNEL, answer)


def _judge(program: str, options: dict[str, Any]) -> None:
    """Run the tests on what another process serves, and say whether they passed."""
    module = sys.modules[TESTS_MODULE] = ModuleType(TESTS_MODULE)
    names: dict[str, Any] = module.__dict__
    clock = Clock(CLOCK)
    clock.know_delays()
    peer = Peer(SERVED, guarded=True, clock=clock)
    builtins.__build_class__ = mirror.build_class
    names["super"] = mirror.above
    peer.around.notice(lambda: patches.keep_zone())
    peer.patches = patches = Patches(f"{options.get('preamble', '')}\n{program}")
    said: dict[str, Any] = {"passed": True}

    def bound(found: dict[str, Any]) -> None:
        if not found.keys() <= options["names"].keys():
            raise NonsenseError("a name that the tests do not use")
        names.update(found)
        named = map(found.get, options["classes"])
        peer.know_served(found.values())
        peer.trusted |= {each for each in named if isinstance(each, mirror.Mirror)}

    def asked() -> None:
        frames.send(CHANNEL, {"phase": "asked"})
        peer.on_ask = lambda: None

    peer.on_names, peer.on_ask = bound, asked
    tests = _prepared(program, options.get("preamble", ""), names)
    if tests is None:
        return
    try:
        loaded = peer.receive()
        if "refused" in loaded:
            frames.send(
                CHANNEL, {"passed": False, "reason": str(loaded["refused"])[:LONGEST_REASON]}
            )
            return
        peer.read(loaded)
        frames.send(CHANNEL, {"phase": "began"})
        exec(tests, names)
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001
        # Any exception in a test is a test that failed.
        patches.undo()
        fault = _fault(error, program, options["names"]) or peer.around.apart
        said = {"passed": False, "reason": _failure(error, program), "fault": fault}
    patches.undo()
    # A test may have caught what now follows.
    if peer.refusal is not None:
        reason = _failure(peer.refusal[0], program, peer.refusal[1])
        said = {"passed": False, "reason": reason, "fault": "programs get no such object"}
    elif peer.broken:
        said = {"passed": False, "reason": peer.broken}
    frames.send(CHANNEL, said)


FAULTY_TESTS = "whatever the program is, these tests fail: take another copy of the data"


def _prepared(program: str, preamble: str, names: dict[str, Any]) -> CodeType | None:
    """The tests ready to run, after what they need was run; None if that cannot be, which is then told."""
    try:
        exec(_compiled(preamble, "<preamble>"), names)
        return _compiled(program, TESTS)
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001
        # No program has been looked at yet, so it is no fault of one.
        said = {"passed": False, "fault": FAULTY_TESTS, "reason": _failure(error, program)}
        frames.send(CHANNEL, said)
        return None


def _fault(error: BaseException, tests: str, served: Collection[str]) -> str:
    """What of a failed test is no fault of the program; empty if it may be one.

    That is a module that the tests' own lines do not find, a name in them that nobody defines, or whatever
    fails in a line before the first one that uses the program. Nor is what cannot be read from here.
    """
    if isinstance(error, mirror.UnreadableError):
        return "programs cannot be asked for that"
    places = traceback.extract_tb(error.__traceback__)
    lines = [place.lineno or 0 for place in places if place.filename == TESTS]
    own = bool(places) and places[-1].filename == TESTS
    unknown = type(error) is NameError and error.name not in served
    if own and (isinstance(error, ImportError) or unknown):
        return FAULTY_TESTS
    return FAULTY_TESTS if lines and lines[0] < _first_use(tests, served) else ""


def _first_use(tests: str, served: Collection[str]) -> int:
    """The first line that mentions a name of the program; 0 if none does."""
    name = re.compile(rf"\b(?:{'|'.join(map(re.escape, served))})\b") if served else None
    found = name and name.search(tests)
    return tests.count("\n", 0, found.start()) + 1 if found else 0


def _failure(error: BaseException, program: str, stack: list[tuple[str, int]] | None = None) -> str:
    """The error and the line of the tests that met it, by its traceback unless a stack is given."""
    lines = program.splitlines()
    if stack is None:
        found = traceback.extract_tb(error.__traceback__)
        stack = [(each.filename, each.lineno or 0) for each in found]
    places = [line for name, line in stack if name == TESTS]
    line = lines[places[-1] - 1].strip() if places and places[-1] else ""
    text = f"{type(error).__name__}: {_text(error)}".removesuffix(": ")
    return (
        f"{text[:LONGEST_REASON]} at `{line[:LONGEST_REASON]}`" if line else text[:LONGEST_REASON]
    )


_MODES = {"script": _script, "serve": _serve, "judge": _judge, "call": _call}
