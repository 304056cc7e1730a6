"""What tests put in the place of functions that programs call: `input`, `time.time`, by mock or by hand."""

from __future__ import annotations

import builtins
import contextlib
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, final

_PLACES: dict[str, ModuleType] = {
    "builtins": builtins,
    "time": time,
    "random": random,
    "os": os,
}
# Of `os` alone what does not carry the conversation itself.
_OF_OS = frozenset(("getcwd", "getenv", "listdir", "system", "getpid", "cpu_count"))
_MENTIONED = re.compile(
    r"\b(?:mock|patch|monkeypatch|builtins)\b|\b(?:time|random|os)\.\w+ ?= ?\w|\bsetattr\b"
)


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
    """Of the judge: which functions the tests replaced, each with one that leads to the replacement."""

    def __init__(self, tests: str) -> None:
        watched = _MENTIONED.search(tests) is not None
        self.before = {name: dict(vars(each)) for name, each in _PLACES.items() if watched}
        self.known: dict[tuple[str, str], tuple[Any, Callable[..., Any]]] = {}

    def now(self) -> list[tuple[str, str, Callable[..., Any]]]:
        """Module, name and stand-in of each function that is another than at the beginning."""
        found = []
        for place, before in self.before.items():
            for name, value in vars(_PLACES[place]).items():
                if value is before.get(name) or name.startswith("_") or not callable(value):
                    continue
                if name in before and (place != "os" or name in _OF_OS):
                    found.append((place, name, self._stand_in(place, name, value)))
        return found

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
