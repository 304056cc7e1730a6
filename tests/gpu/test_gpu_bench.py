"""Each kind of case of `opdlab bench gpu` can be measured on the device, at tiny sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from opdlab.bench.gpu import ceilings
from opdlab.bench.gpu.cases import tiny
from opdlab.bench.gpu.figures import Card, Case
from opdlab.bench.gpu.kept import measured_alone
from opdlab.bench.gpu.run import bench_gpu
from opdlab.bench.gpu.worker import measured
from opdlab.errors import ResumeError


@pytest.fixture(scope="module")
def card(device: torch.device) -> Card:
    card = Card(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    ceilings.measure(card)
    return card


def test_a_card_that_is_being_measured_is_refused(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Card, "serial", f"{device}-{os.getpid()}")
    with (
        measured_alone(Card(device, torch.float32)),
        pytest.raises(ResumeError, match=f"{device}: another `opdlab bench gpu`"),
    ):
        bench_gpu(0.0, (), str(device), "float32", tmp_path / "gpu.json", lambda card: [])


# What the CPU tries as well, or the simulated device cannot: flex attention, a process group.
SLOW = (
    "step: tiny",
    "teacher on the host",
    "layers computed again",
    "average of weights",
    "in bfloat16",
    "FSDP2",
    "ways of leaves",
    "L 48",
)


@pytest.mark.filterwarnings("ignore")  # of libraries, as they measure beside each other
@pytest.mark.parametrize("case", [one for one in tiny() if not one.needs], ids=lambda one: one.key)
def test_every_kind_of_case_is_measured(case: Case, card: Card) -> None:
    if card.device.type != "cuda" and any(name in case.key for name in SLOW):
        pytest.skip("for a card")
    found = measured(case, card)
    assert "error" not in found, found
    assert found["figures"]
