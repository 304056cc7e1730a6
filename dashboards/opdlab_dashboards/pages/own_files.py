"""Files in a folder that opdlab may overwrite: those that it wrote, which its mark there names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from opdlab.errors import DataError
from opdlab.files import dated, is_partial, read_record, write_whole

MARK = ".opdlab-files.json"
"""In a folder: which files opdlab wrote there."""
LOCK = ".opdlab-files.lock"
"""Held while a command writes into the folder."""


@dataclass(frozen=True)
class Mark:
    """What opdlab wrote into a folder.

    Attributes:
        files: SHA-256 of each file, by its name below the folder.
        begun: names that a command began to write; where it was killed, their contents are not known.
    """

    files: dict[str, str] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)

    def holds(self, place: Path, name: str) -> bool:
        """Whether a file is still as opdlab wrote it, and lies in the folder itself."""
        path = place / name
        if not path.resolve().is_relative_to(place.resolve()) or not path.is_file():
            return False
        return name in self.begun or _sha256(path.read_bytes()) == self.files.get(name)

    def write(self, place: Path) -> None:
        write_whole(place / MARK, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")


def require_own_folder(place: Path) -> Mark:
    """What opdlab wrote into a folder; nothing where the folder is empty or not there.

    Raises:
        DataError: it is no folder, or others keep their files in it.
    """
    if not place.exists():
        return Mark()
    if not place.is_dir():
        raise DataError(f"{place} is a file: name a folder by --to")
    if (place / MARK).exists():
        remedy = f"if nothing in {place} is yours, remove it; else name another folder by --to"
        return read_record(place / MARK, Mark, remedy=remedy)
    names = {path.name for path in place.iterdir() if not is_partial(path)}
    if strange := sorted(names - {LOCK}):
        raise DataError(
            f"{place} holds {strange[0]} and no file that opdlab wrote: nothing was written, so that "
            "nothing of yours is lost; name a new or empty folder by --to"
        )
    return Mark()


def write_folder(
    place: Path,
    content: Mapping[str, Callable[[], str]],
    on_file: Callable[[str], None] = lambda name: None,
) -> Path | None:
    """Write files, each whole, in place of those that opdlab wrote into the folder earlier.

    Args:
        content: makes what stands in each file, by its name below the folder.
        on_file: called with each name when it is written.

    Returns:
        A folder beside it in which the earlier files are kept, with their time in its name; None if there
        were none, or all are the same.

    Raises:
        DataError: others keep their files in the folder, or changed one that would be written over.
    """
    require_own_folder(place)
    place.mkdir(parents=True, exist_ok=True)
    # Two commands would each remove what the other has just written.
    with FileLock(place / LOCK):
        return _write(place, content, on_file)


def _write(
    place: Path, content: Mapping[str, Callable[[], str]], on_file: Callable[[str], None]
) -> Path | None:
    earlier = require_own_folder(place)
    _refuse_others(place, content, earlier)
    older = _Older(place, earlier)
    # Named before they are written: what a killed command leaves behind is known as its own.
    Mark(earlier.files, sorted({*earlier.begun, *content})).write(place)
    written = {}
    if earlier.files.keys() - content.keys():
        older.keep()
    for name, make in content.items():
        text = make()
        written[name] = _sha256(text.encode())
        if earlier.files.get(name) != written[name]:
            older.keep()
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(place / name, text)
        on_file(name)
    for name in {*earlier.files, *earlier.begun} - content.keys():
        # One that a user has changed since is the user's.
        if earlier.holds(place, name):
            _remove(place, place / name)
    Mark(written).write(place)
    return older.kept


@dataclass
class _Older:
    """The files of an earlier command, which are kept before the first of them changes."""

    place: Path
    earlier: Mark
    kept: Path | None = None

    def __post_init__(self) -> None:
        mark = self.place / MARK
        self._written = mark.stat().st_mtime if mark.exists() else 0.0

    def keep(self) -> None:
        """Once; not what a killed command left half replaced, which has kept the earlier files itself."""
        if self.kept:
            return
        files = self.earlier.files
        held = {n: files[n] for n in files if Mark(files).holds(self.place, n)}
        if not held or (self.earlier.begun and held != files):
            return
        folder = dated(self.place.resolve(), self._written)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in held:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _linked(self.place / name, partial / name)
        Mark(held).write(partial)
        partial.rename(folder)
        self.kept = folder


def _linked(source: Path, target: Path) -> None:
    """The same file under another name, or a copy of it: files are replaced whole."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _refuse_others(place: Path, names: Iterable[str], earlier: Mark) -> None:
    for name in names:
        path = place / name
        # Written through a link, it would land in a folder of others.
        if not path.resolve().is_relative_to(place.resolve()) or path.is_symlink():
            raise DataError(f"{path} leads out of the folder by a link: move the link away")
        if path.exists() and not earlier.holds(place, name):
            raise DataError(
                f"{path} was not written by opdlab, or changed since: move it away, or name another "
                "folder by --to"
            )


def _remove(place: Path, path: Path) -> None:
    """Remove a file below the folder, and the folders that it leaves empty."""
    path.unlink()
    for folder in path.parents:
        if folder == place or any(folder.iterdir()):
            return
        folder.rmdir()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
