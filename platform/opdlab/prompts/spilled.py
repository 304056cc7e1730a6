"""Rows kept for random access: in memory while they are few, else in a file that is mapped into it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any, final

import pyarrow as pa

IN_MEMORY = 64 << 20
"""Bytes of rows that are held; more lie in a temporary file."""
BATCH_ROWS, BATCH_CHARACTERS = 2048, 4 << 20
"""Rows are put away when there are so many, or so many characters in them."""
LARGE_FILES = "/var/tmp"
"""Where temporary files lie on a disk: /tmp may be a part of the memory. TMPDIR is another place."""
SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("prompt", pa.large_string()),
        ("messages", pa.large_string()),
        ("domain", pa.large_string()),
        ("gold", pa.large_string()),
        ("given", pa.large_string()),
    ]
)


@final
class Spilled:
    """Takes rows one after the other; `table` gives them back.

    The temporary file has no name any more when it is read: whatever ends the process frees its place.

    Args:
        in_memory: bytes up to which no file is made.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self.in_memory = in_memory
        self.rows: list[Mapping[str, Any]] = []
        self.batches: list[pa.RecordBatch] = []
        self.size, self.characters, self.path = 0, 0, ""
        self.writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row; raises OSError where the disk is full."""
        self.rows.append(row)
        self.characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self.rows) >= BATCH_ROWS or self.characters >= BATCH_CHARACTERS:
            self._batch()

    def _batch(self) -> None:
        batch = pa.RecordBatch.from_pylist(self.rows, SCHEMA)
        self.rows, self.characters = [], 0
        self.size += batch.nbytes
        if self.writer is None and self.size > self.in_memory:
            self._open()
        if self.writer is None:
            self.batches.append(batch)
        else:
            self.writer.write_batch(batch)

    def _open(self) -> None:
        set_apart = "TMPDIR" in os.environ or not os.access(LARGE_FILES, os.W_OK)
        handle, self.path = tempfile.mkstemp(
            ".arrow", "opdlab-prompts-", None if set_apart else LARGE_FILES
        )
        os.close(handle)
        self.writer = pa.ipc.new_file(self.path, SCHEMA)
        for batch in self.batches:
            self.writer.write_batch(batch)
        self.batches = []

    def table(self) -> pa.Table:
        """All rows; no more can be added."""
        if self.rows:
            self._batch()
        if self.writer is None:
            return pa.Table.from_batches(self.batches, SCHEMA)
        self.writer.close()
        source = pa.memory_map(self.path)
        table = pa.ipc.open_file(source).read_all()
        self.discard()
        return table

    def discard(self) -> None:
        """Take the file's name away; what is mapped stays."""
        if self.path:
            os.unlink(self.path)
            self.path = ""
