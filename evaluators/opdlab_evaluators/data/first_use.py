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
from typing import Any

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


def today() -> str:
    """The day that a first use is recorded under."""
    return date.today().isoformat()


def ledger() -> Path:
    """The file that first uses are written to, in the user's data folder."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "opdlab" / "benchmark-data.json"


def remembered(benchmark: str, origin: str, revision: str | None = None) -> Seen | None:
    """What was first found there, at a revision of the hub or at any; None if it was never used.

    Raises:
        DataError: the record is damaged, or a newer version wrote it in another form.
    """
    key = _key(benchmark, origin, revision)
    entries = _read()
    if key not in entries:
        return None
    found = entries[key]
    # A newer version may write more; what this one compares must be there.
    match found:
        case {"content": str(content), "count": int(count), "day": str(day)}:
            return Seen(content, count, found.get("revision"), day)
    raise DataError(
        f"{ledger()}, the record of benchmark data, has an entry {key!r} that this version cannot read; "
        "remove the entry, or move the file away"
    )


def compare_or_remember(
    benchmark: str, origin: str, seen: Seen, expect_change: bool = False
) -> Seen | None:
    """The record of an earlier use, which must be the same; None if this is the first, now recorded.

    Another revision of the hub is another first use. The first of all is what `remembered` tells without a
    revision.

    Args:
        expect_change: record the contents anew where they changed: they are known to be right.

    Raises:
        DataError: the data are not those of the first use.
    """
    earlier = remembered(benchmark, origin, seen.revision)
    changed = earlier and (earlier.content, earlier.count) != (seen.content, seen.count)
    if earlier is None or (changed and expect_change):
        _remember({_key(benchmark, origin, seen.revision): seen}, benchmark)
        if seen.revision and remembered(benchmark, origin) is None:
            _remember({_key(benchmark, origin, None): seen}, benchmark)
        return None
    if changed:
        key = _key(benchmark, origin, seen.revision)
        raise DataError(
            f"{benchmark}: {origin} has changed since it was first used on {earlier.day} (then "
            f"{earlier.count} rows, hash {earlier.content}; now {seen.count} rows, hash "
            f"{seen.content}). Scores from before and after are not comparable. If the change is meant, "
            f"remove the entry {key!r} from {ledger()}"
        )
    return earlier


def _key(benchmark: str, origin: str, revision: str | None) -> str:
    return f"{benchmark} {origin}" + (f"@{revision}" if revision else "")


def _remember(seen: dict[str, Seen], benchmark: str) -> None:
    path = ledger()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
            entries = _read() | {key: asdict(one) for key, one in seen.items()}
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
            temporary.replace(path)
    except OSError as error:
        warnings.warn(
            f"{benchmark}: its hash could not be recorded in {path} ({error}), so a "
            "later change of the data would not be noticed; set XDG_DATA_HOME to a writable folder",
            UserWarning,
            stacklevel=2,
        )


def _read() -> dict[str, Any]:
    path = ledger()
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}, the record of benchmark data, cannot be read ({error}): move it away"
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"{path}, the record of benchmark data, holds a {type(found).__name__} instead of entries: "
            "move it away"
        )
    return found
