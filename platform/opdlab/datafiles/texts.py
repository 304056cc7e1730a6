"""Texts as rows: JSON Lines, JSON, CSV, plain lines. Faults are ValueErrors that name the row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from opdlab.datafiles.json_tables import Row, objects, rows_of_object

LONGEST_INT = 4000
"""Digits up to which Python makes an `int` of a text; longer numbers become exact decimals."""


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


def json_rows(text: str, split: str | None = None, by_lines: bool = False) -> list[Row]:
    """Rows of JSON Lines, of a list of objects, or of one object that holds them (`rows_of_object`).

    Args:
        by_lines: the file is called JSON Lines: an object alone on its line is a row.

    Raises:
        ValueError: a row is no JSON or no object, has a name twice, or the split is not there.
    """
    start = text.lstrip()[:1]
    if start == "[":
        return objects(parsed(text, "the list"))
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and start == "{" and not _is_json(lines[0]) and _is_json(text):
        return rows_of_object(parsed(text, "the object"), split)
    rows = [parsed(line, f"row {number}") for number, line in enumerate(lines, start=1)]
    if len(rows) == 1 and isinstance(rows[0], dict) and not by_lines:
        return rows_of_object(rows[0], split)
    return objects(rows)


def parsed(text: str, where: str) -> Any:
    """One JSON value, numbers with all their digits; raises ValueError that says where."""
    try:
        return json.loads(
            text, parse_int=_whole_number, parse_float=_decimal, object_pairs_hook=_named_once
        )
    except (ValueError, RecursionError) as error:
        cut = "" if text.rstrip().endswith(("}", "]")) else "; the file may have been cut there"
        raise ValueError(f"JSON parse error in {where}: {error}{cut}") from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def _whole_number(text: str) -> int | Decimal:
    return int(text) if len(text) <= LONGEST_INT else Decimal(text)


def _decimal(text: str) -> float | Decimal:
    """A float, where it has all the digits that were written."""
    exact = Decimal(text)
    return found if Decimal(repr(found := float(text))) == exact else exact


def _named_once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {twice!r} twice")
    return row


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


def line_rows(text: str) -> list[Row]:
    """One row for each line that is not blank, with the column `text`.

    Lines end as files' lines do: U+2028, a form feed and their like are part of a text.
    """
    return list(rows_of_lines(io.StringIO(text, newline=None)))


def rows_of_lines(lines: Iterable[str]) -> Iterator[Row]:
    """The same of lines that end in `\\n`."""
    return ({"text": line.removesuffix("\n")} for line in lines if line.strip())
