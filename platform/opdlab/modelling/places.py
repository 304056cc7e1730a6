"""Where a model lies: what can be told without loading it, or any library for it."""

from __future__ import annotations

import re
from pathlib import Path

from opdlab.errors import DataError, ModelError, OutOfReachError
from opdlab.files import read_json, shipped, unfinished

EMBEDDED = Path(__file__).parent.parent / "embedded"
ADAPTERS = "adapter_config.json"
"""In a folder: it holds adapters, in peft's form."""
_OF_THE_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def place_of(path: str, revision: str | None) -> tuple[Path | None, str, str | None]:
    """A model's folder, or None and its name and revision on the hub.

    Args:
        path: a folder, `embedded:NAME`, or a name on the hub; there also `NAME@REVISION`.

    Raises:
        ModelError: there is no such folder, it holds no model, or one of the hub has no revision.
        OutOfReachError: a folder that a shipped pretraining is still to make.
    """
    name, at, tail = path.rpartition("@")
    if at and name and tail and revision is None and not Path(path).expanduser().exists():
        path, revision = name, tail
    if path.startswith("embedded:"):
        _refuse_revision(path, revision)
        return _embedded(path), path, None
    folder = Path(path).expanduser()
    if folder.exists() or _OF_THE_HUB.fullmatch(path) is None:
        _check_folder(folder)
        _refuse_revision(path, revision)
        return folder, path, None
    if revision is None:
        raise ModelError(
            f"{path}: there is no such folder, and a model of the Hugging Face hub needs a revision "
            f"(a commit or tag), so that the run can be repeated: write {path}@REVISION, or correct "
            "the path"
        )
    return None, path, revision


def adapted(path: str) -> Path | None:
    """The folder at a path, if it holds adapters and no model."""
    folder = Path(path).expanduser()
    alone = (folder / ADAPTERS).is_file() and not (folder / "config.json").is_file()
    return folder if alone else None


def _refuse_revision(path: str, revision: str | None) -> None:
    """A revision that nothing would look at: only models of the hub have some."""
    if revision is not None:
        raise ModelError(
            f"{path}: the revision {revision!r} names a commit on the hub, and this model lies "
            "here; leave the revision out"
        )


def _embedded(path: str) -> Path:
    name = path.removeprefix("embedded:")
    shipped = sorted(config.parent.name for config in EMBEDDED.glob("*/config.json"))
    if name not in shipped:
        known = ", ".join(f"embedded:{model}" for model in shipped) or "none"
        raise ModelError(f"{path}: no such embedded model; this package has: {known}")
    return EMBEDDED / name


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        if maker := shipped.maker(folder):
            raise OutOfReachError(f"{folder} is not made yet: `opdlab pretrain {maker}` makes it")
        raise ModelError(
            f"{folder}: no such model folder; give a folder that holds config.json, `embedded:NAME`, "
            "or a name on the Hugging Face hub with its revision"
        )
    if not (folder / "config.json").is_file() and adapted(str(folder)) is None:
        raise ModelError(
            unfinished(folder)
            or f"{folder}: the folder has no config.json, so it is not a saved Hugging Face model; "
            "save one there with save_pretrained, or give the folder that holds it"
        )
    if (folder / ADAPTERS).is_file() and (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: it holds a model (config.json) and adapters ({ADAPTERS}), so which is "
            "meant is not known; move one of them to a folder of its own"
        )
    settings = folder / "generation_config.json"
    if settings.exists():
        # The library would go on without it, and the model would never end by the tokens it names.
        try:
            read_json(settings)
        except DataError as error:
            raise ModelError(str(error)) from error
