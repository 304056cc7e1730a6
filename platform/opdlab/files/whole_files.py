"""Small files and folders that are whole or not there, and the one way to read those of JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from opdlab.errors import DamagedError

Record = TypeVar("Record")
RESTORE = "restore it from a copy"


def sha256_of(path: Path) -> str:
    """Of a file's bytes, which need not be in memory at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_partial(path: Path) -> bool:
    """Whether a writer that was killed left a file behind, which nobody reads."""
    return re.fullmatch(r"\..*\.[0-9a-f]{8}\.partial", path.name) is not None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a machine that went down, finds all of it or the one before.

    Writers of one path at once each write all of theirs; the last to end stays. A link stays a link, to
    the file that is written.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    path = _target(path) if path.is_symlink() else path
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to fill, which then takes its place; one that was not filled to its end is not there."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _target(link: Path) -> Path:
    """What a link leads to; raises OSError where it leads round."""
    try:
        return link.resolve()
    except RuntimeError as error:  # of Python below 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(link)) from error


@contextlib.contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of the one before: whole or not there."""
    partial = place.with_name(f".{place.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def read_file(path: Path) -> bytes:
    """What a file holds; a pipe or a device in its place is refused, where reading might never end.

    Raises:
        OSError: it cannot be read; nor can what is there and is not a file.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is a folder, a pipe or a device")
    return path.read_bytes()


def is_there(path: Path) -> bool:
    """Whether something stands at a path, a link that leads nowhere included."""
    return path.exists() or path.is_symlink()


def read_json(path: Path, *keys: str, remedy: str = RESTORE) -> dict[str, Any]:
    """The object in a small JSON file.

    Args:
        keys: that it must have.
        remedy: what to do where it is damaged.

    Raises:
        DataError: there is no sound file; the message names it.
    """
    try:
        found = json.loads(read_file(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error), remedy) from error
    if not isinstance(found, dict):
        raise damaged(path, "it holds no JSON object", remedy)
    if missing := [key for key in keys if key not in found]:
        raise damaged(path, f"it lacks {', '.join(missing)}", remedy)
    return found


def read_record(path: Path, kind: type[Record], remedy: str = RESTORE) -> Record:
    """A dataclass from the JSON file that holds its fields; raises as `read_json`."""
    try:
        return built(kind, read_json(path, remedy=remedy))
    except TypeError as error:
        raise damaged(path, str(error), remedy) from error


def damaged(path: Path, why: str, remedy: str = RESTORE) -> DamagedError:
    """What to say of a file that cannot be read."""
    return DamagedError(
        f"{path} is damaged, unreadable or of another version of opdlab ({why}): {remedy}"
    )


def built(kind: type[Record], told: Mapping[str, Any]) -> Record:
    """A dataclass from plain values, as far as its fields' types tell them apart.

    Raises:
        TypeError: a field is missing, unknown or of another type.
    """
    hints = get_type_hints(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in told and not _fits(told[field.name], hints[field.name]):
            raise TypeError(f"{field.name} is {told[field.name]!r:.80}")
    return kind(**told)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin in (list, tuple, Sequence):
        return isinstance(value, (list, tuple))
    if origin in (int, float):
        kinds = int if origin is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return origin not in (str, bool, NoneType) or isinstance(value, origin)
