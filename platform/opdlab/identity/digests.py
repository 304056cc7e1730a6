"""Digests of plain values, ids and times: what records are told apart by."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime
from typing import Any

DIGITS = 16


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, its first 16 digits; the order of keys does not matter.

    Raises:
        TypeError, ValueError: it is no JSON value.
    """
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def new_id() -> str:
    """An id that no other record has, 16 hexadecimal digits."""
    return secrets.token_hex(DIGITS // 2)


def now() -> str:
    """The time in UTC, as ISO 8601 with microseconds: as text it sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
