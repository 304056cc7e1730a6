"""A step on the device is a step on the CPU; half precision trains; a resumed run ends where it would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.small_runs import Kept, experiment, train

from opdlab.configuration.config import Experiment
from opdlab.scoring.teacher import Teacher
from opdlab.training.module import Distillation

SMALLER: dict[str, dict[str, Any]] = {
    "layers computed again, a row at a time": {
        "activation_checkpointing": "layers",
        "update_tokens": 1,
    },
    "sampled and scored in parts": {"rollout_parts": 2, "rollout_rows": 1, "head_chunk": 3},
}
METHODS: dict[str, dict[str, Any]] = {
    "opd": {"type": "opd", "support": "full"},
    "opd, sampled": {"type": "opd", "support": "sampled"},
    "lgr": {"type": "lgr", "support": "full", "top_k": 4},
    "lgr, candidates": {"type": "lgr", "variant": "topk", "top_k": 4},
    "lgr, four steps": {"type": "lgr", "top_k": 4, "lookahead": 4},
    "kl_estimator": {"type": "kl_estimator"},
    "forward_kl": {"type": "forward_kl"},
    "jsd": {"type": "jsd"},
    "future_kl": {"type": "future_kl"},
    "reopold": {"type": "reopold"},
    "grpo": {"type": "grpo"},
    "sft": {"type": "sft"},
}


@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_the_device_is_the_step_on_the_cpu(
    device: torch.device, method: str, tmp_path: Path
) -> None:
    settings = METHODS[method]
    _, here = train(experiment(settings), tmp_path / "device")
    assert here.device == device
    _, there = train(experiment(settings, accelerator="cpu"), tmp_path / "cpu")
    for name, gradient in there.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(here.gradients[name], gradient, atol=1e-4 * scale, rtol=1e-4)
    (one,), (other,) = here.rows, there.rows
    for name in other.keys() - {"time", "tokens_per_second"}:
        if not name.startswith("seconds/"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def test_answers_of_the_data_are_trained_on_beside_sampled_ones(
    device: torch.device, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "1+2=", "answer": "3"}\n{"prompt": "2+2=", "answer": "4;"}\n')
    prompts = {"type": "dataset", "path": str(data), "completion_column": "answer", "given": 0.5}
    config = experiment(METHODS["forward_kl"], prompts_per_step=4).model_dump(mode="json")
    config |= {"prompts": prompts, "rollout": config["rollout"] | {"group_size": 1}}
    _, kept = train(Experiment.model_validate(config), tmp_path / "run")
    assert kept.device == device
    assert kept.gradients


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_adapters_train_on_the_device_as_on_the_cpu(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = {"rank": 4}
    module, here = train(experiment(METHODS["lgr"], lora=lora, steps=2), tmp_path / "device")
    assert {one.device.type for one in module.student.parameters()} == {"cpu"}  # after training
    assert here.device == device
    _, there = train(
        experiment(METHODS["lgr"], lora=lora, steps=2, accelerator="cpu"), tmp_path / "cpu"
    )
    assert here.gradients.keys() == there.gradients.keys()
    for name, gradient in there.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(here.gradients[name], gradient, atol=1e-3 * scale, rtol=1e-3)


def test_a_rotation_by_complex_numbers_has_its_gradient_on_the_device(
    device: torch.device,
) -> None:
    """As Llama 4 turns queries and keys."""

    def gradient(place: torch.device) -> torch.Tensor:
        pairs = torch.arange(6.0).view(3, 2).to(place).requires_grad_()
        turn = torch.polar(torch.ones(3), torch.arange(3.0)).to(place)
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turn)
        (turned * turned[:, :1]).sum().backward()
        assert pairs.grad is not None
        return pairs.grad.cpu()

    torch.testing.assert_close(gradient(device), gradient(torch.device("cpu")))


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_half_precision_trains(device: torch.device, precision: str, tmp_path: Path) -> None:
    """Mixed ones keep masters in float32; `bf16-true` has none, by its definition."""
    settings = {"precision": precision, "steps": 6, "learning_rate": 3e-2}
    module, kept = train(experiment(METHODS["opd"], **settings), tmp_path)
    assert kept.device == device
    assert module.student.dtype == (torch.float32 if "mixed" in precision else torch.bfloat16)
    assert kept.rows[-1]["reverse_kl"] < kept.rows[0]["reverse_kl"] - 0.2


@pytest.fixture
def repeatable(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card adds up in any order unless it is asked not to."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(device.type == "cuda", warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:.*deterministic")
@pytest.mark.usefixtures("repeatable")
def test_a_resumed_training_ends_bit_for_bit(tmp_path: Path) -> None:
    """Dropout included, which draws from the device's random state."""

    def to(steps: int, folder: str) -> Distillation:
        settings = experiment(METHODS["lgr"], dropout=True, steps=steps, average="ema")
        return train(settings, tmp_path / folder)[0]

    whole = to(3, "whole")
    to(2, "stopped")
    again = to(3, "stopped")
    found = dict(again.student.named_parameters())
    for name, weight in whole.student.named_parameters():
        assert torch.equal(found[name], weight), name


@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_in_parts_on_one_device_train_the_same(
    device: torch.device, tmp_path: Path
) -> None:
    """FSDP2, checkpoint and resume included; by the CPU where the device has no process group."""
    place = "auto" if device.type == "cuda" else "cpu"

    def to(steps: int, strategy: str) -> Kept:
        config = experiment(METHODS["lgr"], accelerator=place, steps=steps, strategy=strategy)
        return train(config, tmp_path / strategy)[1]

    whole = to(2, "auto")
    to(1, "fsdp")
    parts = to(2, "fsdp")
    for name, gradient in whole.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(parts.gradients[name], gradient, atol=1e-4 * scale, rtol=1e-4)


@pytest.mark.parametrize("options", SMALLER.values(), ids=SMALLER)
def test_settings_of_a_smaller_step_change_no_gradient(
    device: torch.device, options: dict[str, Any], tmp_path: Path
) -> None:
    _, plain = train(experiment(METHODS["lgr"]), tmp_path / "plain")
    _, small = train(experiment(METHODS["lgr"], **options), tmp_path / "small")
    assert small.device == device
    for name, gradient in plain.gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(small.gradients[name], gradient, atol=1e-4 * scale, rtol=1e-4)


OFFLOADED: dict[str, dict[str, Any]] = {
    "scores": METHODS["lgr"],
    "whole distributions": METHODS["jsd"],
    "the teacher's answers": METHODS["sft"],
}


@pytest.mark.parametrize("method", OFFLOADED.values(), ids=OFFLOADED)
def test_a_teacher_on_the_host_teaches_the_same(
    device: torch.device, method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    score = Teacher._scores

    def watched(teacher: Teacher, *rest: Any) -> Any:
        seen.append(teacher.model.device)
        return score(teacher, *rest)

    config = experiment(method, steps=2)
    _, stays = train(config, tmp_path / "stays")
    away = config.teacher.model_copy(update={"offload": True})
    monkeypatch.setattr(Teacher, "_scores", watched)
    module, goes = train(config.model_copy(update={"teacher": away}), tmp_path / "goes")
    assert set(seen) == {device}
    for name, gradient in stays.gradients.items():
        assert torch.equal(gradient, goes.gradients[name]), name
    for tensor in (*module.teacher.model.parameters(), *module.teacher.model.buffers()):
        assert tensor.device.type == "cpu"
