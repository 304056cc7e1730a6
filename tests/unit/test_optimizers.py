"""AdamW in 8 bits: resumed, planned, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.laboratory import save_model
from gpu.small_runs import experiment, train

from opdlab.configuration.config import Experiment
from opdlab.errors import ModelError
from opdlab.planning.footprint import footprint
from opdlab.planning.phases import Site, memory
from opdlab.training import optimizers
from opdlab.training.pair import load_module, load_pair

OPD = {"type": "opd", "support": "full"}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Most of whose weights are large enough for 8 bits."""
    return save_model(tmp_path_factory.mktemp("wide") / "student", 128)


def config_of(student: Path, **training: Any) -> Experiment:
    config = experiment(OPD, optimizer="adamw-8bit", **training)
    one = config.student.model_copy(update={"path": str(student)})
    return config.model_copy(update={"student": one})


@pytest.mark.filterwarnings("ignore:.*tokenizers", "ignore::DeprecationWarning")
def test_a_training_in_8_bits_is_resumed_bit_for_bit(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")

    def to(steps: int, folder: str) -> dict[str, torch.Tensor]:
        module, _ = train(config_of(student, steps=steps, learning_rate=1e-2), tmp_path / folder)
        optimizer: Any = module.optimizers()
        assert torch.uint8 in {one["state1"].dtype for one in optimizer.state.values()}
        return dict(module.student.named_parameters())

    whole = to(3, "whole")
    to(2, "stopped")
    again = to(3, "stopped")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def test_averages_in_8_bits_are_planned(student: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = config_of(student)
    weights = [torch.nn.Parameter(torch.zeros(300, 512)), torch.nn.Parameter(torch.zeros(4096))]
    optimizer = optimizers.make_optimizer(weights, config.training)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    # The table of 256 values is one for all weights.
    held = sum(
        value.nbytes
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not name.startswith("qmap")
    )
    numbers = sum(weight.numel() for weight in weights)
    (plan,) = memory(config, 20, Site.on("cuda", config.training)).values()
    planned = plan.held["AdamW, two moments"] / footprint(config.student).parameters
    assert planned == pytest.approx(held / numbers, rel=0.01)


def test_8_bits_are_refused_where_their_library_is_not(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"adamw-8bit needs bitsandbytes \(pip install"):
        load_pair(config_of(student))


def test_8_bits_are_refused_beside_weights_in_parts() -> None:
    with pytest.raises(ValueError, match=r"training.optimizer: adamw-8bit has one scale"):
        experiment(OPD, optimizer="adamw-8bit", strategy="fsdp")


def test_the_optimizer_is_the_one_that_is_asked_for(student: Path) -> None:
    module = load_module(load_pair(experiment(OPD)), experiment(OPD))
    assert type(module.configure_optimizers()["optimizer"]) is torch.optim.AdamW
