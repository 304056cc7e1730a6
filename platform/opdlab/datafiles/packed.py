"""Packed files: known by their first bytes, whatever they are called."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from typing import Any, BinaryIO

_PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
PACKED = (".gz", ".bz2", ".xz", ".zst")
_ARCHIVES = {b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z"}


def unpacked(content: bytes) -> bytes:
    """The bytes themselves, or what gzip, bzip2, xz or Zstandard made of them.

    Raises:
        ValueError: an archive of several files, or Zstandard without a library for it.
        OSError, EOFError, zlib.error, lzma.LZMAError: the file is damaged or was cut.
    """
    match packing(content):
        case "gzip":
            return gzip.decompress(content)
        case "bzip2":
            return bz2.decompress(content)
        case "xz":
            return lzma.decompress(content)
        case "zstandard":
            return _zstandard(content)
        case _:
            refuse_archive(content)
            return content


def opened(raw: BinaryIO, start: bytes) -> Any:
    """The same as a stream, of a file that begins so; raises ValueError without a library for Zstandard."""
    match packing(start):
        case "gzip":
            return gzip.open(raw)
        case "bzip2":
            return bz2.open(raw)
        case "xz":
            return lzma.open(raw)
        case "zstandard":
            return _zstandard_stream(raw)
        case _:
            return raw


def packing(start: bytes) -> str | None:
    """How a file that begins so is packed; None where it is not."""
    return next((name for mark, name in _PACKINGS.items() if start.startswith(mark)), None)


def refuse_archive(content: bytes) -> None:
    """Raise ValueError for the beginning of an archive of several files."""
    for start, name in _ARCHIVES.items():
        if content.startswith(start):
            raise ValueError(f"it is a {name} archive; unpack it, and name the file in it")


def _zstandard(content: bytes) -> bytes:
    with _zstandard_stream(io.BytesIO(content)) as stream:
        return stream.read()


def _zstandard_stream(raw: BinaryIO) -> Any:
    """What Zstandard made of a stream; raises ValueError without a library for it."""
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise ValueError("this pyarrow reads no Zstandard; unpack it by `zstd -d`")
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
