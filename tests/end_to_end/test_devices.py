"""Two devices train what one does: here two processes on one processor, by Lightning's launcher."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from end_to_end.laboratory import Laboratory, comparable, wait_for_step
from end_to_end.warm import start
from transformers import LlamaForCausalLM

from opdlab.configuration.loader import load_experiment
from opdlab.evaluation import evaluate
from opdlab.evaluation.measuring import open_subject
from opdlab.evaluation.store import sample_sets
from opdlab.identity import Owner

STEPS = 6
TWO = {
    "training__devices": 2,
    "training__accelerator": "cpu",
    "training__update_tokens": 40,  # other numbers of micro-batches on each
}
SHARDED = {**TWO, "training__strategy": "fsdp"}


def write(laboratory: Laboratory, **changes: Any) -> Path:
    """An experiment of two runs, so that the second training finds the processes of the first."""
    shared = {"training__steps": STEPS, "training__gradient_clip": 0, "training__average": "ema"}
    runs = [
        {"name": "opd", "set": {"method": {"type": "opd"}, "student.lora": {"rank": 4}}},
        {"name": "lgr", "set": {"method.support": "sampled"}},
    ]
    return laboratory.write(**shared, runs=runs, **changes)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = process.communicate(timeout=240)
    assert process.returncode == code, text
    return text


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("two") / "laboratory", store)
    finish(start("train", write(laboratory, **TWO)))
    return laboratory


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("one") / "laboratory", store)
    finish(start("train", write(laboratory)))
    return laboratory


def two_nodes(file: Path, *arguments: str) -> None:
    """Train as two machines with a device each do, started by torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = ["--no-python", "opdlab", "train", str(file), "training.nodes=2", *arguments]
    folder = Path(sys.executable).parent
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    nodes = [
        subprocess.Popen(
            [folder / "torchrun", *place, f"--node-rank={rank}", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": path},
        )
        for rank in range(2)
    ]
    for node in nodes:
        finish(node)


def require_same(one: Laboratory, several: Laboratory) -> None:
    """Weights and records of one device, but for rounding."""
    for run in ("opd", "lgr"):
        one_weights, weights = one.weights(run), several.weights(run)
        assert one_weights.keys() == weights.keys()
        for name, weight in one_weights.items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-5)
        rows = zip(one.metrics(run), several.metrics(run), strict=True)
        for alone, all_ in rows:
            assert all_["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-3)
            for name in alone.keys() - {"step", "time", "tokens_per_second"}:
                if not name.startswith("seconds/"):
                    assert all_[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name


def test_two_devices_train_what_one_trains_on_all_their_prompts(
    two: Laboratory, one: Laboratory
) -> None:
    require_same(one, two)


def test_both_draw_answers_and_they_are_those_that_one_draws(
    two: Laboratory, tmp_path: Path
) -> None:
    run = two.output / "small-001" / "lgr"
    (kept,) = sample_sets(run / "samples")
    assert len(list(kept.path.glob("generations-*.parquet"))) == 2
    config, model = load_experiment(run / "config.yaml"), str(run / "model")
    subject, _ = open_subject(config, model, model, None)
    evaluate(subject, config.evaluation, Owner("alone"), tmp_path)
    (alone,) = sample_sets(tmp_path)
    drawn = [{k: row.drawn for k, row in one.generations().items()} for one in (kept, alone)]
    assert drawn[0] == drawn[1]


def test_a_sharded_training_goes_on_on_another_number_of_devices(
    one: Laboratory, laboratory: Laboratory
) -> None:
    often = {
        "training__checkpoint_every": 1,
        "training__keep_every": 2,
        "training__accelerator": "cpu",
        "evaluation__every": 2,
    }
    process = start("train", write(laboratory, **{**often, **SHARDED}))
    wait_for_step(laboratory, 2, process)
    (follower,) = psutil.Process(process.pid).children()
    follower.kill()
    assert "training process 1" in finish(process, 1)

    process = start("train", write(laboratory, **often), "--resume")
    wait_for_step(laboratory, 4, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 143)

    two_nodes(write(laboratory, **{**often, **SHARDED, "training__devices": 1}), "--resume")
    metrics = laboratory.metrics("lgr")
    assert [row["step"] for row in metrics if "math/short/mean_at_2" in row] == [2, 4]
    kept = laboratory.output / "small-001" / "lgr" / "students" / "step-000002"
    assert LlamaForCausalLM.from_pretrained(kept).dtype == torch.float32
    for run in ("opd", "lgr"):
        one_weights, weights = one.weights(run), laboratory.weights(run)
        for name, weight in one_weights.items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-5)


def test_only_the_leader_writes(two: Laboratory) -> None:
    assert [path.name for path in two.output.glob("small-*")] == ["small-001"]
    runs = two.mlflow_runs()
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("small-001", "opd", "lgr"), "FINISHED"
    )
    assert [row["step"] for row in two.metrics()] == list(range(1, STEPS + 1))


def test_a_signal_to_the_leader_stops_all_and_the_run_ends_bit_equal(
    two: Laboratory, laboratory: Laboratory
) -> None:
    file = write(laboratory, **TWO)
    process = start("train", file)
    wait_for_step(laboratory, 2, process)
    followers = psutil.Process(process.pid).children()
    assert len(followers) == 1
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    psutil.wait_procs(followers, timeout=30)
    assert not any(follower.is_running() for follower in followers)

    process = start("train", file, "--resume")
    wait_for_step(laboratory, 4, process)
    followers = psutil.Process(process.pid).children()
    process.kill()
    finish(process, -9)
    psutil.wait_procs(followers, timeout=30)
    assert not any(follower.is_running() for follower in followers)

    finish(start("train", file, "--resume"))
    for run in ("opd", "lgr"):
        expected, found = two.weights(run), laboratory.weights(run)
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())
        assert comparable(laboratory.metrics(run)) == comparable(two.metrics(run))
