"""Objectives by command: epochs survive a signal, and an alarm can end a run."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import torch
from end_to_end.laboratory import Laboratory, comparable, wait_for_step

EPOCHS = {
    "method": {"type": "lgr", "top_k": 4, "ratio_clip": 0.2},
    "training__steps": 36,
    "training__epochs": 3,
    "training__checkpoint_every": 20,
    "evaluation__benchmarks": [],
}


def test_a_run_stopped_between_epochs_ends_as_one_that_never_was(
    make_laboratory: Callable[[str], Laboratory],
) -> None:
    whole, stopped = make_laboratory("whole"), make_laboratory("stopped")
    whole.run("train", whole.write(**EPOCHS))
    file = stopped.write(**EPOCHS)
    process = stopped.start("train", file)
    wait_for_step(stopped, 8, process)  # the second of three epochs
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 143, text
    stopped.run("train", file, "--resume")
    expected, found = whole.weights(), stopped.weights()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert comparable(stopped.metrics()) == comparable(whole.metrics())


def test_an_alarm_is_said_tagged_and_ends_the_run_where_that_is_wanted(
    laboratory: Laboratory,
) -> None:
    sensitive = {"window": 2, "length_factor": 1.0001}
    file = laboratory.write(training__steps=12, training__hacking={**sensitive, "stop": True})
    text = laboratory.run("train", file)
    assert "alarm: length at step" in text
    run = laboratory.mlflow_runs()["lgr"]
    assert "length" in run.data.tags["opdlab.alarms"]
    assert run.info.status == "FINISHED"
    assert len(laboratory.metrics()) < 13
    stopped = laboratory.metrics(), laboratory.weights()
    laboratory.run("train", file, "--resume")
    assert laboratory.metrics() == stopped[0]
    assert all(torch.equal(one, stopped[1][name]) for name, one in laboratory.weights().items())
    assert (laboratory.output / "small-001" / "lgr" / "model" / "model.safetensors").exists()

    going_on: Path = laboratory.write(
        training__steps=12, training__hacking=sensitive, evaluation__benchmarks=[]
    )
    laboratory.run("train", going_on)
    steps = [row["step"] for row in laboratory.metrics(group="small-002") if "loss" in row]
    assert steps[-1] == 12
