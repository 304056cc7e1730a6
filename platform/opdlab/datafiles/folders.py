"""The folder of a data set, as `save_to_disk` leaves it or as it lies on the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from opdlab.datafiles.json_tables import SPLITS
from opdlab.datafiles.reading import SUFFIXES, Row, plain, read_rows
from opdlab.errors import DataError

_SHARD = re.compile(r"[-_.]\d+-of-\d+.*$")
_NUMBERED = re.compile(r"(?P<name>.*)[-_.](?P<number>\d+)-of-(?P<all>\d+)")


def is_dataset_folder(folder: Path) -> bool:
    """Whether it shows by itself that it is one data set: saved, `data/`, a card, files by splits."""
    if any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        return True
    files = _files(folder)
    if files and ((folder / "data").is_dir() or _has_card(folder)):
        return True
    return any(_split_of(folder, file) in SPLITS for file in files)


def _has_card(folder: Path) -> bool:
    card = folder / "README.md"
    return card.exists() and card.read_bytes().startswith(b"---")


def read_folder(
    folder: Path,
    split: str,
    config: str | None = None,
    parts: Sequence[str] = (),
    columns: Collection[str] | None = None,
) -> list[Row]:
    """The rows of one split; where the folder has a single one, it may be called anything.

    Args:
        config: configuration, which is the name of a folder in it.
        parts: names of the files that hold the rows, where it has other ones too.
        columns: read no others, to save memory; a saved data set is read whole.

    Raises:
        DataError: the split, a part or one of its shards is not there, or a file is malformed.
    """
    if parts:
        return [row for name in parts for row in read_rows(folder / name)]
    found: list[Row] = []
    for file in folder_files(folder, split, config):
        found += saved_rows(file) if file.is_dir() else read_rows(file, columns, split)
    return found


def folder_files(
    folder: Path, split: str, config: str | None = None, parts_without_split: bool = False
) -> list[Path]:
    """The files that hold one split, or the folder that `save_to_disk` made of it.

    Args:
        config: configuration, which is the name of a folder in it.
        parts_without_split: files none of which is named by a split are all of one; none is no fault.

    Raises:
        DataError: as `read_folder`.
    """
    if (folder / "dataset_dict.json").exists():
        names = _listed(folder / "dataset_dict.json", "splits")
        return [folder / _chosen(folder, split, names)]
    if (folder / "state.json").exists():
        return [folder]
    files = _files(folder)
    named = any(_split_of(folder, file) in (*SPLITS, split) for file in files)
    if parts_without_split and not (named or config) and not _has_card(folder):
        require_whole(folder, files)
        return sorted(files)
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:
        groups.setdefault((_config_of(folder, file), _split_of(folder, file)), []).append(file)
    groups = _of_config(folder, groups, config, split)
    by_split = {name: files for (_, name), files in groups.items()}
    chosen = by_split[_chosen(folder, split, sorted(by_split))]
    require_whole(folder, chosen)
    return sorted(chosen)


def require_whole(folder: Path, files: Sequence[Path]) -> None:
    """Refuse `train-00000-of-00003` without the other two: a download was cut, or files were left out.

    Raises:
        DataError: naming the first shard that is not there.
    """
    shards: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if found := _NUMBERED.match(file.name):
            key = (file.parent, found["name"], int(found["all"]))
            shards.setdefault(key, set()).add(int(found["number"]))
    for (parent, name, count), there in shards.items():
        # Some writers count from 1.
        first = 1 if count in there else 0
        missing = sorted({*range(first, first + count)} - there)
        if missing:
            where = (parent / name).relative_to(folder)
            raise DataError(
                f"{folder} holds {len(there)} of the {count} shards of {where}: number {missing[0]} is "
                "not there; fetch them all"
            )


def _files(folder: Path) -> list[Path]:
    inside = [file.relative_to(folder) for file in folder.rglob("*")]
    tables = [file for file in inside if file.name.lower().endswith(SUFFIXES)]
    shown = [file for file in tables if not any(part.startswith(".") for part in file.parts)]
    return sorted(
        folder / file for file in shown if file.name not in ("dataset_infos.json", "state.json")
    )


def _split_of(folder: Path, file: Path) -> str:
    """`test` of `test.jsonl`, `main/test-00000-of-00001.parquet` and `test/part.csv`."""
    stem = _SHARD.sub("", file.name.partition(".")[0] if "-of-" not in file.name else file.name)
    parents = file.relative_to(folder).parts[:-1]
    if stem not in SPLITS and parents and parents[-1] in SPLITS[:-1]:
        return parents[-1]
    return stem


def _config_of(folder: Path, file: Path) -> str:
    parents = [part for part in file.relative_to(folder).parts[:-1] if part not in SPLITS]
    return parents[0] if parents else ""


def _of_config(
    folder: Path, groups: dict[tuple[str, str], list[Path]], config: str | None, split: str
) -> dict[tuple[str, str], list[Path]]:
    """The files of one configuration: the one that is named, else the only one that has the split."""
    configs = sorted({one for one, _ in groups})
    if config in configs:
        chosen = config
    elif len(configs) == 1:
        chosen = configs[0]
    else:
        having = [one for one in configs if (one, split) in groups]
        if len(having) != 1:
            raise DataError(
                f"{folder} has no data of one configuration, but of {', '.join(configs) or 'none'}; "
                "name a file of it"
            )
        chosen = having[0]
    return {key: files for key, files in groups.items() if key[0] == chosen}


def _chosen(folder: Path, split: str, splits: Sequence[str]) -> str:
    if split in splits:
        return split
    if len(splits) == 1:
        return splits[0]
    raise DataError(f"{folder} has no split {split!r}, only {', '.join(splits) or 'none'}")


def _listed(file: Path, key: str) -> list[str]:
    try:
        return list(json.loads(file.read_text())[key])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def saved_rows(folder: Path) -> Iterator[Row]:
    """The rows of a data set that `save_to_disk` left, mapped from disk; raises DataError at the first."""
    import datasets

    try:
        rows: Any = datasets.load_from_disk(str(folder))
        yield from (plain(dict(row)) for row in rows)
    except Exception as error:
        # Any: the library raises what its readers do.
        raise DataError(f"{folder} cannot be read: {error}") from error
