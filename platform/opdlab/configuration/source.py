"""Values of an experiment as they were written, and where each stood: in the file, on the command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opdlab.configuration import explain
from opdlab.configuration.config import AnySweep
from opdlab.configuration.documents import Document, Key
from opdlab.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """Values as they were written, and where each was.

    Attributes:
        data: plain values.
        document: the file; None for values that come from a program.
        moved: what does not stand at its own place in the file: path to the place in the file where it
            does, or to a name of another origin.
    """

    data: Any
    document: Document | None
    moved: Mapping[explain.Path, explain.Path | str] = field(default_factory=dict)

    def where(self, path: explain.Path) -> str:
        """Origin of a value, as messages begin: file and line, or the command line."""
        for length in range(len(path), 0, -1):
            origin = self.moved.get(path[:length])
            if isinstance(origin, str):
                return origin
            if origin is not None:
                return self.where((*origin, *path[length:]))
        if self.document is None:
            return "configuration"
        return f"{self.document.name}:{self.document.line(path)}"


def set_values(source: Source, place: explain.Path, values: Mapping[str, Any]) -> Source:
    """The source of one run: without what makes several of it, with values that stand at `place`."""
    data = copy.deepcopy(source.data)
    data.pop("runs", None)
    data.pop("sweep", None)
    moved = dict(source.moved)
    for key, value in values.items():
        origin = (*place, key)
        try:
            path = assign(data, key, copy.deepcopy(value))
        except ValueError as error:
            raise ConfigError(f"{source.where(origin)}: {error}") from error
        moved[path] = origin
    return Source(data, source.document, moved)


def assign(root: dict[str, Any], key: str, value: Any) -> explain.Path:
    """Put a value at a dotted key, making missing sections; returns the path of what is new.

    Raises:
        ValueError: the key goes through something that has no keys, or past the end of a list.
    """
    place: Any = root
    path: list[Key] = []
    parts = key.split(".")
    made: explain.Path = ()
    while True:
        step, parts = _step(place, parts, path, value)
        path.append(step)
        if not parts:
            break
        if isinstance(place, dict) and place.get(step) is None:
            place[step] = {}
            made = made or tuple(path)
        place = place[step]
    place[step] = value
    return made or tuple(path)


def _step(place: Any, parts: list[str], path: Sequence[Key], value: Any) -> tuple[Key, list[str]]:
    """The key or index to go to from a place at `path`, and the parts of the key that are left.

    Args:
        value: what is to be put at the end of the parts.
    """
    name = explain.dotted(path)
    if isinstance(place, list):
        if not parts[0].isdecimal() or int(parts[0]) >= len(place):
            raise ValueError(f"{name} is a list of {len(place)}; name one by its number from 0")
        return int(parts[0]), parts[1:]
    if not isinstance(place, dict):
        raise ValueError(f"{name} is not a section, so {name}.{parts[0]} cannot be set")
    dotted = _has_dotted_keys(path)
    for length in range(len(parts), 0, -1):
        joined, left = ".".join(parts[:length]), parts[length:]
        if joined in place and not (dotted and left and _stands_beside(path, left, value)):
            return joined, left
    if dotted:
        # A section here would replace the experiment's own, and with it all that it sets.
        return ".".join(parts), []
    return parts[0], parts[1:]


def _has_dotted_keys(path: Sequence[Key]) -> bool:
    """Whether the mapping at a path has keys of the experiment, dots included, as its own keys."""
    match list(path):
        case ["runs", int(), "set"] | ["sweep", "space"] | ["sweep", "space", _, "when"]:
            return True
    return False


def _stands_beside(path: Sequence[Key], left: Sequence[str], value: Any) -> bool:
    """Whether a longer key is another one: `method.top_k` beside `method`, and no part of it.

    Args:
        left: the parts that the longer key has more.
    """
    if path[-1] == "when":
        return True
    return path[-1] == "space" and left[0] not in AnySweep.dotted and isinstance(value, dict)
