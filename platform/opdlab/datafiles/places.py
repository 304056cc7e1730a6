"""Where a data set lies: a file, a pattern of files, a folder, or a name on the hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from opdlab.datafiles.folders import folder_files, saved_rows
from opdlab.datafiles.hub import hub_files
from opdlab.datafiles.json_tables import Row
from opdlab.datafiles.reading import FORMATS, has_format
from opdlab.datafiles.streams import iter_rows
from opdlab.errors import DataError, MissingDataError

_PATTERN = "*?["
_SPLIT = re.compile(r"\w+([.-]\w+)*")
_LINES = "*.txt"


@dataclass(frozen=True)
class Placed:
    """Files of a data set, in the order of its rows.

    Attributes:
        files: they, or the folder of a data set that was saved whole.
        revision: commit on the hub; None for files.
        split: which of several that a file holds under their names.
    """

    files: tuple[Path, ...]
    revision: str | None = None
    split: str | None = None

    def rows(
        self, columns: Collection[str] | None = None
    ) -> Generator[tuple[Path, int, Row], None, None]:
        """Every row, with its file and its number there from 1; raises DataError when it is reached.

        Args:
            columns: read no others, to save memory.
        """
        for file in self.files:
            read: Callable[..., Any] = saved_rows if file.is_dir() else iter_rows
            known = {} if file.is_dir() else {"columns": columns, "split": self.split}
            for number, row in enumerate(partial(read, file, **known)(), start=1):
                yield file, number, row


def is_pattern(path: str) -> bool:
    """Whether a path stands for whatever files fit it."""
    return any(mark in path for mark in _PATTERN)


def names_file(path: str) -> bool:
    """Whether a path can be no name on the hub."""
    here = Path(path).expanduser()
    named = has_format(path) or here.is_absolute()
    return named or path.startswith((".", "~")) or path.count("/") > 1


def placed(
    path: str,
    split: str,
    name: str | None = None,
    revision: str | None = None,
    section: str = "prompts",
    configuration: str = "name",
) -> Placed:
    """Find the files of a data set.

    Args:
        path: what lies there comes first; with a revision it is a name on the hub.
        name: configuration.
        section: dotted key of the settings, for messages.
        configuration: key below it that holds `name`.

    Raises:
        DataError: there is nothing, or more than one thing that it could be.
    """
    if not _SPLIT.fullmatch(split):
        raise DataError(
            f"{section}.split {split!r} is not a name of a split: it is read whole; name only the split, "
            "or write a file with the wanted rows"
        )
    here = Path(path).expanduser()
    if here.is_file():
        _refuse(section, path, "file", {"revision": revision, configuration: name})
        return Placed((here,), split=split)
    if here.is_dir() and revision is None:
        return Placed(tuple(_in_folder(here, split, name)), split=split)
    if is_pattern(path):
        _refuse(section, path, "pattern", {"revision": revision, configuration: name})
        found = sorted(Path(each) for each in glob.glob(str(here), recursive=True))
        files = [each for each in found if each.is_file() and has_format(each)]
        if not files:
            raise DataError(f"no file of a known format ({FORMATS}) fits the pattern {path}")
        return Placed(tuple(files), split=split)
    if names_file(path):
        raise DataError(f"there is no file {here.absolute()}")
    if revision is None:
        raise DataError(
            f"{path!r} is neither a file of a known format ({FORMATS}) nor a folder; a dataset on the hub "
            f"needs {section}.revision, so that the run can be repeated"
        )
    try:
        commit, files = hub_files(path, split, revision, name)
    except MissingDataError as error:
        raise MissingDataError(
            f"{error}. Where the hub can be reached, `hf download {path} --repo-type dataset --revision "
            f"{revision}` fetches it into the hub's cache (HF_HOME), which is enough here; or name a file "
            f"or folder as {section}.path"
        ) from error
    return Placed(tuple(files), commit, split)


def _refuse(section: str, path: str, what: str, given: Mapping[str, str | None]) -> None:
    for key, value in given.items():
        if value is not None:
            raise DataError(
                f"{section}.{key} is for a data set on the hub, but {section}.path is a {what} ({path}); "
                f"remove {section}.{key}"
            )


def _in_folder(folder: Path, split: str, name: str | None) -> list[Path]:
    """Its files of the split; files whose names are no splits' are parts of one data set."""
    files = folder_files(folder, split, name, parts_without_split=True)
    found = files or sorted(folder.glob(_LINES))
    if not found:
        raise DataError(
            f"the folder {folder.absolute()} holds no file of a known format ({FORMATS})"
        )
    return found
