"""What tests put in the place of functions that programs call: `input`, `time.time`, by mock or by hand."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import operator
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, final

from .wire import HandoverError

_PLACES: dict[str, ModuleType] = {
    "builtins": builtins,
    "time": time,
    "random": random,
    "os": os,
    "os.path": os.path,
}
# Of `os` alone what does not carry the conversation itself.
_OF_OS = frozenset(("getcwd", "getenv", "listdir", "system", "getpid", "cpu_count"))
_OF_ZONES = ("tzname", "timezone", "altzone", "daylight")
_TOLD_OTHERWISE = {("os", "environ"), ("sys", "stdin"), ("sys", "stdout"), ("sys", "stderr")}
_DATA = (bool, int, float, str, bytes, tuple, list, dict)
# Who replaces a function of these modules names the module.
_MENTIONED = re.compile(r"\b(?:mock|patch|monkeypatch|builtins|time|random|os)\b")
_NAMED = re.compile(r"""\bpatch\(\s*["']([\w.]+)\.(\w+)["']""")


def keep_builtins(package: str) -> None:
    """Give modules functions of their own: in them `len` is no program's or test's `len`.

    Args:
        package: whose modules these are, beside those that read and write messages.
    """
    kept = {name: value for name, value in vars(builtins).items() if not name.startswith("_")}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in (package, "json"):
            module.__dict__.update(kept | module.__dict__)


@final
class Patches:
    """Of the judge: which functions the tests replaced, each with one that leads to the replacement.

    Args:
        tests: whatever may replace one.
    """

    def __init__(self, tests: str) -> None:
        watched = _MENTIONED.search(tests) is not None
        self.before = {name: dict(vars(each)) for name, each in _PLACES.items() if watched}
        self.others = {
            (place, name): getattr(module, name, None)
            for place, name in set(_NAMED.findall(tests)) - _TOLD_OTHERWISE
            if place not in self.before and (module := _module(place))
        }
        self.known: dict[tuple[str, str], tuple[Any, Callable[..., Any]]] = {}

    def now(self) -> list[tuple[str, str, Callable[..., Any]]]:
        """Module, name and stand-in of each function that is another than at the beginning.

        Raises:
            HandoverError: programs would not get what the tests put there.
        """
        found = []
        for place, before in self.before.items():
            names = vars(_PLACES[place])
            if len(names) == len(before) and all(
                map(operator.is_, names.values(), before.values())
            ):
                continue
            for name, old in before.items():
                value = names.get(name)
                if _same(value, old) or (place, name) in _TOLD_OTHERWISE:
                    continue
                if not callable(value) or not _is_carried(place, name):
                    raise HandoverError(f"the tests replace {place}.{name}")
                found.append((place, name, self._stand_in(place, name, value)))
        for (place, name), old in self.others.items():
            if not _same(getattr(sys.modules.get(place), name, None), old):
                raise HandoverError(f"the tests replace {place}.{name}")
        return found

    def keep_zone(self) -> None:
        """What `time.tzset` has set is no replacement."""
        if "time" in self.before:
            self.before["time"] |= {name: getattr(time, name) for name in _OF_ZONES}

    def undo(self) -> None:
        """Have everything as it was at the beginning."""
        for place, before in self.before.items():
            vars(_PLACES[place]).update(before)

    def _stand_in(self, place: str, name: str, value: Any) -> Callable[..., Any]:
        known = self.known.get((place, name))
        if known is None or known[0] is not value:

            def called(*args: Any, **kwargs: Any) -> Any:
                return value(*args, **kwargs)

            known = self.known[place, name] = value, called
        return known[1]


def _same(value: Any, old: Any) -> bool:
    return value is old or (type(value) is type(old) and type(old) in _DATA and value == old)


def _is_carried(place: str, name: str) -> bool:
    if place.startswith("os"):
        return place == "os" and name in _OF_OS
    return not name.startswith("_")


def _module(name: str) -> ModuleType | None:
    """The module, which `patch` would import too; None where there is none."""
    try:
        return None if name == "__main__" else importlib.import_module(name)
    except Exception:  # noqa: BLE001
        # The tests will say so themselves.
        return None


@contextlib.contextmanager
def put_in_place(places: Sequence[Sequence[str]], values: Sequence[Any]) -> Iterator[None]:
    """Have functions of this process replaced while a question is answered."""
    patched = [(_PLACES[place], name) for place, name in places]
    before = [getattr(module, name) for module, name in patched]
    for (module, name), value in zip(patched, values, strict=True):
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in zip(patched, before, strict=True):
            setattr(module, name, value)
