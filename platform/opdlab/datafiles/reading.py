"""One file: JSON Lines, JSON, CSV, TSV or Parquet, each of them gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from opdlab.datafiles.texts import csv_rows, decoded, json_rows
from opdlab.errors import DataError

Row = dict[str, Any]

_TEXTS = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*(f"{one}{packed}" for one in _TEXTS for packed in ("", ".gz")), ".parquet")
_GZIP = b"\x1f\x8b"


def has_format(path: str | Path) -> bool:
    """Whether the name ends like that of a file which can be read, in capitals or not."""
    return str(path).lower().endswith(SUFFIXES)


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
        raise DataError(f"{path} is of no known format; use one of {', '.join(SUFFIXES)}")
    try:
        content = _bytes(path)
        rows = _rows(path.name.lower().removesuffix(".gz"), content, columns, split)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if columns is None:
        return rows
    return [{name: row[name] for name in columns if name in row} for row in rows]


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def _rows(
    name: str, content: bytes, columns: Collection[str] | None, split: str | None
) -> list[Row]:
    if name.endswith(".parquet"):
        return _parquet(content, columns)
    text = decoded(content)
    if name.endswith((".csv", ".tsv")):
        return csv_rows(text, "\t" if name.endswith(".tsv") else ",")
    return json_rows(text, split)


def _parquet(content: bytes, columns: Collection[str] | None) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(content))
    wanted = None if columns is None else [c for c in file.schema_arrow.names if c in columns]
    return [plain(row) for row in file.read(columns=wanted).to_pylist()]


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
