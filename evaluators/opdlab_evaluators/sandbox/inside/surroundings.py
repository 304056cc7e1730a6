"""What tests change around a program: streams, random numbers, environment, time zone, Python's limits."""

from __future__ import annotations

import contextlib
import decimal
import io
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from random import getstate, setstate
from typing import Any, final

from .wire import HandoverError

_ENVIRONMENT = os.environ
# They change what the judge's own processes run.
_OF_PROCESSES = ("LD_", "PYTHON")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@final
class Surroundings:
    """Of one process; what the judge's differ in is told with each question, and applied to its answer."""

    def __init__(self) -> None:
        self.streams = (sys.stdout, sys.stdin, sys.stderr)
        self.limits = _limits()
        self.seeded = self.zoned = False
        self.apart = ""
        self.environment = dict(os.environ)

    def notice(self, on_zone: Callable[[], None]) -> None:
        """From now on, tell seeds that the tests set, for programs draw from them, a time zone, and files.

        Args:
            on_zone: called when `time.tzset` was.
        """
        seed, tzset = random.seed, time.tzset

        def noticed(*args: Any, **kwargs: Any) -> None:
            seed(*args, **kwargs)
            self.seeded = True

        def zoned() -> None:
            tzset()
            self.zoned = True
            on_zone()

        def audited(event: str, args: tuple) -> None:
            writes = event == "open" and args[0] != os.devnull and args[2] & _WRITING
            if writes or event in ("os.chdir", "os.mkdir"):
                self.apart = "programs do not see the files of the tests"

        random.seed, time.tzset = noticed, zoned
        sys.addaudithook(audited)

    def told(self) -> dict[str, Any]:
        """What is otherwise than it was at the beginning; nothing of it leads anywhere.

        Raises:
            HandoverError: the tests' input is no text in memory.
        """
        told: dict[str, Any] = {}
        if sys.stdout is not self.streams[0]:
            told["prints"] = True
        if sys.stderr is not self.streams[2]:
            told["complains"] = "apart" if sys.stderr is not sys.stdout else "prints"
        if sys.stdin is not self.streams[1]:
            if not isinstance(sys.stdin, io.StringIO):
                raise HandoverError(f"the tests put a {type(sys.stdin).__name__} for sys.stdin")
            told["given"] = sys.stdin.getvalue()[sys.stdin.tell() :]
        if limits := self._changed_limits():
            told["limits"] = limits
        if self.seeded:
            told["drawn"], self.seeded = getstate(), False
        if os.environ != self.environment:
            before, self.environment = self.environment, dict(os.environ)
            told["environment"] = _changes(before, self.environment)
        if self.zoned:
            told["zone"], self.zoned = True, False
        return told

    def own(self) -> dict[str, Any]:
        """What the program changed of its own since this was last asked, or told by the judge."""
        before, self.environment = self.environment, dict(_ENVIRONMENT)
        found = {
            "environment": _changes(before, self.environment),
            "limits": self._changed_limits(),
        }
        return {what: changed for what, changed in found.items() if changed}

    def _changed_limits(self) -> dict[str, int]:
        before, self.limits = self.limits, _limits()
        return {name: value for name, value in self.limits.items() if before[name] != value}

    def learn(self, message: dict) -> None:
        """Have in the judge's environment what the program changed in its own, and limits that it raised.

        Raises:
            ValueError, TypeError: it is no text, or no number.
        """
        limits = message.get("limits", {})
        _set_limits(
            {name: limits[name] for name in limits if _is_more(limits[name], self.limits[name])}
        )
        self.limits |= {name: _limits()[name] for name in limits}
        for name, value in message.get("environment", {}).items():
            if name.startswith(_OF_PROCESSES):
                continue
            _set(os.environ, name, value)
            _set(self.environment, name, value)

    def heard(self, message: dict) -> None:
        """Let the tests' streams have what the program printed and lack what it read."""
        printed, taken = message.get("printed"), message.get("taken")
        complained = message.get("complained")
        if isinstance(printed, str) and sys.stdout not in (None, self.streams[0]):
            sys.stdout.write(printed)
        if isinstance(complained, str) and complained and sys.stderr not in (None, self.streams[2]):
            sys.stderr.write(complained)
        if type(taken) is int and taken > 0 and isinstance(sys.stdin, io.StringIO):
            sys.stdin.read(taken)


@contextlib.contextmanager
def applied(told: dict) -> Iterator[dict[str, Any]]:
    """Have it so in this process; what is given is filled with what came of it."""
    said: dict[str, Any] = {}
    _set_limits(told.get("limits", {}))
    if "drawn" in told:
        version, state, gauss = told["drawn"]
        setstate((version, tuple(state), gauss))
    for name, value in told.get("environment", {}).items():
        _set(os.environ, name, value)
    if told.get("zone"):
        time.tzset()
    printed = io.StringIO() if told.get("prints") else None
    given = io.StringIO(told["given"]) if "given" in told else None
    apart = io.StringIO() if told.get("complains") == "apart" else None
    before = sys.stdout, sys.stdin, sys.stderr
    sys.stdout, sys.stdin = printed or before[0], given or before[1]
    if "complains" in told:
        sys.stderr = apart or printed or before[2]
    try:
        yield said
    finally:
        sys.stdout, sys.stdin, sys.stderr = before
        said |= {} if printed is None else {"printed": printed.getvalue()}
        said |= {} if apart is None else {"complained": apart.getvalue()}
        said |= {} if given is None else {"taken": given.tell()}


def _changes(before: dict[str, str], now: dict[str, str]) -> dict[str, str | None]:
    """What is set now, and by None what is no more."""
    changed = {name: value for name, value in now.items() if before.get(name) != value}
    return changed | dict.fromkeys(before.keys() - now.keys())


def _set(environment: MutableMapping[str, str], name: str, value: str | None) -> None:
    if value is None:
        environment.pop(name, None)
    else:
        environment[name] = value


def _limits() -> dict[str, int]:
    return {
        "recursion": sys.getrecursionlimit(),
        "digits": sys.get_int_max_str_digits(),
        "precision": decimal.getcontext().prec,
    }


def _set_limits(limits: dict[str, int]) -> None:
    if "recursion" in limits:
        sys.setrecursionlimit(limits["recursion"])
    if "digits" in limits:
        sys.set_int_max_str_digits(limits["digits"])
    if "precision" in limits:
        decimal.getcontext().prec = limits["precision"]


def _is_more(limit: int, than: int) -> bool:
    """Whether a limit lets through more, as none does, which is 0: less would make values look alike."""
    return than != 0 and (limit == 0 or limit > than)
