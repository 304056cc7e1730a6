"""A secret that tests put into addresses, and where it can be found afterwards."""

from __future__ import annotations

import re
from pathlib import Path

SECRET = "s3cret-planted"


def planted(address: str) -> str:
    """The address with a name and the secret for a password."""
    scheme, _, rest = address.partition("://")
    name, at, host = rest.rpartition("@")
    return f"{scheme}://{name if at else 'alice'}:{SECRET}@{host}"


def found(folder: Path, *texts: str) -> list[str]:
    """Files below a folder that hold the secret, in any encoding of theirs, and texts that do."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    holding = [str(path) for path in files if re.search(SECRET.encode(), path.read_bytes())]
    return holding + [text for text in texts if SECRET in text]
