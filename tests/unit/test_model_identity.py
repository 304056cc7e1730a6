"""A model is known by all that decides what it says: settings beside the weights, template, end tokens."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import contents, write_run

from opdlab.errors import ResumeError
from opdlab.identity import Execution, ModelId
from opdlab.modelling import models

CONFIG, GENERATION, TOKENIZER = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
)


def changed(folder: Path, file: str, **values: Any) -> Path:
    shutil.copytree(models.EMBEDDED / "student", folder)
    told = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**told, **values}))
    return folder


def known(folder: Path) -> tuple[ModelId, dict[str, Any]]:
    """What a measurement says of a model, and what a training says of it but for its place."""
    path = str(folder)
    model, tokenizer = models.load_model(path), models.load_tokenizer(path)
    who = models.identify(model, tokenizer, "auto", models.eos_ids(model, tokenizer), None)
    return who, models.manifest(model, path) | {"name": ""}


@pytest.fixture(scope="module")
def plain() -> tuple[ModelId, dict[str, Any]]:
    return known(models.EMBEDDED / "student")


@pytest.mark.parametrize(
    ("file", "values", "what"),
    [
        (CONFIG, {"rms_norm_eps": 0.1}, "settings"),
        (CONFIG, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "settings"),
        (CONFIG, {"hidden_act": "relu"}, "settings"),
        (GENERATION, {"eos_token_id": [2, 7]}, "end tokens"),
        (TOKENIZER, {"chat_template": "{{messages[0]['content']}}!"}, "chat template"),
    ],
)
def test_other_settings_under_the_same_weights_are_another_model(
    tmp_path: Path,
    plain: tuple[ModelId, dict[str, Any]],
    file: str,
    values: dict[str, Any],
    what: str,
) -> None:
    who, told = known(changed(tmp_path / "model", file, **values))
    assert who.weights == plain[0].weights
    assert who.key != plain[0].key
    run = write_run(tmp_path / "try-001" / "opd", {}, made={"student": plain[1]})
    begun = Execution.read(run)
    assert replace(begun, student=told).system != begun.system
    with pytest.raises(ResumeError, match=f"the student changed .*{what}"):
        replace(begun, student=told).begun_in(run)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        (CONFIG, {"_name_or_path": "x", "transformers_version": "1.2", "use_cache": False}),
        (GENERATION, {"max_length": 7}),
    ],
)
def test_what_decides_nothing_makes_no_other_model(
    tmp_path: Path, plain: tuple[ModelId, dict[str, Any]], file: str, values: dict[str, Any]
) -> None:
    assert known(changed(tmp_path / "model", file, **values)) == (
        replace(plain[0], name=str(tmp_path / "model")),
        plain[1],
    )


def test_a_trained_model_that_was_saved_and_read_is_the_same_one(
    tmp_path: Path, plain: tuple[ModelId, dict[str, Any]]
) -> None:
    model, tokenizer = (
        load("embedded:student") for load in (models.load_model, models.load_tokenizer)
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert known(tmp_path)[0].key == plain[0].key


def test_a_resumed_run_names_what_of_a_model_changed_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {})
    other = contents("student") | {"template_sha256": "other"}
    with pytest.raises(ResumeError) as caught:
        replace(Execution.read(run), student=other).begun_in(run)
    assert "then chat template None, now chat template other" in str(caught.value)
