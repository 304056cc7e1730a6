"""LiveCodeBench's private tests: base64 of zlib of a *pickle* of JSON, read without running anything."""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from dataclasses import dataclass
from typing import Any

from opdlab.errors import DataError

LARGEST = 1 << 30


@dataclass(frozen=True)
class Case:
    """One test: what goes in, and what must come out.

    Attributes:
        input: the standard input, or the list of a function's arguments.
        output: what must be printed, or returned.
        kind: `stdin` or `functional`.
    """

    input: Any
    output: Any
    kind: str


class _DataOnly(pickle.Unpickler):
    """A pickle may name any function to be called; data need none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def unpacked(packed: str, where: str) -> Any:
    """The value in base64 of zlib of a pickle.

    Raises:
        DataError: it is none, holds more than data, or unpacks to more than a gigabyte.
    """
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(base64.b64decode(packed, validate=True), LARGEST)
        if inflate.unconsumed_tail:
            raise DataError(f"{where}: its tests unpack to more than a gigabyte; take another copy")
        return _DataOnly(io.BytesIO(content)).load()
    except (
        binascii.Error,
        zlib.error,
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{where}: its tests cannot be read ({error}); take another copy"
        ) from error


def cases(text: str, where: str) -> list[Case]:
    """Tests as JSON, or packed.

    Raises:
        DataError: they are neither.
    """
    try:
        listed = json.loads(text)
    except ValueError:
        listed = unpacked(text, where)
    try:
        return [_case(row) for row in (json.loads(listed) if isinstance(listed, str) else listed)]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{where}: a test is malformed ({type(error).__name__}: {error}); take another copy"
        ) from error


def _case(row: Any) -> Case:
    given, expected, kind = row["input"], row["output"], row["testtype"]
    if kind == "stdin":
        return Case(given, expected, kind)
    if kind != "functional":
        raise ValueError(f"its kind is {kind!r}")
    return Case([json.loads(line) for line in given.split("\n")], json.loads(expected), kind)
