"""What was seen of responses, token by token, and of hand-overs: flat arrays, and files of them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from opdlab.errors import DataError, StorageError
from opdlab.files import read_file, write_whole
from opdlab.shapes import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays of one length that go to disk together."""

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows: Bool[np.ndarray, "T"] | Int[np.ndarray, "n"]) -> Self:
        """Some of them."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Tokens(Arrays):
    """Every token of responses, laid end to end.

    Attributes:
        problem, sample: which problem it answers, by number, and which answer to it. `Int[T]`
        position: place in the response, from 0. `Int[T]`
        token: its id. `Int[T]`
        student, teacher: log-probability of it, nats; of whoever wrote the response, and of the
            teacher. `Float[T]`
        entropy: of the teacher before it, nats. `Float[T]`
        fidelity: the teacher's largest probability after it; NaN after an EOS. `Float[T]`
        ahead: D_ahead before it: how far apart the teacher's confidence is after one candidate and after
            another; NaN where that was not asked. `Float[T]`
    """

    problem: Int[np.ndarray, "T"]
    sample: Int[np.ndarray, "T"]
    position: Int[np.ndarray, "T"]
    token: Int[np.ndarray, "T"]
    student: Float[np.ndarray, "T"]
    teacher: Float[np.ndarray, "T"]
    entropy: Float[np.ndarray, "T"]
    fidelity: Float[np.ndarray, "T"]
    ahead: Float[np.ndarray, "T"]

    def responses(self) -> list[Self]:
        """Each response by itself."""
        starts = np.flatnonzero(self.position == 0)
        ends = [*starts[1:], len(self)]
        return [
            self[np.arange(start, end)] for start, end in zip(starts.tolist(), ends, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class HandOvers(Arrays):
    """Responses that the teacher finished from a cut on.

    Attributes:
        problem, sample: as of `Tokens`. `Int[N]`
        cut: tokens of the response that were kept. `Int[N]`
        correct: whether the finished answer is; NaN where its grader failed. `Float[N]`
        truncated: whether the teacher's part ran into the length limit. `Float[N]`
        before: mean of the teacher's largest probability at the last states before the cut, the state of
            the cut included; NaN at cut 0. `Float[N]`
        after: the same at as many states after the teacher's first token; NaN where it wrote no more
            than that. `Float[N]`
    """

    problem: Int[np.ndarray, "N"]
    sample: Int[np.ndarray, "N"]
    cut: Int[np.ndarray, "N"]
    correct: Float[np.ndarray, "N"]
    truncated: Float[np.ndarray, "N"]
    before: Float[np.ndarray, "N"]
    after: Float[np.ndarray, "N"]


_OF = "of"
"""Beside the arrays in a file: where it belongs."""
# What numpy and zipfile make of changed bytes.
_DAMAGES = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    MemoryError,
    zlib.error,
    struct.error,
    zipfile.BadZipFile,
)

Kind = TypeVar("Kind", bound=Arrays)


def save(arrays: Arrays, path: Path) -> None:
    """Write arrays beside their place, then rename: a file is whole or not there.

    Raises:
        StorageError: the disk is full or not writable.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**vars(arrays), _OF: np.array(_place(path))})  # pyright: ignore[reportArgumentType]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise StorageError(
            f"{path}: observations were not written ({error}). What was there before is whole; free some "
            "space, then run the command again"
        ) from error


def load(kind: type[Kind], path: Path) -> Kind:
    """Read what `save` wrote.

    Raises:
        DataError: the file is damaged, or another one stands in its place.
    """
    try:
        with np.load(io.BytesIO(read_file(path))) as file:
            found = kind(**{field.name: file[field.name] for field in fields(kind)})
            whose = str(file[_OF])
    except _DAMAGES as error:
        raise _damaged(path, error) from error
    if whose != _place(path):
        raise _damaged(path, f"it is {whose}")
    if len({len(values) for values in vars(found).values()}) != 1:
        raise _damaged(path, "its arrays are not of one length")
    return found


def _damaged(path: Path, why: object) -> DataError:
    return DataError(f"{path} is damaged ({why}): remove it, and the same command makes it again")


def _place(path: Path) -> str:
    """Whose observations a file holds, and which."""
    return f"{path.parent.name}/{path.name}"
