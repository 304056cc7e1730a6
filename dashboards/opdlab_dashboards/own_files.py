"""Files and folders that opdlab may overwrite: those that it wrote, which carry its mark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from opdlab.errors import DataError
from opdlab.whole_files import read_json, write_whole

MARK = ".opdlab-files.json"
"""In a folder: the names of all files that opdlab wrote there."""
LOCK = ".opdlab-files.lock"
"""Held while a command writes into the folder."""
GENERATOR = '<meta name="generator" content="opdlab">'
"""In the head of a page."""
_HEAD = 4096


def require_own_folder(place: Path) -> list[str]:
    """What opdlab wrote into a folder, by name; nothing where the folder is empty or not there.

    Raises:
        DataError: it is no folder, or others keep their files in it.
    """
    if not place.exists():
        return []
    if not place.is_dir():
        raise DataError(f"{place} is a file: name a folder by --to")
    if (place / MARK).exists():
        return [str(name) for name in read_json(place / MARK, "files")["files"]]
    if strange := sorted({path.name for path in place.iterdir()} - {LOCK}):
        raise DataError(
            f"{place} holds {strange[0]} and no file that opdlab wrote: nothing was written, so that "
            "nothing of yours is lost; name a new or empty folder by --to"
        )
    return []


def write_folder(
    place: Path,
    content: Mapping[str, Callable[[], str]],
    on_file: Callable[[str], None] = lambda name: None,
) -> None:
    """Write files, each whole, and remove those that opdlab wrote into the folder earlier.

    Args:
        content: makes what stands in each file, by its name below the folder.
        on_file: called with each name when it is written.

    Raises:
        DataError: others keep their files in the folder, or one of theirs has such a name.
    """
    require_own_folder(place)
    place.mkdir(parents=True, exist_ok=True)
    # Two commands would each remove what the other has just written.
    with FileLock(place / LOCK):
        _write(place, content, on_file)


def _write(
    place: Path, content: Mapping[str, Callable[[], str]], on_file: Callable[[str], None]
) -> None:
    earlier = require_own_folder(place)
    for name in content.keys() - set(earlier):
        if (place / name).exists():
            raise DataError(f"{place / name} was not written by opdlab: move it away")
    # Named before they are written: what a killed command leaves behind is known as its own.
    _mark(place, {*earlier, *content})
    for name, make in content.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(place / name, make())
        on_file(name)
    for name in set(earlier) - content.keys():
        _remove(place, name)
    _mark(place, set(content))


def _mark(place: Path, names: set[str]) -> None:
    write_whole(place / MARK, json.dumps({"files": sorted(names)}, indent=1) + "\n")


def _remove(place: Path, name: str) -> None:
    """Remove a file below the folder, and the folders that it leaves empty."""
    path = place / name
    if not path.resolve().is_relative_to(place.resolve()):
        return  # a mark that somebody else wrote
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == place or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def write_page(path: Path, page: str) -> None:
    """Write a page in place of one that opdlab wrote.

    Raises:
        DataError: another file stands there.
    """
    require_own_page(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)


def require_own_page(path: Path) -> None:
    """Refuse, with `DataError`, a path at which something stands that is no page of opdlab."""
    if not path.exists():
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder: name a file by --to")
    with path.open("rb") as file:
        if GENERATOR.encode() not in file.read(_HEAD):
            raise DataError(f"{path} was not written by opdlab: name another file by --to")
