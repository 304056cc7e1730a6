"""Rows of a benchmark: from a local file or folder, or from the hub at one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opdlab.datafiles import SUFFIXES, download, is_dataset_folder, read_folder, read_rows
from opdlab.errors import DataError, MissingDataError
from opdlab_evaluators.data.first_use import remembered

FOLDER_VARIABLE = "OPDLAB_DATA"


@dataclass(frozen=True)
class Source:
    """Where the rows of a benchmark are to be found, and what is known of them.

    Attributes:
        name: of the benchmark, and of its local file without the suffix.
        hub: data set on the Hugging Face hub.
        count: rows that a whole copy has; None where copies differ.
        split, config: of the data set on the hub; a folder may have them too.
        files: which files of the data set to fetch (a glob); None for all.
        parts: names of the files in a folder that hold the rows, where it has other ones too.
        aliases: further names that local copies go by.
        answers: known hash of the gold answers (see `hashes`), which copies of other wording share.
        contents: known hashes of whole copies.
        extends: a benchmark whose questions this one asks, too, and judges by other tests.
    """

    name: str
    hub: str
    count: int | None = None
    split: str = "test"
    config: str | None = None
    files: str | None = None
    aliases: tuple[str, ...] = ()
    answers: str | None = None
    contents: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    extends: str | None = None

    @property
    def file_names(self) -> list[str]:
        """Names that a local copy may have, folders first, the preferred file after them."""
        names = (self.name, *self.aliases)
        return [*names, *(f"{name}{suffix}" for name in names for suffix in SUFFIXES)]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as they were found.

    Attributes:
        origin: the file, the folder, or `hub:REPOSITORY`.
        revision: commit on the hub; None for local rows.
        names: under which they are remembered: the origin, and what a link to it stood for.
    """

    rows: list[dict[str, Any]]
    origin: str
    revision: str | None = None
    names: tuple[str, ...] = ()


def read(source: Source, path: str | None, revision: str | None) -> Rows:
    """The rows from `path`, else from the folder that OPDLAB_DATA names, else from the hub.

    Args:
        path: a file, the folder of a data set, or a folder that holds either under the
            benchmark's name.
        revision: commit or tag on the hub; by default the one that was used first here.

    Raises:
        MissingDataError: no local copy is there, and the hub cannot be reached.
        DataError: `path` does not exist, what was found cannot be read, or a revision of the hub is named
            beside it.
    """
    local = find_local(source, path)
    if local is None:
        commit, folder = _fetched(source, revision)
        origin = f"hub:{source.hub}"
        return Rows(_load(source, folder), origin, commit, (origin,))
    if revision is not None:
        other = "path" if path is not None else f"{FOLDER_VARIABLE} in the environment"
        raise DataError(
            f"{source.name}: `revision` names a commit on the hub, but the data are local ({local}); "
            f"remove either `revision` or {other}"
        )
    real = str(local.resolve())
    # `a/../b` is where the system finds it, which links decide; else a link has a name of its own.
    origin = real if ".." in local.parts else str(local.absolute())
    return Rows(_load(source, local), origin, None, tuple(dict.fromkeys((origin, real))))


def _fetched(source: Source, revision: str | None) -> tuple[str, Path]:
    """Commit and folder; without a revision the commit that was used first here, else the newest."""
    patterns = source.parts or ((source.files,) if source.files else None)
    known = None if revision else remembered(source.name, f"hub:{source.hub}")
    try:
        return download(source.hub, patterns, known.revision if known else revision)
    except MissingDataError as error:
        first = f"; {known.revision} was used here first, `revision` names another" if known else ""
        raise MissingDataError(
            f"{source.name}: no local copy, and {error}{first}: {_remedy(source)}"
        ) from error


def find_local(source: Source, path: str | None) -> Path | None:
    """The local copy, if there is one; raises DataError where `path` holds none."""
    if path is not None:
        return _given(source, Path(path).expanduser())
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise DataError(f"{FOLDER_VARIABLE}={folder} is no folder; let it name one or unset it")
    return _inside(source, Path(folder))


def _given(source: Source, given: Path) -> Path:
    """The file or data set that a path names: never a file that happens to lie there."""
    if not given.exists():
        raise DataError(f"{source.name}: path {given.absolute()} does not exist; {_remedy(source)}")
    if not given.is_dir():
        return given
    found = _inside(source, given)
    if found is not None:
        return found
    own = (source.name, *source.aliases)
    parts = bool(source.parts) and all((given / part).exists() for part in source.parts)
    if given.absolute().name in own or parts or is_dataset_folder(given):
        return given
    raise DataError(
        f"{source.name}: the folder {given.absolute()} holds no file of this name and is no data set "
        f"(train, test or data/ in it); {_remedy(source)}"
    )


def _inside(source: Source, folder: Path) -> Path | None:
    return next((place for place in _places(source, folder) if place.exists()), None)


def _places(source: Source, folder: Path) -> Iterator[Path]:
    for name in source.file_names:
        place = folder / name
        # A folder beside the file that shows nothing, or a program's cache alone, is no data set.
        if not place.is_dir() or any(not one.name.startswith(".") for one in place.iterdir()):
            yield place


def _remedy(source: Source) -> str:
    """What to do where there are no data."""
    folder = os.environ.get(FOLDER_VARIABLE)
    place = f"into {Path(folder).absolute()}" if folder else "into a folder that OPDLAB_DATA names"
    return (
        f"put {source.name}.jsonl (or .json, .csv, .parquet, or the data set's folder as "
        f"{source.name}/) {place}, or name the file by the benchmark's option `path`"
    )


def _load(source: Source, path: Path) -> list[dict[str, Any]]:
    try:
        if path.is_dir():
            return read_folder(path, source.split, source.config, source.parts)
        return read_rows(path, split=source.split)
    except DataError as error:
        raise DataError(f"{source.name}: {error}") from error
