"""Rows that one JSON object holds: by split, under a name, or column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]

SPLITS = ("train", "test", "validation", "valid", "dev", "prompt", "data")
HOLDERS = (
    *SPLITS,
    *[
        "examples",
        "rows",
        "records",
        "items",
        "instances",
        "samples",
        "questions",
        "problems",
        "prompts",
    ],
)
"""Names under which files hold their rows, beside others that hold a version or a source."""
_OF_A_MESSAGE = {"role", "from"}


def rows_of_object(whole: Row, split: str | None) -> list[Row]:
    """The rows of a split, or all that the object holds; an object that holds none is a row itself.

    Read are `{"test": [...]}`, `{"version": 1, "data": [...]}`, columns as lists or by row number, and the
    forms that pandas calls `split`, `index` and `table`. A list of chat messages is a value of a row.

    Raises:
        ValueError: the split is not there, or columns differ in length.
    """
    lists = {name: value for name, value in whole.items() if _is_rows(name, value)}
    if split in lists:
        return objects(lists[split])
    held = [name for name in lists if name in HOLDERS or len(whole) == 1]
    if len(held) == 1:
        return objects(lists[held[0]])
    if len(lists) > 1 and len(lists) == len(whole):
        raise ValueError(f"it has no split {split!r}, only {', '.join(whole)}")
    tables = {name: columns for name, value in whole.items() if (columns := _columns(value))}
    if tables and len(tables) == len(whole) and all(name in (split, *SPLITS) for name in whole):
        return _of_tables(tables, split)
    columns = _columns(whole)
    if columns:
        return _turned(columns)
    if whole and all(isinstance(value, dict) for value in whole.values()) and _numbered(whole):
        return list(whole.values())
    return [whole]


def objects(rows: Any) -> list[Row]:
    """Rows that are objects; raises ValueError with the number of one that is none."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is a {type(row).__name__}, not an object with columns")
    return list(rows)


def _is_rows(name: str, value: Any) -> bool:
    """Whether a value is a list of rows; an empty one is, under the name of a split."""
    if not isinstance(value, list):
        return False
    if not value:
        return name in SPLITS
    return all(isinstance(each, dict) and not _OF_A_MESSAGE & each.keys() for each in value)


def _columns(value: Any) -> dict[str, list[Any]]:
    """Columns by name; empty where an object is not a table."""
    if not isinstance(value, dict) or not value:
        return {}
    if {"columns", "data"} <= value.keys() and _is_grid(value["columns"], value["data"]):
        names = value["columns"]
        return {name: [row[place] for row in value["data"]] for place, name in enumerate(names)}
    if all(isinstance(each, list) and not _of_objects(each) for each in value.values()):
        return dict(value)
    if all(isinstance(each, dict) and _numbered(each) for each in value.values()):
        rows = [set(each) for each in value.values()]
        if all(row == rows[0] for row in rows):
            return {name: [each[key] for key in each] for name, each in value.items()}
    return {}


def _is_grid(names: Any, rows: Any) -> bool:
    return (
        isinstance(names, list)
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )


def _of_objects(values: list[Any]) -> bool:
    return any(isinstance(each, dict) for each in values)


def _numbered(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(key.isdecimal() for key in value)


def _of_tables(tables: Mapping[str, dict[str, list[Any]]], split: str | None) -> list[Row]:
    if split is not None and split in tables:
        return _turned(tables[split])
    if len(tables) > 1:
        raise ValueError(f"it has no split {split!r}, only {', '.join(tables)}")
    return _turned(next(iter(tables.values())))


def _turned(columns: Mapping[str, list[Any]]) -> list[Row]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"its columns differ in length: {listed}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
