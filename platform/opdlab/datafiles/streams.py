"""Rows one after the other: a file that is larger than the memory is never held as a whole."""

from __future__ import annotations

import csv
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from opdlab.datafiles.json_tables import Row
from opdlab.datafiles.packed import opened, refuse_archive
from opdlab.datafiles.reading import (
    FORMATS,
    bare_name,
    has_format,
    is_table,
    plain,
    require_names,
    rows_of_bytes,
)
from opdlab.datafiles.texts import parsed, rows_of_lines
from opdlab.errors import DataError

WHOLE = 8 << 20
"""Bytes up to which a file of text is read at once."""
BATCH = 128
"""Rows of a table that are held at a time: a row may have a megabyte."""


def iter_rows(
    path: str | Path,
    columns: Collection[str] | None = None,
    split: str | None = None,
    whole: int = WHOLE,
) -> Iterator[Row]:
    """The rows that `read_rows` gives, one after the other.

    Lines, CSV, Parquet and Arrow are streamed, packed ones as well; one list of JSON is read whole.

    Args:
        columns: read no others, to save memory; one that is missing is left out.
        whole: bytes of text up to which a file is read at once.

    Raises:
        DataError: as `read_rows`, when the row is reached.
    """
    path = Path(path)
    if not has_format(path):
        raise DataError(f"{path} is of no known format; use one of {FORMATS}")
    try:
        for row in _rows(path, columns, split, whole):
            yield row if columns is None else {n: row[n] for n in row if n in columns}
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from error


def _rows(
    path: Path, columns: Collection[str] | None, split: str | None, whole: int
) -> Iterator[Row]:
    name = path.name.lower()
    with path.open("rb") as raw:
        start = raw.read(64)
        refuse_archive(start)
        if is_table(name, start):
            yield from _table(path, start, columns)
            return
        raw.seek(0)
        stream = opened(raw, start)
        content = stream.read(whole + 1)
        lines = len(content) > whole and _by_lines(bare_name(name), content)
        if not lines:
            content += stream.read()
    if not lines:
        yield from rows_of_bytes(name, content, columns, split)
        return
    with path.open("rb") as raw:
        yield from _streamed(bare_name(name), opened(raw, start), json.detect_encoding(content[:4]))


def _by_lines(name: str, content: bytes) -> bool:
    """Whether the text can be read line by line: lines, a table, or objects of JSON on a line each."""
    if name.endswith((".csv", ".tsv", ".txt")):
        return True
    first = content.lstrip(b"\xef\xbb\xbf \r\n\t").partition(b"\n")[0]
    if json.detect_encoding(content[:4]) not in ("utf-8", "utf-8-sig"):
        return False
    try:
        return isinstance(json.loads(first, parse_int=str), dict)
    except (ValueError, RecursionError):
        return False


def _streamed(name: str, stream: Any, encoding: str) -> Iterator[Row]:
    number = 0
    newline = None if name.endswith(".txt") else ""
    text = io.TextIOWrapper(stream, encoding, newline=newline)
    reader = _csv_rows if name.endswith((".csv", ".tsv")) else _line_rows
    if not name.endswith((".csv", ".tsv", ".txt")):
        reader = _json_rows
    try:
        for row in reader(text, "\t" if name.endswith(".tsv") else ","):
            number += 1
            yield row
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a row after row {number} has a byte that is no {encoding.upper()} "
            f"(0x{error.object[error.start]:02x}); write the file as UTF-8"
        ) from error
    finally:
        text.close()


def _json_rows(text: io.TextIOWrapper, _: str) -> Iterator[Row]:
    number = 0
    for line in text:
        if line.strip():
            number += 1
            row = parsed(line, f"row {number}")
            if not isinstance(row, dict):
                raise ValueError(
                    f"row {number} is a {type(row).__name__}, not an object with columns"
                )
            yield row


def _line_rows(text: io.TextIOWrapper, _: str) -> Iterator[Row]:
    yield from rows_of_lines(text)


def _csv_rows(text: io.TextIOWrapper, delimiter: str) -> Iterator[Row]:
    # The limit of the csv module is one for the whole process.
    before = csv.field_size_limit(max(1 << 30, csv.field_size_limit()))
    number = 0
    try:
        table = filter(None, csv.reader(text, delimiter=delimiter, strict=True))
        names = next(table, [])
        if len(set(names)) < len(names):
            raise ValueError(f"its first line names a column twice: {', '.join(names)}")
        for number, cells in enumerate(table, start=1):
            if len(cells) != len(names):
                raise ValueError(f"row {number} has {len(cells)} cells, not {len(names)}")
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"row {number + 1} is malformed ({error})") from error
    finally:
        csv.field_size_limit(before)


def _table(path: Path, start: bytes, columns: Collection[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if start.startswith(b"PAR1") or path.name.lower().endswith(".parquet"):
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            require_names(names)
            kept = None if columns is None else [name for name in names if name in columns]
            batches: Any = file.iter_batches(BATCH, columns=kept)
            yield from _of_batches(batches)
        return
    if start.startswith(b"FEA1"):
        yield from rows_of_bytes(path.name.lower(), path.read_bytes(), columns, None)
        return
    with pa.memory_map(str(path)) as source:
        if start.startswith(b"ARROW1"):
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            file = batches = pa.ipc.open_stream(source)
        require_names(file.schema.names)
        kept = [name for name in file.schema.names if columns is None or name in columns]
        yield from _of_batches(batch.select(kept) for batch in batches)


def _of_batches(batches: Any) -> Iterator[Row]:
    for batch in batches:
        for first in itertools.count(0, BATCH):
            part = batch.slice(first, BATCH)
            if not part.num_rows:
                break
            yield from (plain(row) for row in part.to_pylist())
