"""Texts as rows: JSON Lines, JSON, CSV. Faults are ValueErrors that name the row."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

Row = dict[str, Any]

SPLITS = ("train", "test", "validation", "valid", "dev", "prompt", "data")


def decoded(content: bytes) -> str:
    """UTF-8, or the UTF-16 or UTF-32 that the first bytes show; without a byte order mark.

    Raises:
        ValueError: it is neither, as Latin-1 is; the first row with such a byte is named.
    """
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = content[: error.start].split(b"\n")[:-1]
        row = sum(1 for line in before if line.strip()) + 1
        raise ValueError(
            f"row {row} (line {len(before) + 1} of the file) has a byte that is no "
            f"{encoding.upper()} (0x{content[error.start]:02x}); write the file as UTF-8, such as by "
            "`iconv -f latin1 -t utf-8`"
        ) from error


def json_rows(text: str, split: str | None = None) -> list[Row]:
    """Rows of JSON Lines, of a list of objects, or of one object that holds such lists by split.

    Raises:
        ValueError: a row is no JSON or no object, or the split is not there.
    """
    start = text.lstrip()[:1]
    if start == "[":
        return _objects(_parsed(text, "the list"))
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and start == "{" and not _is_json(lines[0]):
        whole = _whole(text)
        if whole is not None:
            return _split(whole, split)
    rows = [_parsed(line, f"row {number}") for number, line in enumerate(lines, start=1)]
    if len(rows) == 1 and isinstance(rows[0], dict):
        return _split(rows[0], split)
    return _objects(rows)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else "; the file may have been cut there"
        raise ValueError(f"JSON parse error in {where}: {error}{cut}") from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _whole(text: str) -> dict[str, Any] | None:
    """One object over several lines; None if the text is none, so that its lines are looked at."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _split(whole: Row, split: str | None) -> list[Row]:
    """The rows of a split; an object that holds no lists under names of splits is a row itself."""
    named = split in whole or (bool(whole) and all(name in SPLITS for name in whole))
    if not (named and all(isinstance(value, list) for value in whole.values())):
        return [whole]
    if split not in whole and len(whole) > 1:
        raise ValueError(f"it has no split {split!r}, only {', '.join(whole)}")
    return _objects(whole[split] if split in whole else next(iter(whole.values())))


def _objects(rows: Any) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is a {type(row).__name__}, not an object with columns")
    return list(rows)


def csv_rows(text: str, delimiter: str) -> list[Row]:
    """Rows of a table whose first line names the columns; every cell is a text.

    Raises:
        ValueError: a row has other cells than the first line has columns, or a quote is open.
    """
    # The limit of the csv module is one for the whole process; a cell may be as long as the file.
    before = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if cells:
                rows.append(cells)
    except csv.Error as error:
        raise ValueError(f"row {max(len(rows), 1)} is malformed ({error})") from error
    finally:
        csv.field_size_limit(before)
    names, *values = rows or [[]]
    if len(set(names)) < len(names):
        raise ValueError(f"its first line names a column twice: {', '.join(names)}")
    for number, cells in enumerate(values, start=1):
        if len(cells) != len(names):
            raise ValueError(f"row {number} has {len(cells)} cells, not {len(names)}")
    return [dict(zip(names, cells, strict=True)) for cells in values]
