"""Bad models and bad numbers end in one clear message, and nothing is lost."""

from __future__ import annotations

import pytest
import torch
from end_to_end.laboratory import CHARACTERS, Laboratory, save_model
from safetensors.torch import load_file, save_file


def test_a_teacher_with_another_tokenizer_is_refused(laboratory: Laboratory) -> None:
    other = save_model(laboratory.folder / "other", 32, CHARACTERS[::-1])
    text = laboratory.run("train", laboratory.write(teacher={"path": str(other)}), code=1)
    assert "ModelError" in text
    assert not list(laboratory.output.glob("small-*"))


def test_a_missing_model_folder_is_named(laboratory: Laboratory) -> None:
    missing = laboratory.folder / "nowhere"
    text = laboratory.run("train", laboratory.write(student={"path": str(missing)}), code=1)
    assert "ModelError" in text
    assert "nowhere" in text


def poison(folder, name: str, value: float) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_teacher_that_answers_nan_stops_the_run_and_is_located(laboratory: Laboratory) -> None:
    poison(laboratory.teacher, "lm_head.weight", float("nan"))
    text = laboratory.run("train", laboratory.write(), code=1)
    assert "NonFiniteError" in text
    assert "row 0" in text
    assert "position 0" in text
    assert laboratory.mlflow_runs()["lgr"].info.status == "FAILED"


def test_a_student_that_diverges_stops_the_run_and_keeps_its_checkpoint(
    laboratory: Laboratory,
) -> None:
    file = laboratory.write(
        training__learning_rate=1e30, training__gradient_clip=0, training__checkpoint_every=1
    )
    text = laboratory.run("train", file, code=1)
    assert "NonFiniteError" in text
    assert (laboratory.output / "small-001/lgr/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("prompts={type: dataset, path: nothere.jsonl}", 1, "there is no file"),
        ("prompts.template=chat", 1, "has no chat template"),
        ("training.accelerator=gpu", 2, "set training.accelerator: cpu"),
    ],
)
def test_what_training_lacks_is_told_before_anything_is_made(
    laboratory: Laboratory, override: str, code: int, message: str
) -> None:
    if override == "training.accelerator=gpu" and torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    text = laboratory.run("train", laboratory.write(), override, code=code)
    assert message in " ".join(text.split())
    assert not list(laboratory.output.glob("small-*"))
    assert not laboratory.client().get_experiment_by_name("opdlab")


@pytest.mark.parametrize("output", ["file", "file/below"])
@pytest.mark.parametrize("command", [("train",), ("eval", "--model", "embedded:student")])
def test_an_output_that_cannot_be_a_folder_is_refused(
    laboratory: Laboratory, command: tuple[str, ...], output: str
) -> None:
    (laboratory.folder / "file").touch()
    place = laboratory.folder / output
    text = laboratory.run(*command, laboratory.write(), f"output={place}", code=1)
    assert "StorageError: output:" in text
