"""The rows of one source, read once: what they ask, and which of them cannot be used."""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from opdlab.datafiles import MISSING, Placed, RowError, names_of, placed, value_at
from opdlab.errors import DataError, MissingDataError
from opdlab.prompts.rows import Asked, Reader
from opdlab.prompts.spilled import IN_MEMORY, Spilled

if TYPE_CHECKING:
    from opdlab.configuration import DataSource

LOOKED_FOR_NAMES = 256
"""Rows whose columns are told where one is missing."""
MOST_REASONS = 20
KEPT_SOURCES = 4
"""Sources that a process remembers, by their contents and settings."""


@dataclass
class Fault:
    """Rows that have one thing wrong.

    Attributes:
        kind: `empty` or `broken`.
        first: place of the first of them, such as `row 2`.
    """

    kind: str
    reason: str
    first: str
    count: int = 0


@dataclass(frozen=True)
class Prepared:
    """Rows that can be used.

    Attributes:
        table: they, in the columns of `spilled.SCHEMA`.
        keys: of their texts, whitespace aside. uint64, one a row.
        files: which `file` numbers.
        read: rows that there are.
        left_out: rows that `where` leaves out.
        faults: what is wrong with the rows that cannot be used.
        sha256: of all that is used of the rows.
        path: as the settings have it.
    """

    path: str
    table: pa.Table
    keys: np.ndarray
    files: Sequence[Path]
    read: int
    left_out: int
    faults: Sequence[Fault]
    sha256: str
    revision: str | None

    def place(self, number: int) -> str:
        """Where a row lies: `row 3`, with its file where there are several."""
        row = self.table.column("row")[number].as_py()
        return _place(self.files, self.table.column("file")[number].as_py(), row)

    def value(self, column: str, number: int) -> Any:
        """A value of a row."""
        return self.table.column(column)[number].as_py()

    def texts(self, rows: np.ndarray) -> Iterator[tuple[str, str | None]]:
        """Prompt and messages of rows, in their order."""
        for first in range(0, len(rows), 1024):
            part = self.table.select(["prompt", "messages"]).take(
                pa.array(rows[first : first + 1024])
            )
            columns = (part.column(name).to_pylist() for name in ("prompt", "messages"))
            yield from zip(*columns, strict=True)


_KNOWN: dict[str, Prepared] = {}


def prepared(source: DataSource, in_memory: int = IN_MEMORY) -> Prepared:
    """Read a source; what this process has read of the same contents is not read again.

    Args:
        in_memory: bytes of rows that are held; more lie in a temporary file that is mapped.

    Raises:
        DataError: there are no such files, no rows, no such columns, or a file is malformed.
    """
    with _told("prompts", source):
        files = placed(source.path, source.split or "train", source.name, source.revision)
        key = _contents(files, source)
        if key not in _KNOWN:
            found = _read(files, Reader(source), in_memory, "prompts")
            while len(_KNOWN) >= KEPT_SOURCES:
                del _KNOWN[next(iter(_KNOWN))]
            _KNOWN[key] = found
    return _KNOWN[key]


def prepared_by(reader: Reader, section: str, configuration: str) -> Prepared:
    """Read a source with a reader of its own; nothing is remembered.

    Args:
        section: dotted key of the settings, for messages.
        configuration: key below it that holds `source.name`.

    Raises:
        DataError: see `prepared`.
    """
    source = reader.source
    with _told(section, source):
        where = (source.split or "train", source.name, source.revision, section, configuration)
        return _read(placed(source.path, *where), reader, IN_MEMORY, section)


@contextlib.contextmanager
def _told(section: str, source: DataSource) -> Iterator[None]:
    """Errors that name the section."""
    try:
        yield
    except MissingDataError as error:
        raise MissingDataError(f"{section}.path: {error}") from error
    except DataError as error:
        said = str(error)
        raise DataError(said if said.startswith(section) else f"{section}.path: {said}") from error
    except OSError as error:
        raise DataError(f"{section}.path: {source.path} cannot be read: {error}") from error


