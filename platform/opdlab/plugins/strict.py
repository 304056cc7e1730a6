"""Plain values as typed configuration: nothing is guessed, and 4.0 is the whole number 4."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Checked = TypeVar("Checked", bound=BaseModel)


def strictly(model: type[Checked], data: Any) -> Checked:
    """Check plain values, which stay as they are.

    Where a whole number is wanted, 4.0 and 1e3 are taken for one, as JSON Schema does.

    Raises:
        ValidationError: every fault.
    """
    while True:
        try:
            # JSON mode is strict about types, yet takes a list for a tuple.
            return model.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            data = copy.deepcopy(data)
            places = [one["loc"] for one in error.errors() if one["type"] == "int_type"]
            changed = [place for place in places if _make_whole(data, place)]
            if not changed:
                raise


def _make_whole(data: Any, location: Sequence[Any]) -> bool:
    """Write a number at a location of pydantic's without its `.0`; False where it has another fraction."""
    above: Any = None
    last: Any = None
    for key in location:
        # Names of union members are no keys.
        inside = isinstance(data, dict) and key in data
        if inside or (isinstance(data, list) and isinstance(key, int) and key < len(data)):
            above, last, data = data, key, data[key]
    if above is None or not isinstance(data, float) or not data.is_integer():
        return False
    above[last] = int(data)
    return True
