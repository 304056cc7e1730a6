"""Packed files: known by their first bytes, whatever they are called."""

from __future__ import annotations

import bz2
import gzip
import lzma

PACKED = (".gz", ".bz2", ".xz", ".zst")
_ARCHIVES = {b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z"}


def unpacked(content: bytes) -> bytes:
    """The bytes themselves, or what gzip, bzip2, xz or Zstandard made of them.

    Raises:
        ValueError: an archive of several files, or Zstandard without a library for it.
        OSError, EOFError, zlib.error, lzma.LZMAError: the file is damaged or was cut.
    """
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"BZh"):
        return bz2.decompress(content)
    if content.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(content)
    if content.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstandard(content)
    refuse_archive(content)
    return content


def refuse_archive(content: bytes) -> None:
    """Raise ValueError for the beginning of an archive of several files."""
    for start, name in _ARCHIVES.items():
        if content.startswith(start):
            raise ValueError(f"it is a {name} archive; unpack it, and name the file in it")


def _zstandard(content: bytes) -> bytes:
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise ValueError("this pyarrow reads no Zstandard; unpack it by `zstd -d`")
    with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
        return stream.read()
