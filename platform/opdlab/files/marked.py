"""Pages and figures that opdlab may write over: those that it wrote, which carry its mark."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from opdlab.errors import DataError
from opdlab.files.whole_files import read_json, write_whole

GENERATOR = '<meta name="generator" content="opdlab">'
"""In the head of a page."""
FIGURES = "opdlab"
"""Key of its version in the figures of a benchmark."""
_HEAD = 4096


def write_page(path: Path, page: str) -> None:
    """Write a page in place of one that opdlab wrote.

    Raises:
        DataError: another file stands there.
    """
    require_own_page(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)


def write_beside(path: Path, content: str | bytes) -> Path | None:
    """Write a file whole; one that was there is kept beside it under the time at which it was written.

    Of several commands that write one path at once each keeps what the one before it wrote.

    Returns:
        Where the earlier one is kept; None if there was none, or it is the same.

    Raises:
        DataError: what stands there is no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = content.encode() if isinstance(content, str) else content
    with _alone_in(path.parent):
        if not _is_taken(path) or (there := path.read_bytes()) == new:
            write_whole(path, new)
            return None
        older = dated(path, path.stat().st_mtime)
        write_whole(older, there)
        write_whole(path, new)
        return older


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder until the end, or until the process is killed; on a file system that can."""
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def dated(path: Path, written: float) -> Path:
    """A free name beside a file or folder, with the time at which that was written (seconds, UTC)."""
    at = datetime.fromtimestamp(written, UTC)
    stem = f"{path.stem}-{at:%Y%m%d-%H%M%S}"
    # Two may be written within a second.
    names = (f"{stem}{more}{path.suffix}" for more in chain([""], (f"-{n}" for n in count(2))))
    return next(place for name in names if not (place := path.with_name(name)).exists())


def require_own_page(path: Path, remedy: str = "name another file by --to") -> None:
    """Refuse, with `DataError`, a path at which something stands that is not a page of opdlab."""
    if not _is_taken(path, remedy):
        return
    with path.open("rb") as file:
        if GENERATOR.encode() not in file.read(_HEAD):
            raise DataError(f"{path} was not written by opdlab: {remedy}")


def require_own_figures(path: Path) -> None:
    """Refuse, with `DataError`, a path at which something stands that no benchmark wrote."""
    if not _is_taken(path):
        return
    with suppress(DataError):
        read_json(path, FIGURES)
        return
    raise DataError(f"{path} was not written by `opdlab bench`: name another file")


def _is_taken(path: Path, remedy: str = "name a file") -> bool:
    """Whether a file stands there; raises DataError where something else does."""
    if path.is_dir():
        raise DataError(f"{path} is a folder: {remedy}")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a device or a pipe: {remedy}")
    return path.exists()
