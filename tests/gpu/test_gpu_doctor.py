"""`opdlab doctor` runs where training would, and finds nothing wrong there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu.small_runs import experiment

from opdlab.console.quiet import quieten
from opdlab.doctor import draws, machine as doctor_machine
from opdlab.doctor.checks import diagnose
from opdlab.doctor.probe import Probe
from opdlab.records import Rollout

DRAWN = "tokens are samples of the student's distribution"
METHOD = {"type": "lgr", "support": "full", "top_k": 4}


@pytest.mark.parametrize("teacher", [None, "cpu"])
def test_nothing_fails_on_the_device(
    device: torch.device, teacher: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    quieten()
    config = experiment(METHOD, longest=12, teacher_device=teacher)
    places: set[tuple[str, str]] = set()
    scored, unsure, calls = Probe.score, draws.unsure, list[int]()

    def seen(probe: Any, *arguments: Any) -> Any:
        places.add((probe.student.device.type, probe.teacher.model.device.type))
        return scored(probe, *arguments)

    def counted(probe: Probe, rollout: Rollout, call: int) -> draws.Draws:
        calls.append(call)
        return unsure(probe, rollout, call)

    monkeypatch.setattr(Probe, "score", seen)
    monkeypatch.setattr(draws, "unsure", counted)
    if device.type != "cuda":
        # How sure it is of tokens is no matter of the device: few calls show that both kinds of them run.
        monkeypatch.setattr(draws, "ENOUGH", 60.0)
        monkeypatch.setattr(draws, "CALLS", 1)
    if teacher is not None and device.type != "cuda":
        # The devices meet where it scores.
        next(line for line in diagnose(config) if places or line.status == "FAIL")
        assert places == {(device.type, teacher)}
        return
    lines = list(diagnose(config))
    # A machine without a network has the versions that it has.
    failed = [line for line in lines if line.status == "FAIL"]
    assert [line.what for line in failed if line.what != "library versions fit"] == []
    skipped = {line.what for line in lines if line.status == "skip"}
    assert not skipped & {"tree scoring equals the naive way", "small: the gradient is not zero"}
    (drawn,) = [line for line in lines if line.what == DRAWN]
    assert drawn.status == "pass", drawn.found
    assert len(calls) > 1
    assert places == {(device.type, teacher or device.type)}


def test_the_device_is_named(device: torch.device) -> None:
    line = doctor_machine.device(experiment(METHOD, accelerator="gpu"))
    assert line.status == "pass"
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else str(device)
    assert line.found == f"1 asked for, {name}"
    line = doctor_machine.device(experiment(METHOD, teacher_device="cuda:91"))
    assert line.status == "FAIL"
