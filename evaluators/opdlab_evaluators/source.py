"""Rows of a benchmark, read with `datasets` from a local file or folder, or from the hub at one commit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opdlab.errors import DataError, MissingDataError
from opdlab_evaluators.first_use import remembered

FOLDER_VARIABLE = "OPDLAB_DATA"
FORMATS = {
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
HUB_TIMEOUT_S = 10


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

    @property
    def file_names(self) -> list[str]:
        """Names that a local copy may have, folders first, the preferred file after them."""
        names = (self.name, *self.aliases)
        return [*names, *(f"{name}{suffix}" for name in names for suffix in FORMATS)]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as they were found.

    Attributes:
        origin: the file, the folder, or `hub:REPOSITORY`.
        revision: commit on the hub; None for local rows.
    """

    rows: list[dict[str, Any]]
    origin: str
    revision: str | None = None


def read(source: Source, path: str | None, revision: str | None) -> Rows:
    """The rows from `path`, else from the folder that OPDLAB_DATA names, else from the hub.

    Args:
        path: a file, the folder of a data set, or a folder that holds either under the
            benchmark's name.
        revision: commit or tag on the hub; by default the one that was used first here.

    Raises:
        MissingDataError: no local copy is there, and the hub cannot be reached.
        DataError: `path` does not exist, or what was found cannot be read.
    """
    local = find_local(source, path)
    if local is not None:
        return Rows(_load(source, local), str(local.absolute()))
    commit, folder = _download(source, revision)
    return Rows(_load(source, folder), f"hub:{source.hub}", commit)


def find_local(source: Source, path: str | None) -> Path | None:
    """The local copy, if there is one."""
    if path is not None:
        given = Path(path)
        found = (_inside(source, given) or given) if given.is_dir() else given
        if not found.exists():
            raise DataError(
                f"{source.name}: path {given.absolute()} does not exist; {_remedy(source)}"
            )
        return found
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise DataError(f"{FOLDER_VARIABLE}={folder} is no folder; let it name one or unset it")
    return _inside(source, Path(folder))


def _inside(source: Source, folder: Path) -> Path | None:
    return next((folder / name for name in source.file_names if (folder / name).exists()), None)


def _remedy(source: Source) -> str:
    folder = os.environ.get(FOLDER_VARIABLE)
    place = f"into {Path(folder).absolute()}" if folder else "into a folder that OPDLAB_DATA names"
    return (
        f"put {source.name}.jsonl (or .json, .csv, .parquet, or the data set's folder as "
        f"{source.name}/) {place}, or name the file by the benchmark's option `path`"
    )


def _download(source: Source, revision: str | None) -> tuple[str, Path]:
    """Commit and local folder of the data set on the hub; one that was fetched before needs no hub."""
    from huggingface_hub import HfApi, snapshot_download

    known = remembered(source.name, f"hub:{source.hub}")
    wanted = revision or (known.revision if known else None)
    try:
        commit = wanted
        if commit is None:
            commit = HfApi().dataset_info(source.hub, timeout=HUB_TIMEOUT_S).sha
        folder = snapshot_download(
            source.hub,
            repo_type="dataset",
            revision=commit,
            allow_patterns=list(source.parts) or source.files,
            etag_timeout=HUB_TIMEOUT_S,
        )
    except Exception as error:
        # Any: the client raises what its HTTP library does, too.
        raise MissingDataError(
            f"{source.name}: no local copy, and {source.hub} was not fetched from the hub "
            f"({_first_line(error)}): {_remedy(source)}"
        ) from error
    return str(commit), Path(folder)


def _load(source: Source, path: Path) -> list[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        if path.is_dir():
            data = _load_folder(source, path)
        else:
            data = datasets.load_dataset(_format(path), data_files=str(path), split="train")
    except DataError:
        raise
    except Exception as error:
        # Any: the readers of five formats raise what they like.
        raise DataError(f"{source.name}: {path} cannot be read: {_first_line(error)}") from error
    rows: Any = data
    return [dict(row) for row in rows]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _format(path: Path) -> str:
    for suffix, builder in FORMATS.items():
        if path.name.endswith(suffix):
            return builder
    raise DataError(f"{path} is of no known format; use one of {', '.join(FORMATS)}")


def _load_folder(source: Source, path: Path) -> Any:
    import datasets

    parts = [path / name for name in source.parts]
    if missing := [part.name for part in parts if not part.exists()]:
        raise DataError(f"{source.name}: {path} has no {', '.join(missing)}; {_remedy(source)}")
    if parts:
        names = list(map(str, parts))
        return datasets.load_dataset(_format(parts[0]), data_files=names, split="train")
    if (path / "dataset_dict.json").exists():
        return datasets.load_from_disk(str(path))[_split(source, path, {source.split})]
    if (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    found = datasets.load_dataset(str(path), name=source.config)
    return found[_split(source, path, set(map(str, found)))]


def _split(source: Source, path: Path, splits: set[str]) -> str:
    """The split that holds the problems; a copy with a single one may call it anything."""
    if source.split in splits:
        return source.split
    if len(splits) == 1:
        return splits.pop()
    raise DataError(
        f"{source.name}: {path} has no split {source.split!r}, only {', '.join(sorted(splits))}"
    )
