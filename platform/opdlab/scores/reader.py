"""Reading a store: memory-mapped, so that it may be larger than the memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opdlab.errors import DamagedError, DataError
from opdlab.identity import digest
from opdlab.scores.head import HEAD
from opdlab.scores.kinds import Kind
from opdlab.scores.manifest import AGAIN, MANIFEST, TEACHER, Manifest, read_manifest
from opdlab.scores.packing import columns_of
from opdlab.scores.shards import Shard, key_of, no_shard
from opdlab.scores.whole import require_teacher, require_whole
from opdlab.scores.writer import REDO, Note, note_path, places_of, read_note, shard_path
from opdlab.shapes import Tensor

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CANDIDATES = ("candidates", "candidate_log_prob", "confidence")
"""Columns with a number for each candidate at a position."""
OPEN_FILES = 256
"""Shards that are mapped at a time."""


@dataclass(frozen=True, eq=False)
class StoredAnswer:
    """An answer of a store.

    Attributes:
        place: its number among those that were asked for.
        verdict: of the grader; None where none was asked.
        numbers: columns by name, of T response tokens: `log_prob` `[T]`; by kind `hidden` `[T H]`,
            `top_ids`, `top_log_prob` `[T K]` with `tail` `[T]`, or `drawn` `[T N]`; `student_log_prob`,
            `student_entropy` `[T]`; at positions `candidate_at` `[A]` of the response also `candidates`,
            `candidate_log_prob`, `confidence` `[A K]`.
    """

    place: int
    seed: int
    benchmark: str
    problem: str
    verdict: str | None
    prompt: list[int]
    response: list[int]
    numbers: dict[str, Tensor] = field(repr=False)


class Scores(Sequence[StoredAnswer]):
    """The answers of a store, in the order in which they were scored.

    Examples:
        >>> scores = opdlab.Scores("scores")  # doctest: +SKIP
        >>> scores[0].numbers["log_prob"].mean()  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a store; hashes are held against its files by `verify`.

        Raises:
            DataError: there is no store, it is not finished, or a file of it is cut or of another store.
        """
        # The process may go elsewhere.
        self.folder = Path(folder).expanduser().absolute()
        self.manifest: Manifest = read_manifest(self.folder)
        self.notes = self._notes()
        counts = [note.answers for note in self.notes]
        self.ends = np.cumsum(counts)
        self._shard = lru_cache(maxsize=OPEN_FILES)(self._open)
        if not len(self):
            raise DataError(f"{self.folder}: none of its {self.manifest.count} answers was kept")

    def __reduce__(self) -> tuple[type[Scores], tuple[Path]]:
        """Opened again in another process, which maps files of its own."""
        return Scores, (self.folder,)

    def __repr__(self) -> str:
        return f"Scores({str(self.folder)!r}): {len(self):,} answers, {self.tokens:,} tokens, {self.kind}"

    def _notes(self) -> list[Note]:
        found, missing = [], 0
        for number in range(self.manifest.shards):
            note = read_note(self.folder, number)
            if note is None:
                missing += 1
                continue
            if note.store != self.manifest.id:
                raise DamagedError(
                    f"{note_path(self.folder, number)} is of another store than {self.folder}: restore it "
                    f"from a copy, or {AGAIN}"
                )
            found.append(note)
        if missing:
            raise DataError(
                f"{self.folder} is not finished: {missing} of {self.manifest.shards} shards are missing; "
                "run the command again that made it"
            )
        for number, note in enumerate(found):
            asked = len(places_of(self.manifest, number))
            if min(note.answers, note.left_out) < 0 or note.answers + note.left_out != asked:
                raise DamagedError(
                    f"{note_path(self.folder, number)} tells of {note.answers} answers and {note.left_out} "
                    f"left out, and {asked} were asked for: {REDO}"
                )
            path = shard_path(self.folder, number)
            size = path.stat().st_size if path.is_file() else None
            if size != note.bytes:
                has = "is not there" if size is None else f"has {size} bytes"
                raise DamagedError(
                    f"{path} {has}, and {note.bytes} were written: restore it from a copy, or remove "
                    f"{note_path(self.folder, number).name} and run the command again that made it"
                )
        return found

    def verify(self) -> Scores:
        """Read all files once and check their hashes.

        Returns:
            The store itself.

        Raises:
            DamagedError: naming one that has changed.
        """
        require_teacher(self.folder, self.manifest)
        for number, note in enumerate(self.notes):
            path = shard_path(self.folder, number)
            require_whole(path, note.sha256, note_path(self.folder, number).name)
        return self

    def _open(self, number: int) -> Shard:
        shard = Shard(shard_path(self.folder, number))
        if len(shard) != self.notes[number].answers or not self._fits(shard):
            raise DamagedError(
                f"{shard.path} holds other answers, or other columns, than {MANIFEST} and "
                f"{note_path(self.folder, number).name} tell: restore them from a copy, or {AGAIN}"
            )
        return shard

    def _fits(self, shard: Shard) -> bool:
        """Whether a shard has the columns that are told of, with their numbers for each token."""
        if not shard.values.keys() >= {*self.columns}:
            return False
        each = {name: self._width(name) or 1 for name in self.columns}
        tokens = len(shard.values["response"])
        others = {"prompt", "response", "hidden", "candidate_at", *CANDIDATES}
        return all(len(shard.values[n]) == tokens * each[n] for n in each.keys() - others)

    @property
    def kind(self) -> Kind:
        return self.manifest.kind_of

    @property
    def tokens(self) -> int:
        """Response tokens in all."""
        return sum(note.tokens for note in self.notes)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(note.bytes for note in self.notes)

    @cached_property
    def sha256(self) -> str:
        """Of all that is in the store: what it is of, and every shard."""
        return digest([self.manifest.id, *(note.sha256 for note in self.notes)])

    @cached_property
    def columns(self) -> list[str]:
        """Names of the ragged columns."""
        told = self.manifest
        return columns_of(told.kind_of, told.candidates_of, told.student_told)

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all answers' tokens in their order, and the answer of each: 16 bytes an answer."""
        shards = map(self._shard, range(len(self.notes)))
        keys = np.concatenate([shard.of_answers("key") for shard in shards])
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def find(self, prompt: Sequence[int], response: Sequence[int]) -> int | None:
        """The answer of these tokens, of equal ones the first; None where there is none."""
        keys, order = self._keys
        key = key_of(prompt, response)
        for place in range(int(np.searchsorted(keys, key)), len(keys)):
            if keys[place] != key:
                return None
            row = int(order[place])
            shard, at = self.at(row)
            # Different tokens may have one hash, and a hash may be of other tokens than it says.
            told = (shard.ids(name, at).tolist() for name in ("prompt", "response"))
            if list(told) == [list(prompt), list(response)]:
                return row
        return None

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def at(self, row: int) -> tuple[Shard, int]:
        """The shard of an answer, and its row there."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        first = int(self.ends[number - 1]) if number else 0
        return self._shard(number), row - first

    def tensor(self, name: str, row: int) -> Tensor:
        """A column's part of an answer: a row a token, or a position with candidates."""
        shard, place = self.at(row)
        found = shard.tensor(name, place)
        if name == "hidden":
            return found.view(len(shard.ids("response", place)), -1)
        size = self._width(name)
        return found if size is None else found.view(-1, size)

    def _width(self, name: str) -> int | None:
        """Numbers a token in a column, but of hidden states; None for one."""
        told = self.manifest
        if name in ("top_ids", "top_log_prob"):
            return told.kind_of.listed(told.vocabulary)
        if name == "drawn":
            return told.kind_of.size
        if name in CANDIDATES:
            assert told.candidates_of is not None
            return told.candidates_of.top_k
        return None

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        shard, place = self.at(row)
        told = shard.told(place)
        names = [name for name in self.columns if name not in ("prompt", "response")]
        return StoredAnswer(
            **{name: told[name] for name in told if name != "key"},
            prompt=shard.ids("prompt", place).tolist(),
            response=shard.ids("response", place).tolist(),
            numbers={name: self.tensor(name, row) for name in names},
        )

    def __iter__(self) -> Iterator[StoredAnswer]:
        return (self[row] for row in range(len(self)))

    def close(self) -> None:
        """Unmap all shards; one that is read again is mapped again."""
        self._shard.cache_clear()

    def read_ahead(self, rows: Sequence[int]) -> None:
        """Ask the system to have these answers in its memory soon; nobody waits for it."""
        if not hasattr(os, "posix_fadvise"):
            return
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for row in rows:
            shard, place = self.at(row)
            parts = wanted.setdefault(shard.path, [])
            parts += [shard.where(name, place) for name in self.columns]
        for path, parts in wanted.items():
            file = os.open(path, os.O_RDONLY)
            try:
                for first, length in parts:
                    os.posix_fadvise(file, first, length, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(file)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, which has the student's ids.

        Returns:
            The tokenizer.

        Raises:
            DamagedError: a file of it has changed.
        """
        from opdlab.modelling import load_tokenizer

        require_teacher(self.folder, self.manifest, but=(HEAD,))
        return load_tokenizer(str(self.folder / TEACHER))

    def dataset(self) -> Dataset:
        """All answers as a memory-mapped `datasets.Dataset`; bfloat16 numbers are their bits, in uint16.

        Returns:
            One row per answer, with the columns of its shards.

        Raises:
            DamagedError: naming a file that is no whole shard.
        """  # noqa: DOC501  # made by `no_shard`
        from datasets import Dataset, concatenate_datasets
        from pyarrow import ArrowInvalid

        parts = []
        for number in range(len(self.notes)):
            path = shard_path(self.folder, number)
            try:
                parts.append(Dataset.from_file(str(path)))
            except (OSError, ArrowInvalid) as error:
                raise no_shard(path, error) from error
        return concatenate_datasets([part for part in parts if len(part)])
