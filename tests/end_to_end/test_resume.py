"""A run that was stopped, in whatever way, ends as one that never was: bit for bit."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from end_to_end.laboratory import Laboratory, comparable, save_model, wait_for_step


def assert_same_run(laboratory: Laboratory, undisturbed: Laboratory) -> None:
    expected, found = undisturbed.weights(), laboratory.weights()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert comparable(laboratory.metrics()) == comparable(undisturbed.metrics())


def test_a_killed_run_goes_on_and_ends_bit_equal(
    laboratory: Laboratory, undisturbed: Laboratory
) -> None:
    file = laboratory.write()
    process = laboratory.start("train", file)
    wait_for_step(laboratory, 15, process)
    process.kill()
    process.communicate()
    before = laboratory.mlflow_runs()
    assert before["lgr"].info.status == "RUNNING"

    text = laboratory.run("train", file, "--resume")

    assert "marked killed" in text
    assert "continuing from" in text
    assert re.search(r"start .*\n.*train lgr .*\n.*evaluate lgr .*\n.*compare ", text), text
    assert "without what was done before --resume" in " ".join(text.split())
    assert_same_run(laboratory, undisturbed)
    after = laboratory.mlflow_runs()
    assert after["lgr"].info.run_id == before["lgr"].info.run_id
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    history = laboratory.client().get_metric_history(after["lgr"].info.run_id, "reverse_kl")
    assert sorted(metric.step for metric in history) == list(range(1, 41))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_its_step_with_the_signals_exit_code(
    laboratory: Laboratory, undisturbed: Laboratory, signum: signal.Signals, code: int
) -> None:
    overrides = ["training.checkpoint_every=100", "rollout={type: cached, max_new_tokens: 16}"]
    process = laboratory.start("train", laboratory.write(), *overrides)
    wait_for_step(laboratory, 2, process)
    process.send_signal(signum)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == code, text
    advice = re.search("`opdlab (train .*--resume)` continues", text)
    assert advice, text
    assert {run.info.status for run in laboratory.mlflow_runs().values()} == {"KILLED"}

    text = laboratory.run(*shlex.split(advice[1]))

    assert_same_run(laboratory, undisturbed)
    assert "not resumable" not in " ".join(text.split())
    assert "" not in (laboratory.output / "small-001/lgr/metrics.jsonl").read_text().splitlines()


def test_a_run_that_is_done_is_not_done_again(laboratory: Laboratory) -> None:
    file = laboratory.write(training__steps=2)
    laboratory.run("train", file)
    weights = laboratory.output / "small-001" / "lgr" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    laboratory.run("train", file, "--resume")
    assert weights.stat().st_mtime_ns == written


def test_resume_refuses_another_teacher(laboratory: Laboratory) -> None:
    file = laboratory.write()
    process = laboratory.start("train", file)
    wait_for_step(laboratory, 3, process)
    process.kill()
    process.communicate()
    save_model(laboratory.teacher, 32, scale=2.0)
    text = laboratory.run("train", file, "--resume", code=1)
    assert "the teacher changed since this run began" in text


def test_resume_refuses_another_configuration_and_names_the_difference(
    laboratory: Laboratory,
) -> None:
    file = laboratory.write(training__steps=1)
    laboratory.run("train", file)
    text = laboratory.run("train", file, "--resume", "training.learning_rate=0.5", code=1)
    assert "training.learning_rate" in text


def test_resume_without_a_run_says_what_to_do(laboratory: Laboratory) -> None:
    text = laboratory.run("train", laboratory.write(), "--resume", code=1)
    assert "train without --resume first" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_the_run_and_loses_nothing(
    make_laboratory: Callable[[str], Laboratory], undisturbed: Laboratory
) -> None:
    laboratory = make_laboratory("full")
    checkpoints = laboratory.output / "small-001" / "lgr" / "checkpoints"
    file = laboratory.write(training__checkpoint_every=1)
    process = laboratory.start("train", file)
    wait_for_step(laboratory, 1, process)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    whole = (checkpoints / "last.ckpt").read_bytes()
    size_kib = len(whole) // 1024 + 40
    mount(checkpoints, size_kib)
    try:
        (checkpoints / "last.ckpt").write_bytes(whole)
        text = laboratory.run("train", file, "--resume", code=1)
        assert "a checkpoint could not be written" in text
        assert "No space left" in text
        assert (checkpoints / "last.ckpt").read_bytes() == whole
        subprocess.run(["mount", "-o", "remount,size=64m", checkpoints], check=True)
        laboratory.run("train", file, "--resume")
    finally:
        subprocess.run(["umount", checkpoints], check=True)
    assert_same_run(laboratory, undisturbed)


def mount(folder: Path, size_kib: int) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine does not let a test mount a small disk: {done.stderr}")
