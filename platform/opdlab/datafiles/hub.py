"""Data sets on the Hugging Face hub: one commit, from there or from the hub's cache."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from opdlab.datafiles.folders import folder_files, require_whole, saved_rows
from opdlab.datafiles.reading import SUFFIXES, Row, read_rows
from opdlab.errors import DataError, MissingDataError

TIMEOUT_S = 10
CARD = "README.md"
DEFAULT_CONFIG = "default"
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)


def download(
    repository: str, patterns: Sequence[str] | None, revision: str | None
) -> tuple[str, Path]:
    """Commit and local folder of a data set.

    Where the hub is out of reach, what its cache holds of that revision is taken (`hf download` on a
    machine with a network).

    Args:
        patterns: globs of the files to fetch; None for all.
        revision: commit, tag or branch; None for the newest commit.

    Raises:
        MissingDataError: neither the hub nor the cache has it.
    """
    from huggingface_hub import snapshot_download

    try:
        # The folder is named by the commit that the revision stood for, which the client notes.
        folder = snapshot_download(
            repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=None if patterns is None else list(patterns),
            etag_timeout=TIMEOUT_S,
        )
    except Exception as error:
        # Any: the client raises what its HTTP library does, too.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        at = f" at revision {revision}" if revision else ""
        raise MissingDataError(
            f"{repository} was not fetched from the hub{at} ({first})"
        ) from error
    return Path(folder).name, Path(folder)


def read_hub(
    repository: str,
    split: str,
    revision: str,
    config: str | None = None,
    columns: Collection[str] | None = None,
) -> tuple[str, list[Row]]:
    """Commit and rows of one split of a data set.

    Which files hold them is what the data set's card says, else what their names say.

    Args:
        config: configuration; by default the only one, or the one that the card calls the default.
        columns: read no others, to save memory.

    Raises:
        MissingDataError: neither the hub nor its cache has the data set.
        DataError: it has no such split or configuration, or a file is malformed or missing.
    """
    commit, files = hub_files(repository, split, revision, config)
    rows: list[Row] = []
    for file in files:
        rows += saved_rows(file) if file.is_dir() else read_rows(file, columns, split)
    return commit, rows


def hub_files(
    repository: str, split: str, revision: str, config: str | None = None
) -> tuple[str, list[Path]]:
    """Commit of a data set, and the files that hold one split of it; see `read_hub`."""
    commit, folder = download(repository, [CARD], revision)
    files = _on_card(folder / CARD, split, config)
    patterns = files or [f"*{suffix}" for suffix in SUFFIXES]
    _, folder = download(repository, patterns, commit)
    if files is None:
        return commit, folder_files(folder, split, config)
    found = [file for file in sorted(folder.rglob("*")) if _matches(file, folder, files)]
    if not found:
        raise DataError(f"{repository} has no file {', '.join(files)} for its split {split!r}")
    require_whole(folder, found)
    return commit, found


def _matches(file: Path, folder: Path, patterns: Sequence[str]) -> bool:
    name = file.relative_to(folder).as_posix()
    return file.is_file() and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _on_card(card: Path, split: str, config: str | None) -> list[str] | None:
    """Globs of the files of a split; None where the card does not list them."""
    configs = {
        str(each.get("config_name", DEFAULT_CONFIG)): each
        for each in _head(card).get("configs") or ()
        if isinstance(each, Mapping) and each.get("data_files")
    }
    if not configs:
        return None
    chosen = configs[_config(card, configs, config)]
    folder = chosen.get("data_dir")
    by_split = _by_split(chosen["data_files"])
    if split not in by_split:
        raise DataError(f"{card} names no split {split!r}, only {', '.join(by_split)}")
    return [f"{folder}/{each}" if folder else each for each in by_split[split]]


def _config(card: Path, configs: Mapping[str, Mapping], config: str | None) -> str:
    if config is not None and config in configs:
        return config
    default = [
        name for name, each in configs.items() if each.get("default") or name == DEFAULT_CONFIG
    ]
    if config is None and len(default or configs) == 1:
        return next(iter(default or configs))
    what = f"no configuration {config!r}" if config else "several configurations"
    raise DataError(f"{card} names {what}: choose one of {', '.join(configs)}")


def _by_split(files: Any) -> dict[str, list[str]]:
    """Globs by split, from any form in which cards write them: a glob, a list, one or several a split."""
    if isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    if isinstance(files, str):
        files = [files]
    found: dict[str, list[str]] = {}
    for each in files:
        one = each if isinstance(each, Mapping) else {"split": "train", "path": each}
        paths = one.get("path") or ()
        named = [paths] if isinstance(paths, str) else list(paths)
        found.setdefault(str(one.get("split", "train")), []).extend(named)
    return found


def _head(card: Path) -> Mapping[str, Any]:
    """What stands between the dashes at the top of a card; empty where nothing does."""
    import yaml

    found = _HEAD.match(card.read_text(errors="replace")) if card.exists() else None
    try:
        head = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, Mapping) else {}