def _contents(files: Placed, source: DataSource) -> str:
    """A hash of the files' bytes and of the settings: a name or a time may be that of other contents."""
    digest = hashlib.sha256(source.model_dump_json(exclude={"weight", "limit"}).encode())
    for file in files.files:
        inside = sorted(file.rglob("*")) if file.is_dir() else [file]
        for each in inside:
            if each.is_file():
                with each.open("rb") as content:
                    digest.update(f"{each} ".encode())
                    digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _read(files: Placed, reader: Reader, in_memory: int, section: str) -> Prepared:
    source, kept = reader.source, _Kept(files.files, in_memory)
    seen = dict.fromkeys(reader.paths, False)
    read = left_out = 0
    try:
        for file, number, row in files.rows(reader.columns):
            read += 1
            for path in [path for path, found in seen.items() if not found]:
                seen[path] = value_at(row, path) is not MISSING
            place = kept.place(file, number)
            try:
                if not reader.wanted(row):
                    left_out += 1
                    continue
            except ValueError as error:
                raise DataError(f"{section}.where: {source.path}: {place}: {error}") from error
            try:
                kept.add(file, number, reader.asked(row))
            except RowError as error:
                kept.refuse(error, place)
        if not read:
            raise DataError(f"{source.path} has no rows")
        missing = {path: reader.paths[path] for path in seen if not seen[path]}
        _require_columns(files, source, missing, section)
        table = kept.spilled.table()
    finally:
        kept.spilled.discard()
    return Prepared(
        source.path,
        table,
        np.frombuffer(kept.keys, dtype=np.uint64) if kept.keys else np.zeros(0, np.uint64),
        files.files,
        read,
        left_out,
        list(kept.faults.values()),
        kept.digest.hexdigest(),
        files.revision,
    )


@dataclass
class _Kept:
    """Rows on their way to where they are kept."""

    files: Sequence[Path]
    in_memory: int
    keys: array = field(default_factory=lambda: array("Q"))
    faults: dict[str, Fault] = field(default_factory=dict)
    digest: Any = field(default_factory=hashlib.sha256)

    def __post_init__(self) -> None:
        self.spilled = Spilled(self.in_memory)
        self.numbers = {file: number for number, file in enumerate(self.files)}

    def place(self, file: Path, row: int) -> str:
        return _place(self.files, self.numbers[file], row)

    def add(self, file: Path, row: int, asked: Asked) -> None:
        kept = {
            "prompt": asked.prompt,
            "messages": asked.messages,
            "domain": asked.domain,
            "gold": asked.gold,
            "given": asked.given,
        }
        self.digest.update(json.dumps(list(kept.values()), ensure_ascii=False).encode() + b"\n")
        self.keys.append(asked.key)
        self.spilled.add({"file": self.numbers[file], "row": row, **kept})

    def refuse(self, error: RowError, place: str) -> None:
        reason = str(error)
        if reason not in self.faults and len(self.faults) >= MOST_REASONS:
            reason = "something else that cannot be used"
        fault = self.faults.setdefault(f"{error.kind}: {reason}", Fault(error.kind, reason, place))
        fault.count += 1


def _place(files: Sequence[Path], file: int, row: int) -> str:
    if len(files) == 1:
        return f"row {row}"
    name = files[file].name
    shared = sum(each.name == name for each in files) > 1
    return f"{files[file] if shared else name} row {row}"


def _require_columns(
    files: Placed, source: DataSource, missing: Mapping[str, str], section: str
) -> None:
    if not missing:
        return
    path, key = next(iter(missing.items()))
    with contextlib.closing(files.rows()) as rows:
        names = names_of(row for _, _, row in islice(rows, LOOKED_FOR_NAMES))
    named = section if key == "column" else f"{section}.{key}"
    raise DataError(
        f"{named}: {source.path} has no column {path!r}; it has {', '.join(names)[:2000]}"
    )
