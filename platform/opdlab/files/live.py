"""What a training is doing now, on disk for whoever looks on from another process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opdlab.files.whole_files import is_there, read_json, write_whole

LIVE = "live.json"


def tell_live(folder: Path, told: Mapping[str, Any]) -> None:
    """Write down what the training in a folder is doing, in place of what it did before."""
    write_whole(folder / LIVE, json.dumps(told) + "\n")


def read_live(folder: Path) -> dict[str, Any]:
    """What the training in a folder said last; empty where it said nothing.

    Raises:
        DataError: the file is damaged; the message names it.
    """
    path = folder / LIVE
    return read_json(path, remedy="delete it") if is_there(path) else {}
