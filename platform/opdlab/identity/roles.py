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
    "rollout.served_model",
    "rollout.key_variable",
    "rollout.patience_s",
    "rollout.timeout_s",
    "rollout.concurrency",
    "rollout.weights_folder",
    "rollout.largest_gap",
    "training.threads",
    "training.update_tokens",
    "training.activation_checkpointing",
    "training.rollout_parts",
    "training.head_chunk",
    "training.rollout_rows",
    *(
        f"{section}.server.{key}"
        for section in ("teacher", "specialists")
        for key in (
            "type",
            "url",
            "served_model",
            "key_variable",
            "concurrency",
            "patience_s",
            "timeout_s",
        )
    ),
    "teacher.offload",
    "training.teacher_device",
    "training.strategy",
    "training.devices",
    "training.nodes",
)
"""How fast it goes and with how much memory; results are the same but for rounding."""
LUCK = ("seed", "training.seeds")
"""Repetitions of one method differ in these alone."""
CONTENTS = tuple(
    f"{section}.{key}"
    for section in ("student", "teacher", "specialists", "prompts", "prompts.sources")
    for key in ("path", "revision")
)
"""Known by contents instead: a path may hold something else tomorrow."""
UNLEARNED = {*MEASURES, *PLACES, *PACES, *LUCK}


def learned(settings: Mapping[str, Any], paths: bool = False) -> dict[str, Any]:
    """Those settings of a resolved experiment that decide what is learned, but for luck.

    Args:
        paths: with those of models and prompts, for people; what lies there is told by hashes instead.
    """
    return _kept(settings, "", UNLEARNED if paths else {*UNLEARNED, *CONTENTS})


def _kept(settings: Mapping[str, Any], prefix: str, left_out: set[str]) -> dict[str, Any]:
    paths = {key: f"{prefix}{key}" for key in settings}
    return {
        key: _inside(value, paths[key], left_out)
        for key, value in settings.items()
        if paths[key] not in left_out
    }


def _inside(value: Any, path: str, left_out: set[str]) -> Any:
    if isinstance(value, Mapping):
        return _kept(value, f"{path}.", left_out)
    if isinstance(value, list):
        return [_inside(one, path, left_out) for one in value]
    return value
