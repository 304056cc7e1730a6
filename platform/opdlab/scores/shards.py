"""Answers with their scores in an Arrow file: one record batch, ragged columns, read by memory maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from opdlab.errors import DamagedError
from opdlab.files import damaged, whole_file
from opdlab.scores.kinds import id_bytes
from opdlab.shapes import Int, Tensor

if TYPE_CHECKING:
    import pyarrow as pa

BITS = "bfloat16 bits"
"""Column metadata of 16-bit whole numbers that are the bits of bfloat16 numbers."""
OF_ANSWER = ("place", "key", "seed", "benchmark", "problem", "verdict")
IDS = ("prompt", "response", "top_ids", "drawn", "candidates")
"""Columns of token ids, as short as the vocabulary allows."""


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer with what was said of it, as it is stored.

    Attributes:
        place: its number among those that were asked for.
        key: hash of its tokens, by which scores are found.
        ids, numbers: ragged columns: one list an answer, of a multiple of its tokens.
    """

    place: int
    key: int
    seed: int
    benchmark: str
    problem: str
    verdict: str | None
    columns: Mapping[str, Tensor]


def key_of(prompt: Sequence[int], response: Sequence[int]) -> int:
    """Hash of an answer's tokens, 63 bits."""
    text = f"{','.join(map(str, prompt))};{','.join(map(str, response))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def bytes_of(answers: Sequence[Answer], names: Sequence[str], entries: int) -> tuple[int, int]:
    """Bytes that answers take in a shard, what is known of each included, and of a file beside them.

    Args: see `write_shard`.
    """
    import pyarrow as pa

    batch = _batch(answers, names, entries)
    file = pa.MockOutputStream()
    _write(batch, file)
    return batch.nbytes, file.size() - batch.nbytes


def write_shard(path: Path, answers: Sequence[Answer], names: Sequence[str], entries: int) -> None:
    """Write answers as a shard: whole, or not there.

    Args:
        names: of the ragged columns.
        entries: of the vocabulary.
    """
    import pyarrow as pa

    with whole_file(path) as partial, pa.OSFile(str(partial), "wb") as file:
        _write(_batch(answers, names, entries), file)


def _write(batch: pa.RecordBatch, file: pa.NativeFile) -> None:
    import pyarrow as pa

    with pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)


def _batch(answers: Sequence[Answer], names: Sequence[str], entries: int) -> pa.RecordBatch:
    """Answers as they are written."""
    import pyarrow as pa

    kinds = {"place": pa.int64(), "key": pa.int64(), "seed": pa.int64()}
    arrays, fields = [], []
    for name in OF_ANSWER:
        kind = kinds.get(name, pa.string())
        arrays.append(pa.array([getattr(one, name) for one in answers], kind))
        fields.append(pa.field(name, kind))
    for name in names:
        parts = [one.columns[name] for one in answers]
        array, is_bits = _ragged(parts, name in IDS, entries)
        arrays.append(array)
        fields.append(pa.field(name, array.type, metadata={"of": BITS} if is_bits else None))
    return pa.record_batch(arrays, schema=pa.schema(fields))


def _ragged(parts: Sequence[Tensor], ids: bool, entries: int) -> tuple[pa.Array, bool]:
    """One list a part, and whether its numbers are bits of bfloat16."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([part.numel() for part in parts])]).astype(np.int64)
    flat = torch.cat([part.reshape(-1) for part in parts]) if parts else torch.zeros(0)
    is_bits = flat.dtype == torch.bfloat16
    values = flat.view(torch.uint16).numpy() if is_bits else flat.numpy()
    if ids:
        values = values.astype(f"u{id_bytes(entries)}")
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)), is_bits


def no_shard(path: Path, error: Exception) -> DamagedError:
    """What to say of a file that cannot be read as a shard."""
    note = path.with_suffix(".json").name
    again = (
        f"restore it from a copy, or remove it and {note}, and run the command again that made it"
    )
    return damaged(path, str(error), again)


class Shard:
    """A shard as it lies on the disk, mapped: a row costs the pages that it stands on."""

    def __init__(self, path: Path) -> None:
        """Map the file.

        Raises:
            DamagedError: it is no whole shard.
        """
        import pyarrow as pa

        self.path = path
        try:
            self.file = pa.memory_map(str(path))
            self.base = self.file.read_buffer().address if self.file.size() else 0
            self.file.seek(0)
            with pa.ipc.open_stream(self.file) as stream:
                self.batch = stream.read_next_batch()
        except (OSError, pa.ArrowInvalid, StopIteration) as error:
            raise no_shard(path, error) from error
        self.bits = {field.name for field in self.batch.schema if (field.metadata or {}).get(b"of")}
        self.offsets, self.values = {}, {}
        for name in self.batch.schema.names:
            if name not in OF_ANSWER:
                column = self.batch.column(name)
                self.offsets[name] = column.offsets.to_numpy()
                self.values[name] = column.values.to_numpy(zero_copy_only=True)

    def __len__(self) -> int:
        return self.batch.num_rows

    def told(self, row: int) -> dict[str, Any]:
        """What is known of an answer beside its tokens."""
        return {name: self.batch.column(name)[row].as_py() for name in OF_ANSWER}

    def of_answers(self, name: str) -> np.ndarray:
        """A column of whole numbers, one an answer."""
        return self.batch.column(name).to_numpy()

    def tensor(self, name: str, row: int) -> Tensor:
        """A ragged column's part of an answer, copied: ids as int64, bits as bfloat16."""
        first, last = self.offsets[name][row : row + 2]
        part = np.array(self.values[name][first:last])
        if name in self.bits:
            return torch.from_numpy(part.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(part.astype(np.int64) if name in IDS else part)

    def ids(self, name: str, row: int) -> Int[Tensor, "_"]:
        return self.tensor(name, row)

    def where(self, name: str, row: int) -> tuple[int, int]:
        """First byte in the file, and number of bytes, of an answer's part of a column."""
        values = self.values[name]
        first, last = self.offsets[name][row : row + 2]
        start = values.__array_interface__["data"][0] - self.base
        return int(start + first * values.itemsize), int((last - first) * values.itemsize)
