"""Where a model lies: what can be told without loading it, or any library for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from opdlab.errors import DataError, ModelError, OutOfReachError
from opdlab.files import read_json, shipped, unfinished

EMBEDDED = Path(__file__).parent.parent / "embedded"
ADAPTERS = "adapter_config.json"
"""In a folder: it holds adapters, in peft's form."""
GGUF = ".gguf"
"""Ending of a file that holds a whole model, most often of few bits a weight."""
FOLDERS = "OPDLAB_MODELS"
"""Variable that names folders to search for models, separated as in PATH."""
FETCHED = "opdlab-fetched.json"
"""In a folder that `opdlab fetch --to` filled: name, revision and commit of its model on the hub."""
_MAGIC = b"GGUF"
_OF_THE_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def place_of(path: str, revision: str | None) -> tuple[Path | None, str, str | None]:
    """A model's folder or GGUF file, or None and its name and revision on the hub.

    Args:
        path: a folder, a GGUF file, `embedded:NAME`, or a name on the hub; there also `NAME@REVISION`. A
            relative path that is not here is looked for in `model_folders`.

    Raises:
        ModelError: there is no such folder, it holds no model, or one of the hub has no revision.
        OutOfReachError: a folder that a shipped pretraining is still to make, or a file to be fetched.
    """
    name, at, tail = path.rpartition("@")
    if at and name and tail and revision is None and not Path(path).expanduser().exists():
        path, revision = name, tail
    if path.startswith("embedded:"):
        _refuse_revision(path, revision)
        return _embedded(path), path, None
    folder = Path(path).expanduser()
    if folder.exists():
        _refuse_revision(path, revision)
    elif found := _searched(path, revision):
        folder = found
    elif not path.endswith(GGUF) and _OF_THE_HUB.fullmatch(path):
        _require_revision(path, revision)
        return None, path, revision
    _check_place(folder)
    return folder, path, None


def model_folders() -> list[Path]:
    """Folders that are searched for models: those of OPDLAB_MODELS, then the one that `opdlab fetch` fills.

    Raises:
        ModelError: OPDLAB_MODELS names what is not a folder.
    """
    named = [Path(one).expanduser() for one in os.environ.get(FOLDERS, "").split(os.pathsep) if one]
    if missing := next((one for one in named if not one.is_dir()), None):
        raise ModelError(
            f"{FOLDERS} in the environment names {missing}, which is not a folder; correct it there, or "
            "make the folder"
        )
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return [*named, home / "opdlab" / "models"]


def _searched(path: str, revision: str | None) -> Path | None:
    """A model in the model folders; of a revision only where a record says that it is that one."""
    relative = Path(path)
    if relative.is_absolute() or path.startswith("~") or ".." in relative.parts:
        return None
    for folder in model_folders():
        found = folder / relative
        if found.exists() and (revision is None or revision in _revisions(found)):
            return found
    return None


def _revisions(folder: Path) -> tuple[str, ...]:
    """Names of the revision that a fetched folder holds; none where nothing says so."""
    record = folder / FETCHED
    if not record.is_file():
        return ()
    told = read_json(record, "revision", "commit", remedy="fetch the model again")
    return str(told["revision"]), str(told["commit"])


def _require_revision(path: str, revision: str | None) -> None:
    if revision is None:
        raise ModelError(
            f"{path}: there is no such folder, and a model of the Hugging Face hub needs a revision "
            f"(a commit or tag), so that the run can be repeated: write {path}@REVISION, or correct "
            "the path"
        )


def adapted(path: str) -> Path | None:
    """The folder at a path, if it holds adapters and no model."""
    folder = Path(path).expanduser()
    if not folder.exists():
        folder = _searched(path, None) or folder
    alone = (folder / ADAPTERS).is_file() and not (folder / "config.json").is_file()
    return folder if alone else None


def _refuse_revision(path: str, revision: str | None) -> None:
    """A revision that nothing would look at: only models of the hub have some."""
    if revision is not None:
        raise ModelError(
            f"{path}: the revision {revision!r} names a commit on the hub, and this model is a local "
            "folder; leave the revision out"
        )


def _embedded(path: str) -> Path:
    name = path.removeprefix("embedded:")
    shipped = sorted(config.parent.name for config in EMBEDDED.glob("*/config.json"))
    if name not in shipped:
        known = ", ".join(f"embedded:{model}" for model in shipped) or "none"
        raise ModelError(f"{path}: no such embedded model; this package has: {known}")
    return EMBEDDED / name


def _check_place(folder: Path) -> None:
    """Refuse what holds no model: see `place_of`."""
    if folder.is_file():
        with folder.open("rb") as file:
            begins = file.read(len(_MAGIC))
        if begins != _MAGIC:
            raise ModelError(
                f"{folder}: the file is no GGUF file; give a GGUF file, or the folder of a saved Hugging "
                "Face model"
            )
        return
    if folder.suffix == GGUF and not folder.exists():
        raise OutOfReachError(
            f"{folder}: no such file, here or in a model folder ({', '.join(map(str, model_folders()))}): "
            f"put it there, or name another folder in {FOLDERS}; `opdlab fetch` brings those that come "
            "with packages"
        )
    _check_folder(folder)


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
