"""Cards of a sweep's workers: each has its own where there are enough."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from opdlab.configuration.loader import load_experiment, variants
from opdlab.configuration.several_seeds import repeats
from opdlab.configuration.training_settings import Training
from opdlab.errors import ConfigError
from opdlab.sweeps import worker
from opdlab.training.cards import VISIBLE, here, shared_out
from opdlab.training.processes import may_fork
from opdlab.training.workers import places, train_with_workers


def training(devices: int = 1, **more: Any) -> Training:
    return Training(steps=1, devices=devices, **more)


@pytest.mark.parametrize(
    ("cards", "workers", "each", "devices", "found"),
    [
        ([], 3, None, 1, ["", "", ""]),
        ([], 2, 4, 1, ["", ""]),
        (["0", "1", "2", "3"], 4, None, 1, ["0", "1", "2", "3"]),
        (["4", "GPU-a"], 2, 1, 1, ["4", "GPU-a"]),
        (["0", "1", "2", "3"], 2, None, 2, ["0,1", "2,3"]),
        (["0", "1", "2"], 2, None, 1, ["0", "1"]),
        (["0", "1", "2", "3", "4"], 2, 2, 1, ["0,1", "2,3"]),
        # Fewer than are asked for by default: some are shared.
        (["0"], 3, None, 1, ["0", "0", "0"]),
        (["0", "1", "2"], 3, None, 2, ["0,1", "0,1", "0,1"]),
    ],
)
def test_workers_have_cards_of_their_own_where_there_are_enough(
    cards: list[str], workers: int, each: int | None, devices: int, found: list[str]
) -> None:
    assert shared_out(cards, workers, each, training(devices)) == found


def test_a_worker_has_the_card_of_its_teachers_too() -> None:
    two = training(teacher_device="cuda:1")
    assert shared_out(["4", "5", "6", "7"], 2, None, two) == ["4,5", "6,7"]
    assert shared_out(["0", "1"], 1, None, two) == ["0,1"]
    assert shared_out(["0", "1"], 2, None, training(teacher_device="cuda")) == ["0", "1"]
    assert shared_out(["0", "1"], 2, None, training(teacher_device="cpu")) == ["0", "1"]
    assert shared_out([], 2, None, two) == ["", ""]
    with pytest.raises(
        ConfigError, match=r"^training.teacher_device: .* 2 devices, and 1 are here"
    ):
        shared_out(["0"], 1, None, two)
    with pytest.raises(ConfigError, match=r"takes 2 devices \(training.teacher_device\)"):
        shared_out(["0", "1"], 2, 1, two)


@pytest.mark.parametrize(
    ("workers", "each", "devices", "said"),
    [
        (
            3,
            1,
            1,
            "3 workers with 1 devices each need 3, and 2 are here .*; start at most 2 workers",
        ),
        (2, 2, 2, "start at most 1 workers"),
        (1, None, 3, "a trial trains on 3 devices, and 2 are here"),
        (1, 1, 2, "a trial trains on 2 devices .* its worker would have 1"),
        (1, 3, 1, "^--devices-per-worker: a worker would have 3 devices, and 2 are here"),
    ],
)
def test_too_few_cards_are_told_with_what_is_possible(
    workers: int, each: int | None, devices: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        shared_out(["0", "1"], workers, each, training(devices))


def test_a_command_hands_out_the_cards_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(VISIBLE, raising=False)
    assert here(training()) == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "5, 7,")
    assert here(training()) == ["5", "7"]
    assert here(training(accelerator="cpu")) == []


def test_trials_on_several_devices_are_not_forked() -> None:
    """Lightning starts their other processes by the command of the first."""
    assert may_fork(training(accelerator="cpu"))
    assert not may_fork(training(2, accelerator="cpu"))


@pytest.mark.parametrize(("cards", "said"), [("2,3", "2,3"), ("", "1")])
def test_a_worker_tells_its_trials_of_its_cards_alone(
    monkeypatch: pytest.MonkeyPatch, cards: str, said: str
) -> None:
    seen = []
    monkeypatch.setenv(VISIBLE, "1")
    monkeypatch.setattr(worker, "work", lambda *_: seen.append(os.environ[VISIBLE]))
    monkeypatch.setattr(sys, "argv", ["worker", "folder", "0", cards])
    worker.main()
    assert seen == [said]


def test_trainings_that_share_a_server_or_are_started_by_others_have_no_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["rollout.type=openai", "rollout.url=http://127.0.0.1:1", "rollout.weights_folder=/w"]
    served = repeats(variants(load_experiment("quickstart", words)))
    with pytest.raises(ConfigError, match="2 workers would send the weights of 2 students to one"):
        places(served, 2)
    alone = load_experiment("quickstart", ["training.devices=2", "training.accelerator=cpu"])
    assert places(repeats(variants(alone)), 9) == ["", ""]
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="leave out torchrun"):
        train_with_workers(alone, 2)
