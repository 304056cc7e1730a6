"""Files of a store held against the hashes that they had when they were written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from opdlab.errors import DamagedError
from opdlab.files import is_there, sha256_of
from opdlab.scores.manifest import TEACHER, Manifest


def require_whole(path: Path, sha256: str, also: str = "") -> None:
    """Refuse a file that is not the one that was written.

    Args:
        also: another file that has to be removed for this one to be made again.

    Raises:
        DamagedError: naming it.
    """
    found = sha256_of(path)
    if found != sha256:
        raise DamagedError(
            f"{path} has changed since it was written (SHA-256 {found[:12]}, not {sha256[:12]}): restore "
            f"it from a copy, or remove it{f' and {also},' if also else ''} and run the command again that "
            "made it"
        )


def missing_of(folder: Path, manifest: Manifest) -> list[str]:
    """Names of the teacher's files that are not there.

    Raises:
        DamagedError: something stands in the place of one that is not a file.
    """
    places = {name: folder / TEACHER / name for name in manifest.files}
    for path in places.values():
        if is_there(path) and not path.is_file():
            raise DamagedError(
                f"{path} is not a file: remove it and run the command again that made the scores"
            )
    return [name for name, path in places.items() if not path.is_file()]


def require_teacher(folder: Path, manifest: Manifest, but: Collection[str] = ()) -> None:
    """Refuse what is there of the teacher unless it is what was written; before a library reads it.

    Args:
        but: files that are not looked at.

    Raises:
        DamagedError: naming a file that has changed or is not there.
    """
    missing = missing_of(folder, manifest)
    for name in sorted(manifest.files.keys() - set(but)):
        path = folder / TEACHER / name
        if name in missing:
            raise DamagedError(
                f"{path} is not there: restore it from a copy, or run the command again that made it"
            )
        require_whole(path, manifest.files[name])
