"""One file: JSON Lines, JSON, CSV, TSV, text, Parquet or Arrow, packed or not."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from opdlab.datafiles.json_tables import Row
from opdlab.datafiles.packed import PACKED, unpacked
from opdlab.datafiles.texts import csv_rows, decoded, json_rows, line_rows
from opdlab.errors import DataError

_TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".ndjson")
_LINES = ".txt"
_JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow", ".feather")
SUFFIXES = (*(f"{one}{packed}" for packed in ("", *PACKED) for one in _TEXTS), *TABLES)
"""Files with named columns."""
FORMATS = f"{', '.join((*_TEXTS, _LINES, *TABLES))}; texts also with {', '.join(PACKED)}"
"""What can be read, for messages."""
_POINTER = b"version https://git-lfs"


def has_format(path: str | Path) -> bool:
    """Whether the name ends like that of a file which can be read, in capitals or not."""
    name = str(path).lower()
    return name.endswith(SUFFIXES) or bare_name(name).endswith(_LINES)


def bare_name(name: str) -> str:
    """A name without what shows that the file is packed."""
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name


def read_rows(
    path: str | Path, columns: Collection[str] | None = None, split: str | None = None
) -> list[Row]:
    """The rows of the file of exactly this name.

    Whole numbers keep all their digits, beside decimals too; cells of CSV and TSV are texts; bytes that
    are UTF-8 are texts.

    Args:
        columns: read no others, to save memory; one that is missing is left out.
        split: which one to take from a JSON file that holds several under their names.

    Raises:
        DataError: the file is missing, of no known format, or malformed; it names the row.
    """
    path = Path(path)
    if not has_format(path):
        raise DataError(f"{path} is of no known format; use one of {FORMATS}")
    try:
        rows = rows_of_bytes(path.name.lower(), unpacked(path.read_bytes()), columns, split)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if columns is None:
        return rows
    return [{name: row[name] for name in columns if name in row} for row in rows]


def rows_of_bytes(
    name: str, content: bytes, columns: Collection[str] | None, split: str | None
) -> list[Row]:
    """Rows by what the first bytes show, else by the name; raises ValueError that names the row."""
    if is_table(name, content):
        return _table(name, content, columns)
    text = decoded(content)
    name = bare_name(name)
    if name.endswith((".csv", ".tsv")):
        return csv_rows(text, "\t" if name.endswith(".tsv") else ",")
    if name.endswith(_LINES):
        return line_rows(text)
    return json_rows(text, split, name.endswith(_JSON_LINES))


def is_table(name: str, content: bytes) -> bool:
    """Whether it is Parquet or Arrow, by its first bytes or its name; raises ValueError for a pointer."""
    if content.startswith(_POINTER):
        raise ValueError(
            "it is a pointer of Git LFS, not the file itself; run `git lfs pull` there"
        )
    return name.endswith(TABLES) or content.startswith((b"PAR1", b"ARROW1"))


def _table(name: str, content: bytes, columns: Collection[str] | None) -> list[Row]:
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.parquet as pq

    stream = pa.BufferReader(content)
    if content.startswith(b"PAR1") or name.endswith(".parquet"):
        file = pq.ParquetFile(stream)
        names = file.schema_arrow.names
        require_names(names)
        found = file.read(columns=None if columns is None else [c for c in names if c in columns])
    elif content.startswith((b"ARROW1", b"FEA1")):
        found = feather.read_table(stream)
    else:
        found = pa.ipc.open_stream(stream).read_all()
    require_names(found.column_names)
    kept = [name for name in found.column_names if columns is None or name in columns]
    return [plain(row) for row in found.select(kept).to_pylist()]


def require_names(names: list[str]) -> None:
    """Refuse a column that is there twice."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"it has the column {twice[0]!r} twice")


def is_text(value: str) -> bool:
    """Whether a text can be written down: JSON may name half a character, as `\\ud800` does."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """A value with its bytes as text, where they are UTF-8: some programs write texts as binary columns."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value
