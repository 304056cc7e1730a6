"""How often the host may wait for the device, as the simulated one counts it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, final

import pytest
import torch
from gpu import simulated
from gpu.simulated import Counts, counted
from gpu.small_runs import experiment
from small_models import random_rollout, small_model

from opdlab.console.interrupt import StopRequest
from opdlab.console.quiet import quieten
from opdlab.records import Questions
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.teacher import Teacher
from opdlab.training.fit import fit
from opdlab.training.module import Distillation
from opdlab.training.pace import Pace
from opdlab.training.pair import load_module, load_pair
from opdlab.transfers import to_device, to_host

PROMPTS = [[5], [7, 8, 9], [11] * 4, [9] * 9]


@pytest.fixture(autouse=True)
def counting(device: torch.device) -> None:
    if device.type != simulated.NAME:
        pytest.skip("a card does not count")


@pytest.mark.parametrize("eos", [(), (2, 7)], ids=["no end", "some end"])
def test_a_decoded_token_waits_an_eighth_of_a_time(
    device: torch.device, eos: tuple[int, ...]
) -> None:
    model = small_model("qwen3").to(device)
    engine = CachedEngine(max_new_tokens=32)

    def sample() -> int:
        rollout = engine.sample(model, PROMPTS, range(4), eos_ids=eos, pad_id=0, top_k=3)
        return len(rollout.log_prob)

    sample()  # how a model is sampled is tried once
    with counted() as counts:
        tokens = sample()
    assert counts.waited <= tokens / 8, counts.lines()


@pytest.mark.parametrize("measure", ["max_prob", "sampled_prob"])
def test_a_scoring_pass_waits_ten_times_whatever_the_rows(
    device: torch.device, measure: str
) -> None:
    teacher = Teacher(small_model("gemma3").to(device), vocabulary=53).probe()
    waited = []
    for times in (1, 4):
        rollout = random_rollout([3, 5, 1] * times, [4, 9, 13] * times).to(device)
        questions = Questions(to_device(rollout.candidates, device), measure, full=True)
        if not waited:  # rows this long are tried when they first come
            teacher.score(rollout, questions)
        with counted() as counts:
            teacher.score(rollout, questions)
        waited.append(counts.waited)
        assert counts.waited <= 10, counts.lines()
    assert waited[0] == waited[1]


@final
class Waits(Pace):
    """What was waited for by the end of each step."""

    def __init__(self, folder: Path, stop: StopRequest, counts: Counts) -> None:
        super().__init__(folder, stop)
        self.counts, self.steps = counts, [Counter[str]()]

    def record(self, module: Distillation, metrics: dict[str, float]) -> None:
        self.steps.append(self.counts.waits.copy())


@pytest.mark.parametrize("mask", [{}, {"entropy_above": 0.3}], ids=["all", "unsure"])
@pytest.mark.parametrize(
    "method",
    [
        {"type": "opd", "support": "full"},
        {"type": "lgr", "support": "full", "top_k": 4},
        {"type": "lgr", "variant": "topk", "top_k": 4, "entropy_threshold": 0.5},
    ],
    ids=["opd", "lgr", "lgr candidates"],
)
def test_a_training_step_waits_twenty_times(
    device: torch.device, method: dict[str, Any], mask: dict[str, float], tmp_path: Path
) -> None:
    """Sampling and scoring included."""
    quieten()
    config = experiment(method, steps=2, mask=mask)
    module = load_module(load_pair(config), config)
    with StopRequest() as stop, counted() as counts:
        seen = Waits(tmp_path, stop, counts)
        fit(module, config.training, seen)
    second = seen.steps[2] - seen.steps[1]
    assert second.total() <= 20, Counts(waits=second).lines()


def test_many_tensors_are_read_in_one_copy(device: torch.device) -> None:
    there = [
        torch.arange(5),
        torch.tensor(True),
        torch.zeros(0, 3),
        torch.randn(2, 3, dtype=torch.float64).T,
        torch.tensor([1.5, -torch.inf], dtype=torch.bfloat16),
        torch.tensor([True, False, True]),
    ]
    with counted() as counts:
        read = to_host([to_device(one, device) for one in there])
    assert counts.waited == 1
    for one, other in zip(read, there, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_tensors_of_both_sides_do_not_meet(device: torch.device) -> None:
    here, there = torch.ones(3), torch.ones(3).to(device)
    for mix in (
        lambda: here + there,
        lambda: here[there.long()],
        lambda: torch.cat([here, there]),
        lambda: torch.where(here > 0, there, there),
        lambda: there.numpy(),
        lambda: torch.rand(3, generator=torch.Generator(), device=device),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mix()
