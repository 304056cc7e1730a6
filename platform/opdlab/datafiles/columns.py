"""A value of a row by its path: a column, or a field of structs and of JSON texts inside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, final


@final
class Missing:
    """What a row without the column has there."""

    def __repr__(self) -> str:
        return "nothing"


MISSING: Final = Missing()
DEEPEST = 3
"""Levels of structs whose fields are told in a message."""


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a path such as `extra_info.question`; `MISSING` where the row has none.

    A column whose own name holds the dots comes first. A text that holds a JSON object or list is looked
    into, as files of RL data write their structs; an item of a list is named by its number from 0.
    """
    if path in row:
        return row[path]
    for end in range(len(path) - 1, 0, -1):
        if path[end] == "." and path[:end] in row:
            found = _inside(row[path[:end]], path[end + 1 :].split("."))
            if found is not MISSING:
                return found
    return MISSING


def _inside(value: Any, keys: list[str]) -> Any:
    for key in keys:
        value = opened(value)
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return MISSING
    return value


def opened(value: Any) -> Any:
    """The object or list that a text holds as JSON; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def needed(paths: Iterable[str]) -> set[str]:
    """Columns that may hold what the paths lead to."""
    return {path[:end] for path in paths for end in _ends(path)}


def _ends(path: str) -> Iterator[int]:
    yield from (place for place, letter in enumerate(path) if letter == "." and place)
    yield len(path)


def names_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Paths of all columns and of the fields of their structs, as they come."""
    found: dict[str, None] = {}
    for row in rows:
        for name in row:
            found.update(dict.fromkeys(_paths(str(name), row[name], DEEPEST)))
    return list(found)


def _paths(name: str, value: Any, deep: int) -> Iterator[str]:
    value = opened(value)
    if isinstance(value, Mapping) and value and deep > 1:
        for key, each in value.items():
            yield from _paths(f"{name}.{key}", each, deep - 1)
    else:
        yield name
