"""What each key of an experiment decides: what is learned, how it is measured, where, or how fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEASURES = ("evaluation",)
"""How a model is measured: part of a measurement's record, never of what was learned."""
PLACES = (
    "kind",
    "name",
    "description",
    "output",
    "tracking",
    "runs",
    "sweep",
    "training.keep_every",
    "training.checkpoint_every",
)
"""Where things lie and what they are called."""
PACES = (
    "rollout.url",
    "rollout.patience_s",
    "rollout.concurrency",
    "training.threads",
    "training.overlap",
    "training.head_chunk",
    "training.rollout_rows",
    "training.teacher_device",
)
"""How fast it goes, to the bit the same."""
LUCK = ("seed", "training.seeds")
"""Repetitions of one method differ in these alone."""
CONTENTS = tuple(
    f"{section}.{key}"
    for section in ("student", "teacher", "specialists", "prompts")
    for key in ("path", "revision")
)
"""Known by contents instead: a path may hold something else tomorrow."""
UNLEARNED = {*MEASURES, *PLACES, *PACES, *LUCK, *CONTENTS}


def learned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of a resolved experiment that decide what is learned, but for luck and contents."""
    return _kept(settings, "")


def _kept(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if path not in UNLEARNED:
            found[key] = _inside(value, path)
    return found


def _inside(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return _kept(value, f"{path}.")
    if isinstance(value, list):
        return [_inside(one, path) for one in value]
    return value
