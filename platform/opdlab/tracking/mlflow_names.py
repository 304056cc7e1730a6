"""Names of metrics and parameters as MLflow allows them."""

from __future__ import annotations

import hashlib
import posixpath
import re

LONGEST = 250
"""Characters of a name in MLflow."""
_ODD = re.compile(r"[^/\w.\- :]")
_QUOTED = re.compile(r":([0-9a-f]+):")


def quoted(name: str) -> str:
    """The name with each character that MLflow refuses as its number between colons: `gsm8k:2b:`.

    Of a name that is too long the end is its hash.
    """
    odd = _ODD.pattern if not _QUOTED.search(name) else r"[^/\w.\- ]"
    found = re.sub(odd, _number, name)
    if posixpath.normpath(found) != found or found.startswith(("/", "..")) or found in ("", "."):
        # MLflow takes names for paths of files and refuses those with two spellings.
        found = re.sub(r"[/.]", _number, found) or ":0:"
    if len(found) > LONGEST:
        found = f"{found[: LONGEST - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return found


def unquoted(name: str) -> str:
    """The name that `quoted` was given, where that was not too long."""
    return "" if name == ":0:" else _QUOTED.sub(lambda found: chr(int(found[1], 16)), name)


def _number(found: re.Match[str]) -> str:
    return f":{ord(found[0]):x}:"
