"""`opdlab train --workers`: runs side by side."""

from __future__ import annotations

import os
import signal

import torch
from end_to_end.laboratory import Laboratory, comparable, wait_for_step

BOTH = [{"name": "opd", "set": {"method": {"type": "opd"}}}, {"name": "lgr"}]
SHORT = {"steps": 16, "prompts_per_step": 6, "checkpoint_every": 5}


def test_runs_side_by_side_are_those_in_turn_also_when_the_command_was_killed(
    laboratory: Laboratory,
) -> None:
    path = laboratory.write(runs=BOTH, training=SHORT)
    laboratory.run("train", path)
    truth = {run: (laboratory.weights(run), laboratory.metrics(run)) for run in ("opd", "lgr")}
    (laboratory.output / "small-001").rename(laboratory.output / "in-turn")

    process = laboratory.start("train", path, "--workers", "2")
    for run in ("opd", "lgr"):
        wait_for_step(laboratory, 6, process, run)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # Its workers may still be about to stop.
    laboratory.run("train", path, "--resume")
    for run, (weights, metrics) in truth.items():
        torch.testing.assert_close(laboratory.weights(run), weights, rtol=0, atol=0)
        assert comparable(laboratory.metrics(run)) == comparable(metrics)


def test_a_run_that_fails_ends_no_other_and_a_signal_stops_all(laboratory: Laboratory) -> None:
    wild = {"name": "wild", "set": {"training.learning_rate": 1e30}}
    path = laboratory.write(runs=[wild, *BOTH], training=SHORT | {"steps": 30})
    process = laboratory.start("train", path, "--workers", "2")
    for run in ("opd", "lgr"):
        wait_for_step(laboratory, 1, process, run)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "small.yaml --workers 2 --resume` continues from here" in said

    said = laboratory.run("train", path, "--workers", "3", "--resume", code=1)
    assert (
        "1 of 3 runs failed, and the others are done; --resume continues those that failed" in said
    )
    assert "wild: " in said.split("those that failed")[1]
    states = {name: run.info.status for name, run in laboratory.mlflow_runs().items()}
    assert {states["opd"], states["lgr"]} == {"FINISHED"}
    assert states["wild"] == "FAILED"
