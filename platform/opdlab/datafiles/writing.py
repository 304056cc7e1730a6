"""Values of rows as text: in a prompt, and on a line of JSON Lines that reads back as it was."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from opdlab.datafiles.reading import is_text

_MARK = "\x00number "
_MARKED = re.compile(r'"\\u0000number ([-+0-9.Ee]+)"')


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON Lines: numbers with all their digits, dates as ISO 8601.

    Raises:
        ValueError: a column holds bytes that are no text, such as an image.
    """
    for name, value in row.items():
        try:
            json.dumps(value, default=_plain)
        except TypeError as error:
            raise ValueError(f"column {name!r} holds {error}, which JSON cannot") from error
    line = json.dumps(row, ensure_ascii=False, default=_plain)
    # JSON may name half a character, and UTF-8 may not.
    line = line if is_text(line) else json.dumps(row, default=_plain)
    return _MARKED.sub(r"\1", line) + "\n"


def value_text(value: Any) -> str:
    """A value as a prompt shows it: a text or a number as it is, lists and structs as JSON.

    Raises:
        ValueError: it holds bytes that are no text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    try:
        return _MARKED.sub(r"\1", json.dumps(value, ensure_ascii=False, default=_plain))
    except TypeError as error:
        raise ValueError(f"{error}, which is not a text") from error


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal) and value.is_finite():
        return f"{_MARK}{value}"
    raise TypeError(f"a value of type {type(value).__name__}")
