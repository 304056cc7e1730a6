"""Whole numbers: schema and loader take and refuse the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from opdlab.configuration import json_schema, loader
from opdlab.configuration.section import Section
from opdlab.errors import ConfigError
from opdlab.plugins import registry as plugins
from opdlab.plugins.strict import strictly

SCHEMA = json_schema()


def models() -> Iterator[type[BaseModel]]:
    """All that a part of a file is checked against."""
    waiting: list[type[BaseModel]] = [Section]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        yield one
    for group in (plugins.METHODS, plugins.ROLLOUTS, plugins.EVALUATORS, plugins.GRADERS):
        for name, plugin in plugins.working(group):
            yield plugins.options_model(name, plugin)


def whole(described: dict[str, Any]) -> bool:
    return "integer" in [one.get("type") for one in (described, *described.get("anyOf", ()))]


def keys_at_fault(model: type[BaseModel], values: dict[str, Any]) -> set[Any]:
    try:
        strictly(model, values)
    except ValidationError as error:
        return {one["loc"][0] for one in error.errors() if one["type"] == "int_type"}
    return set()


def test_every_whole_number_may_be_written_as_json_schema_lets_it() -> None:
    seen = set()
    for model in models():
        described = model.model_json_schema().get("properties", {})
        keys = [key for key, one in described.items() if whole(one)]
        seen |= {(model.__name__, key) for key in keys}
        assert not keys_at_fault(model, dict.fromkeys(keys, 4.0)), model
        for wrong in (4.5, "4.0", True):
            assert keys_at_fault(model, dict.fromkeys(keys, wrong)) == set(keys), (model, wrong)
            for key in keys:
                with pytest.raises(jsonschema.ValidationError):
                    jsonschema.validate(wrong, described[key])
    missed = {
        (name, key)
        for name, section in SCHEMA["$defs"].items()
        for key, one in section.get("properties", {}).items()
        if whole(one) and (name, key) not in seen
    }
    assert not missed


FILE = """\
name: whole
student: {path: embedded:student}
teacher: {path: embedded:teacher}
prompts: {type: problems, sources: [{type: math}]}
rollout: {type: cached, max_new_tokens: 8e1}
method: {type: lgr, top_k: 8.0, base: {type: opd, support: top_k, top_k: 4.0}}
training: {steps: 1e3}
evaluation: {benchmarks: [{type: routes, limit: 8.0}], samples: 2.0}
sweep:
  trials: 3.0
  seeds: [0.0, 1.0]
  objectives: [{metric: mean_at_k, direction: maximize}]
  space: {training.warmup_steps: {type: int, low: 1.0, high: 1e1}}
"""


def test_whole_numbers_are_taken_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    path.write_text(FILE)
    config = loader.load_experiment(path, ["seed=2e1"])
    assert (config.seed, config.training.steps, config.evaluation.samples) == (20, 1000, 2)
    assert type(config.training.steps) is int
    assert config.method.base.top_k == 4  # type: ignore[attr-defined]
    assert loader.with_values(config, {"training.warmup_steps": 5.0}).training.warmup_steps == 5


def test_other_numbers_and_limits_are_refused_as_before(tmp_path: Path) -> None:
    path = tmp_path / "whole.yaml"
    path.write_text(FILE)
    with pytest.raises(ConfigError) as caught:
        loader.load_experiment(path, ["training.steps=0.0", "evaluation.samples=2.5"])
    told = str(caught.value)
    assert "training.steps must be at least 1, not 0" in told
    assert "evaluation.samples must be a whole number, not 2.5" in told
