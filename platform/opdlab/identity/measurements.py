"""`measurements.jsonl`: every measurement that a store was asked for, in the order of asking."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from opdlab.errors import DataError
from opdlab.files import damaged, is_there, read_file, write_whole
from opdlab.identity.digests import new_id, now
from opdlab.identity.measurement import Measurement

MEASUREMENTS = "measurements.jsonl"
_REMEDY = "restore it from a copy, or move the folder away and evaluate again"


def add(folder: Path, wanted: Measurement) -> Measurement:
    """Write down that a measurement is asked for; the latest of a model and benchmark counts.

    What is the latest already is not written again. The caller holds the store's lock.

    Returns:
        It with its id, number and time: the id of the same model on the same problems is kept.

    Raises:
        DataError: the record is damaged.
        OSError: it cannot be written.
    """
    known = read(folder)
    mine = [one for one in known if _name(one) == _name(wanted)]
    if mine and mine[-1].asked == wanted.asked:
        return mine[-1]
    same = next((one.id for one in reversed(mine) if one.draws == wanted.draws), new_id())
    number = 1 + max((one.number for one in known), default=0)
    added = replace(wanted, id=same, number=number, time=now())
    lines = [json.dumps(one.plain(), sort_keys=True) for one in [*known, added]]
    write_whole(folder / MEASUREMENTS, "\n".join(lines) + "\n")
    return added


def read(folder: Path) -> list[Measurement]:
    """All that a store was asked for, by number; empty where there is no record.

    Raises:
        DataError: a line is damaged, or of another version of opdlab.
    """
    path = folder / MEASUREMENTS
    try:
        lines = read_file(path).decode().splitlines() if is_there(path) else []
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, str(error), _REMEDY) from error
    if is_there(path) and not lines:
        raise damaged(path, "it is empty", _REMEDY)
    return sorted(
        (_line(path, number, text) for number, text in enumerate(lines, 1)),
        key=lambda one: one.number,
    )


def _line(path: Path, number: int, text: str) -> Measurement:
    try:
        return Measurement.read(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number}: damaged, or written by another version of opdlab ({error}): "
            f"{_REMEDY}"
        ) from error


def latest(known: Iterable[Measurement]) -> list[Measurement]:
    """The last of each model, step and benchmark, in the order of numbers."""
    found: dict[tuple[object, ...], Measurement] = {}
    for one in sorted(known, key=lambda one: one.number):
        found.pop(_name(one), None)
        found[_name(one)] = one
    return list(found.values())


def _name(one: Measurement) -> tuple[object, ...]:
    return one.execution, one.role, one.model, one.step, one.benchmark
