"""Pages and figures that opdlab may write over: those that it wrote, which carry its mark."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
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


def keep_older(path: Path, page: str) -> Path | None:
    """Keep a page that another one is about to replace, beside it under the time at which it was written.

    Returns:
        Where it is kept; None if there is none, or the new one is the same.
    """
    require_own_page(path)
    return keep_beside(path, page)


def keep_beside(path: Path, content: str) -> Path | None:
    """Keep any file that another content is about to replace, as `keep_older`.

    Raises:
        DataError: what stands there is no file.
    """
    if not _is_taken(path) or (there := path.read_bytes()) == content.encode():
        return None
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    older = path.with_name(f"{path.stem}-{written:%Y%m%d-%H%M%S}{path.suffix}")
    write_whole(older, there)
    return older


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
