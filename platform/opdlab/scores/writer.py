"""Writing a store: shards whole or not there, shared among processes, taken up where one was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from opdlab.errors import DamagedError, ResumeError
from opdlab.files import is_partial, read_record, sha256_of, write_whole
from opdlab.identity import now
from opdlab.scores.manifest import (
    AGAIN,
    MANIFEST,
    SHARDS,
    TEACHER,
    Manifest,
    differences,
    has_store,
    read_manifest,
    sealed,
)
from opdlab.scores.packing import columns_of
from opdlab.scores.shards import Answer, write_shard
from opdlab.scores.whole import missing_of, require_teacher

LOCK, DRAFT = ".store.lock", ".store.teacher"
"""Of who begins a store; the second is the folder `teacher` before it takes its place."""
REDO = "remove it and its .arrow file, and run the command again that made them"


@dataclass(frozen=True)
class Note:
    """What a shard's file must be; written after it.

    Attributes:
        store: the id of the store.
        answers, left_out: how many are in it, and how many were not kept.
        tokens: of the responses in it.
    """

    store: str
    bytes: int
    sha256: str
    answers: int
    left_out: int
    tokens: int
    seconds: float


def shard_path(folder: Path, number: int) -> Path:
    return folder / SHARDS / f"{number:05}.arrow"


def note_path(folder: Path, number: int) -> Path:
    return shard_path(folder, number).with_suffix(".json")


def read_note(folder: Path, number: int) -> Note | None:
    """What is told of a shard; None where it is not written yet."""
    path = note_path(folder, number)
    return read_record(path, Note, remedy=REDO) if path.exists() else None


def places_of(manifest: Manifest, number: int) -> range:
    """Places of the answers of a shard, those left out included."""
    first = number * manifest.rows
    return range(first, min(first + manifest.rows, manifest.count))


def begin(folder: Path, manifest: Manifest, save_teacher: Callable[[Path], None]) -> Manifest:
    """Make a store in a folder, or go on with the one that is there.

    Args:
        save_teacher: writes the teacher's shape, tokenizer and, where it is kept, its head.

    Returns:
        The manifest as it is in the folder.

    Raises:
        ResumeError: the store there was made of something else, or the folder holds other files.
        DamagedError: a file of the teacher is missing and cannot be made again.
    """
    _require_free(folder)
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        # The values as JSON gives them again: lists, not tuples.
        manifest = Manifest(**json.loads(json.dumps(asdict(manifest))))
        if has_store(folder):
            found = read_manifest(folder)
            if odd := differences(manifest, found):
                raise ResumeError(
                    f"{folder} holds scores that were made of something else ({'; '.join(odd)}); name "
                    "another folder with --out"
                )
            _mend(folder, found, save_teacher)
            return found
        with _drafted(folder, save_teacher) as (draft, files):
            manifest = sealed(replace(manifest, files=files, begun=now()))
            _remove_partial(folder, MANIFEST)
            # Who is killed between the two leaves files that are missing, which `_mend` writes.
            manifest.write(folder)
            draft.rename(folder / TEACHER)
        return manifest


def _remove_partial(folder: Path, name: str) -> None:
    """Remove what writers of a file left behind that were killed; nobody else may write it meanwhile."""
    for path in folder.iterdir():
        if is_partial(path) and path.name.startswith(f".{name}."):
            path.unlink(missing_ok=True)


def _require_free(folder: Path) -> None:
    """Refuse a folder in which there is no store and something else.

    Raises:
        ResumeError: naming what is there.
    """
    places = [folder, folder / SHARDS]
    there = [path for place in places if place.is_dir() for path in sorted(place.iterdir())]
    own = [folder / SHARDS, folder / LOCK, folder / DRAFT]
    odd = [path for path in there if path not in own and not is_partial(path)]
    # Not before: another process may begin a store meanwhile, and its manifest comes first.
    if odd and not has_store(folder):
        raise ResumeError(
            f"{folder} holds other files ({odd[0].relative_to(folder)}) and no scores ({MANIFEST}); "
            "name an empty folder with --out"
        )


@contextmanager
def _drafted(
    folder: Path, save_teacher: Callable[[Path], None]
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """The teacher's files in a folder of their own, and the hash of each."""
    draft = folder / DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    try:
        save_teacher(draft)
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        yield draft, {str(path.relative_to(draft)): sha256_of(path) for path in files}
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _mend(folder: Path, manifest: Manifest, save_teacher: Callable[[Path], None]) -> None:
    """Write files of the teacher again that are missing.

    Raises:
        DamagedError: one comes out as another than it was, or one that is there has changed.
    """
    missing = missing_of(folder, manifest)
    # Of what a damaged tokenizer would end only when all shards are there.
    require_teacher(folder, manifest, but=missing)
    if not missing:
        return
    with _drafted(folder, save_teacher) as (draft, files):
        for name in missing:
            path = folder / TEACHER / name
            if files.get(name) != manifest.files[name]:
                raise DamagedError(
                    f"{path} is not there, and this teacher's is another than it was (of other versions "
                    f"of its libraries, say): restore it from a copy, or {AGAIN}"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            (draft / name).replace(path)


class Writer:
    """Writes the shards that are missing; several processes may do so in one folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.names = columns_of(
            manifest.kind_of, manifest.candidates_of, bool(manifest.student_told)
        )

    def places(self, number: int) -> range:
        """Places of the answers of a shard, those left out included."""
        return places_of(self.manifest, number)

    def missing(self, together: int = 1) -> Generator[list[int], None, None]:
        """Numbers of shards that nobody has written and no other process works on, each held meanwhile.

        Args:
            together: of how many that follow each other those that are missing are held at a time.

        Raises:
            ResumeError: a shard there is of another store.
        """
        for first in range(0, self.manifest.shards, together):
            numbers = range(first, min(first + together, self.manifest.shards))
            with ExitStack() as held:
                found = [number for number in numbers if self._hold(number, held)]
                if found:
                    yield found

    def _hold(self, number: int, held: ExitStack) -> bool:
        """Hold a shard, where it is missing and nobody else holds it."""
        if self.is_written(number):
            return False
        lock = FileLock(self.folder / SHARDS / f".{number:05}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        held.callback(lock.release)
        if self.is_written(number):
            return False
        self._tidy(number)
        return True

    def is_written(self, number: int) -> bool:
        note = read_note(self.folder, number)
        if note is not None and note.store != self.manifest.id:
            raise ResumeError(
                f"{note_path(self.folder, number)} is of another store ({note.store}, not "
                f"{self.manifest.id}); {REDO}"
            )
        return note is not None

    @property
    def written(self) -> list[Note]:
        """What is told of the shards that are there."""
        found = (read_note(self.folder, number) for number in range(self.manifest.shards))
        return [note for note in found if note is not None]

    @property
    def done(self) -> int:
        """Answers of the shards that are there, those left out included, whoever wrote them."""
        there = {path.name for path in (self.folder / SHARDS).iterdir()}
        numbers = range(self.manifest.shards)
        return sum(
            len(self.places(number))
            for number in numbers
            if note_path(self.folder, number).name in there
        )

    def write(self, number: int, answers: Sequence[Answer], seconds: float) -> Note:
        """Write a shard, then that it is there: who is killed between the two writes it again."""
        path = shard_path(self.folder, number)
        write_shard(path, answers, self.names, self.manifest.vocabulary)
        note = Note(
            store=self.manifest.id,
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
            answers=len(answers),
            left_out=len(self.places(number)) - len(answers),
            tokens=sum(len(one.columns["response"]) for one in answers),
            seconds=round(seconds, 3),
        )
        write_whole(note_path(self.folder, number), json.dumps(asdict(note)) + "\n")
        return note

    def _tidy(self, number: int) -> None:
        """Remove what a writer of this shard left behind that was killed."""
        _remove_partial(self.folder / SHARDS, f"{number:05}")

    def finish(self) -> bool:
        """Whether all shards are there; then locks are cleared away."""
        if len(self.written) < self.manifest.shards:
            return False
        for path in (self.folder / SHARDS).glob(".*.lock"):
            path.unlink(missing_ok=True)
        return True


__all__ = ["AGAIN", "MANIFEST", "Note", "Writer", "begin", "read_note"]
