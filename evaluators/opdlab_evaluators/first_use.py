"""What a benchmark's data were when they were first used on this account, so that a change shows.

A hash or a commit that nobody has verified is not invented: it is written down on first use, and what is
read later must be the same.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from filelock import FileLock

from opdlab.errors import DataError

LOCK_TIMEOUT_S = 10


@dataclass(frozen=True)
class Seen:
    """A copy of a benchmark's data as first used: hash, rows, commit on the hub, and the day."""

    content: str
    count: int
    revision: str | None
    day: str


def ledger() -> Path:
    """The file that first uses are written to, in the user's data folder."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "opdlab" / "benchmark-data.json"


def remembered(benchmark: str, origin: str) -> Seen | None:
    """What was first found there; None if it was never used."""
    found = _read().get(f"{benchmark} {origin}")
    return Seen(**found) if found else None


def compare_or_remember(
    benchmark: str, origin: str, content: str, count: int, revision: str | None
) -> Seen | None:
    """The record of an earlier use, which must be the same; None if this is the first, now recorded.

    Raises:
        DataError: the data are not those of the first use.
    """
    earlier = remembered(benchmark, origin)
    if earlier is None:
        _remember(benchmark, origin, Seen(content, count, revision, date.today().isoformat()))
        return None
    if (earlier.content, earlier.count) != (content, count) and earlier.revision == revision:
        raise DataError(
            f"{benchmark}: {origin} has changed since it was first used on {earlier.day} (then "
            f"{earlier.count} rows, hash {earlier.content}; now {count} rows, hash {content}). Scores "
            "from before and after are not comparable. If the change is meant, remove the entry "
            f"{benchmark + ' ' + origin!r} from {ledger()}"
        )
    return earlier


def _remember(benchmark: str, origin: str, seen: Seen) -> None:
    path = ledger()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
            entries = _read() | {f"{benchmark} {origin}": asdict(seen)}
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
            temporary.replace(path)
    except OSError as error:
        warnings.warn(
            f"{benchmark}: its hash {seen.content} could not be recorded in {path} ({error}), so a "
            "later change of the data would not be noticed; set XDG_DATA_HOME to a writable folder",
            UserWarning,
            stacklevel=2,
        )


def _read() -> dict[str, dict]:
    path = ledger()
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}, the record of benchmark data, cannot be read ({error}): move it away"
        ) from error
