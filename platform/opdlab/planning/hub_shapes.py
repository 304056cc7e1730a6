"""Shapes of models that people distil, so that a plan needs no way to the hub."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from opdlab.configuration import Model
from opdlab.errors import OutOfReachError
from opdlab.modelling import models, without_layers

_SHIPPED = Path(__file__).parent / "hub_shapes.json"


def shape_of(model: Model) -> PretrainedConfig:
    """A model's configuration; of a known model of the hub that is not here, the shipped one.

    Raises:
        ModelError: its folder holds none.
        OutOfReachError: it is of the hub, not here, and not among the shipped ones.
    """
    file = Path(model.path).expanduser() / "config.json"
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        changed = 0
    try:
        found = _loaded(os.path.abspath(file), changed, model.path, model.revision)
    except OutOfReachError:
        if (shipped := shipped_shape(model.path)) is None:
            raise
        found = shipped
    dropped = getattr(model, "drop_layers", ())
    return without_layers(found, dropped) if dropped else found


@cache
def _loaded(_place: str, _changed: int, path: str, revision: str | None) -> PretrainedConfig:
    """Read once, as long as the file is the same."""
    return models.load_config(path, revision)


def shipped_shape(name: str) -> PretrainedConfig | None:
    """The shape of a model of the hub, from its published config.json; None for one that is not shipped."""
    settings = _shapes().get(name.lower())
    return None if settings is None else AutoConfig.for_model(**settings)


@cache
def _shapes() -> dict[str, dict[str, Any]]:
    """By the hub's name in lower case."""
    return {
        name.lower(): family["same"] | own
        for family in json.loads(_SHIPPED.read_text())
        for name, own in family["models"].items()
    }
