"""All faults of a file at once: what is at fault is taken out, and the rest is checked again."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from opdlab.configuration import explain
from opdlab.configuration.config import Experiment
from opdlab.configuration.pretrain_config import Pretraining
from opdlab.configuration.source import Source
from opdlab.plugins import strictly

_STAND_INS: dict[tuple[str, ...], Any] = {
    ("name",): "x",
    ("student",): {"path": "embedded:student"},
    ("teacher",): {"path": "embedded:teacher"},
    ("prompts",): {"type": "dataset", "path": "x.jsonl"},
    ("rollout",): {"type": "cached"},
    ("method",): {"type": "sft"},
    ("training",): {"steps": 10**9},
    ("training", "steps"): 10**9,
    ("sweep", "trials"): 1,
}
"""What takes the place of a faulty value that must be there, while the rest is checked."""


def validate(
    model: type[Experiment] | type[Pretraining], source: Source
) -> tuple[Experiment | Pretraining | None, list[explain.Found]]:
    try:
        return strictly(model, source.data), []
    except ValidationError as error:
        return None, explain.faults(error, model, source.data)


def validate_all(
    model: type[Experiment] | type[Pretraining], source: Source
) -> tuple[Experiment | Pretraining | None, list[explain.Found], Source, set[str]]:
    """The configuration without its faults, all of them, what of the source is left, and whole sections
    that are not.

    Some checks are made only where others have passed. So what is at fault is taken out, with a value in
    its place where one must stand there, and the rest is checked again.
    """
    rest = Source(copy.deepcopy(source.data), source.document, source.moved)
    told: list[explain.Found] = []
    out: list[explain.Path] = []
    while True:
        config, found = validate(model, rest)
        known = {message for _, message in told}
        told += [one for one in found if one[1] not in known and not _follows(one, out)]
        # A section without what it needs, such as its type, is none.
        places = [path if _at(rest.data, path) else path[:1] for path, _ in found]
        new = [path for path in places if not _holds(path, out) and _take_out(rest.data, path)]
        if config is not None or not new:
            return config, told, rest, {str(path[0]) for path in out if len(path) == 1}
        out += new


def _at(data: Any, path: explain.Path) -> bool:
    """Whether a value stands at a path that can be taken out alone."""
    for key in path:
        if isinstance(data, list):
            if not isinstance(key, int) or key >= len(data):
                return False
            data = data[key]
        elif isinstance(data, dict) and key in data:
            data = data[key]
        else:
            return False
    return path[1:] != ("type",)


def _follows(found: explain.Found, out: Sequence[explain.Path]) -> bool:
    """Whether a fault may be there only because of what was taken out: it is about it, or names it."""
    path, message = found
    words = set(re.findall(r"\w+", message))
    named = any(str(gone[-1]).split(".")[-1] in words for gone in out if len(gone) > 1)
    return named or bool(path and _holds(path, out))


def _holds(path: explain.Path, out: Sequence[explain.Path]) -> bool:
    """Whether what was taken out stood at a path or below it."""
    return any(path == gone[: len(path)] for gone in out)


def _take_out(data: Any, path: explain.Path) -> bool:
    """Remove what stands at a path, or the list that it is part of; False where nothing does."""
    if path[:2] == ("sweep", "space"):
        path = path[:3]
    whole = next((n for n, key in enumerate(path) if isinstance(key, int)), len(path))
    *above, last = path[:whole] or (None,)
    place = data
    for key in above:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        return False
    stand_in = _STAND_INS.get(tuple(map(str, path[:whole])))
    if place[last] == stand_in:
        return False
    del place[last]
    if stand_in is not None:
        place[last] = stand_in
    if path[:2] == ("sweep", "space"):
        # How well a sampler fits depends on all of the space.
        data["sweep"].pop("sampler", None)
    return True
