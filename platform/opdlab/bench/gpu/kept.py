"""The file of a suite's figures: read where it is sound, and written by one process at a time, which has
the card to itself."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock, Timeout

from opdlab.bench.gpu.figures import Card, Figure
from opdlab.errors import ConfigError, ResumeError, writing_to
from opdlab.files import built, damaged, hold_name, read_json, require_own_page

_REMEDY = "name another file by --to"
_SAME = ("device", "driver", "torch", "opdlab", "dtype")
CEILINGS = ("product", "bandwidth", "host")


def page_of(to: Path) -> Path:
    """Where the page of these figures lies."""
    return to.with_suffix(".html")


@contextmanager
def held(to: Path) -> Iterator[None]:
    """Hold the file for this process, with its folder; the system frees it however the process ends.

    Raises:
        ConfigError: the page would take the file's place.
        DataError: the page beside it is somebody else's.
        StorageError: its folder cannot be made or written.
        ResumeError: another process measures into it.
    """
    if page_of(to) == to:
        raise ConfigError(f"--to: {to} is where the page goes; name the figures {to.stem}.json")
    require_own_page(page_of(to))
    lock = FileLock(to.with_name(f".{to.name}.lock"), timeout=0)
    with writing_to(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise ResumeError(
                f"{to}: another process measures into it; wait until it has ended, or {_REMEDY}"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def measured_alone(card: Card) -> Iterator[None]:
    """Keep other suites of this machine from the card, which is known by its serial number.

    The system frees it however the process ends.

    Raises:
        ResumeError: another process measures it.
    """
    if card.device.type == "cpu":
        # Where the command is only tried.
        yield
        return
    try:
        name = hold_name(f"opdlab-card-{card.serial}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ResumeError(
            f"{card.device}: another `opdlab bench gpu` here measures this card ({card.serial}), and "
            "the two would measure one another; wait until it has ended, or name another card by "
            "--device"
        ) from error
    with name:
        yield


def earlier(to: Path, now: dict[str, Any]) -> dict[str, Any]:
    """What was measured before on such a machine.

    Raises:
        ConfigError: it was another machine.
        DataError: the file is damaged.
    """
    fresh = {"machine": now, "measured": {}}
    if not to.exists():
        return fresh
    found = read_json(to, "machine", "measured", remedy=_REMEDY)
    try:
        machine = _object(found["machine"], "machine")
        top = _object(found.get("ceilings", dict.fromkeys(CEILINGS, 1.0)), "ceilings")
        if wrong := unsound(top):
            raise TypeError(f"ceilings: {wrong}")
        for key, one in _object(found["measured"], "measured").items():
            _require_case(key, _object(one, key))
    except TypeError as error:
        raise damaged(to, str(error), _REMEDY) from error
    if changed := [key for key in _SAME if machine.get(key) != now[key]]:
        raise ConfigError(
            f"{to} was measured with {changed[0]} {machine.get(changed[0])}, this is "
            f"{now[changed[0]]}: {_REMEDY}, so that figures do not mix"
        )
    # Without new ones the page tells the ceilings that these figures are shares of.
    tops = {"ceilings": top} if "ceilings" in found else {}
    return {**fresh, **tops, "measured": found["measured"]}


def unsound(ceilings: Mapping[str, Any]) -> str:
    """Which ceiling nothing can be a share of, and why; empty where all are sound."""
    for name in CEILINGS:
        value = ceilings.get(name)
        if not _is_number(value) or value <= 0:
            return f"{name} is {value}, which is not a rate"
    return ""


def _require_case(key: str, one: Mapping[str, Any]) -> None:
    """Refuse, with TypeError, what no case wrote."""
    if not isinstance(one.get("error", ""), str) or not isinstance(one.get("figures"), list):
        raise TypeError(f"{key} holds no figures")
    for told in one["figures"]:
        try:
            figure = built(Figure, _object(told, "a figure"))
            if not _is_number(figure.value):
                raise TypeError(f"{figure.name} is {figure.value}")
        except TypeError as error:
            raise TypeError(f"{key}: {error}") from error


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is not an object")
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
