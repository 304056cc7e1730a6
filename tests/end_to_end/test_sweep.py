"""Sweeps whose processes, database and tracking server are killed: no trial lost, none counted twice."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from end_to_end.laboratory import Laboratory
from end_to_end.servers import MlflowServer, Postgres, postgres_missing
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from opdlab.loader import load_experiment
from opdlab.methods.lgr import LGR

STEPS = 12
SPACE = {
    "method.top_k": {"type": "int", "low": 2, "high": 8},
    "method.reward_weight": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
}


def sweep_file(laboratory: Laboratory, **sweep: Any) -> Path:
    """An experiment with a sweep of short trials."""
    settings = {"space": SPACE, "trials": 5, "startup_trials": 3, "heartbeat_s": 1, **sweep}
    return laboratory.write(
        training__steps=STEPS, training__checkpoint_every=2, tracking__weights=False, sweep=settings
    )


def trials_of(laboratory: Laboratory, storage: str | None = None) -> list[FrozenTrial]:
    file = laboratory.output / "small-sweep" / "optuna.db"
    opened = optuna.storages.RDBStorage(storage or f"sqlite:///{file}")
    found = optuna.load_study(study_name="small", storage=opened).get_trials()
    opened.remove_session()
    opened.engine.dispose()
    return found


def first_number(trial: FrozenTrial) -> int:
    return trial.system_attrs.get("failed_trial", trial.number)


def processes(laboratory: Laboratory, module: str) -> list[psutil.Process]:
    """Living processes of a module that work on this laboratory's sweep."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if f"opdlab.sweeps.{module}" in line and str(laboratory.output) in line:
            found.append(process)
    return found


def wait_until(found: Callable[[], Any], what: str, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


def training(laboratory: Laboratory) -> list[Path]:
    """Trials that have taken three steps and are not done."""
    return [
        path
        for path in (laboratory.output / "small-sweep").glob("trial-*/seed-*/metrics.jsonl")
        if path.read_text().count("\n") >= 3 and not (path.parent / "finished").exists()
    ]


def assert_whole(laboratory: Laboratory, trials: int, storage: str | None = None) -> None:
    """Every trial counted once, complete, all its steps there once; nothing left running."""
    found = trials_of(laboratory, storage)
    complete = [first_number(t) for t in found if t.state == TrialState.COMPLETE]
    assert sorted(complete) == sorted({first_number(trial) for trial in found})
    assert len(complete) == trials
    assert {t.state for t in found} <= {TrialState.COMPLETE, TrialState.FAIL}
    folders = sorted((laboratory.output / "small-sweep").glob("trial-*"))
    assert [int(folder.name[6:]) for folder in folders] == sorted(complete)
    for folder in folders:
        rows = (folder / "seed-0" / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(row)["step"] for row in rows if row]
        assert steps == list(range(1, STEPS + 1)), folder
    assert processes(laboratory, "trial") == processes(laboratory, "worker") == []


def assert_tracked(client: MlflowClient, trials: int) -> None:
    """One finished run a trial under one finished run of the sweep."""
    experiment = client.get_experiment_by_name("opdlab")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = (run for run in runs if run.info.run_name == "small-sweep")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == trials == len({run.info.run_name for run in children})
    for child in children:
        assert "mean_at_k" in child.data.metrics
        assert "method.reward_weight" in child.data.params


@contextmanager
def sweeping(laboratory: Laboratory, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`opdlab sweep` in the background, gone at the end whatever happens."""
    process = laboratory.start("sweep", *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def finish(sweep: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == code, text
    return text


def test_a_sweep_finds_its_trials_and_a_configuration_that_trains(laboratory: Laboratory):
    limits = [{"metric": "repetition_rate", "at_most": 2.0}]
    file = sweep_file(laboratory, trials=2, seeds=[0, 1], constraints=limits)
    text = laboratory.run("sweep", file)
    assert "Best of 2 complete trials" in text
    assert_whole(laboratory, 2)
    runs = laboratory.mlflow_runs()
    trials = {runs[f"trial-000{number}"].info.run_id for number in range(2)}
    assert runs["seed-1"].data.tags["mlflow.parentRunId"] in trials

    folder = laboratory.output / "small-sweep"
    content = json.loads((folder / "sweep.json").read_text())
    values = {row["trial"]: row["values"][0] for row in content["trials"]}
    best = max(values, key=lambda number: values[number])
    chosen = next(row["params"] for row in content["trials"] if row["trial"] == best)
    config = load_experiment(folder / "best.yaml")
    assert isinstance(config.method, LGR)
    assert config.method.top_k == chosen["method.top_k"]
    assert [run.set for run in config.runs] == [{"seed": 0}, {"seed": 1}]
    drawn = {path.stem for path in (folder / "plots").glob("*.html")}
    assert {"optimization_history", "parallel_coordinate", "slice", "contour"} <= drawn

    text = laboratory.run("sweep", file, "training.learning_rate=0.5", code=1)
    assert "begun with other settings of: training" in text


def test_a_worker_and_a_trial_that_are_killed_and_a_stop_lose_nothing(laboratory: Laboratory):
    file = sweep_file(laboratory, trials=4)
    with sweeping(laboratory, file, "--workers", "2") as sweep:
        wait_until(lambda: training(laboratory), "a trial in training")
        killed = processes(laboratory, "worker")[0]
        orphans = killed.children()
        killed.kill()
        _, alive = psutil.wait_procs(orphans, 20)
        assert not alive
        wait_until(lambda: training(laboratory) and processes(laboratory, "trial"), "another trial")
        processes(laboratory, "trial")[0].kill()
        wait_until(lambda: training(laboratory) and processes(laboratory, "trial"), "another trial")
        sweep.send_signal(signal.SIGTERM)
        assert "died (exit code -9)" in finish(sweep, code=143)
    assert processes(laboratory, "trial") == processes(laboratory, "worker") == []
    laboratory.run("sweep", file)
    assert_whole(laboratory, 4)
    assert_tracked(laboratory.client(), 4)


def test_an_alarm_ends_a_trial_as_pruned(laboratory: Laboratory):
    alarm = {"metric": "entropy", "at_least": 1000.0}
    text = laboratory.run("sweep", sweep_file(laboratory, trials=1, stop_when_beyond=[alarm]))
    assert "no trial was completed" in text
    (trial,) = trials_of(laboratory)
    assert trial.state == TrialState.PRUNED
    assert "entropy is" in trial.user_attrs["reason"]
    run = laboratory.mlflow_runs()["trial-0000"]
    assert run.info.status == "KILLED"
    assert "entropy is" in run.data.tags["opdlab.ended"]


def test_a_metric_that_no_run_has_ends_the_sweep_with_those_that_exist(laboratory: Laboratory):
    file = sweep_file(laboratory, trials=2, objectives=[{"metric": "mean_at_nine"}])
    text = laboratory.run("sweep", file, code=1)
    assert "no metric 'mean_at_nine'" in text
    assert "mean_at_k" in text


@pytest.mark.skipif(bool(postgres_missing()), reason=postgres_missing())
def test_a_sweep_survives_the_death_of_its_postgresql_server(laboratory: Laboratory):
    with Postgres() as database:
        file = sweep_file(laboratory, trials=3, storage=database.url)
        with sweeping(laboratory, file, "--workers", "2") as sweep:
            wait_until(lambda: training(laboratory), "a trial in training")
            database.kill()
            time.sleep(5)
            database.start()
            finish(sweep)
        assert_whole(laboratory, 3, database.url)
    assert_tracked(laboratory.client(), 3)


def test_a_sweep_survives_the_death_of_its_tracking_server(laboratory: Laboratory):
    with MlflowServer(laboratory.output / "mlflow.db") as server:
        file = sweep_file(laboratory, trials=3)
        with sweeping(laboratory, file, f"tracking.uri={server.uri}", "--workers", "2") as sweep:
            wait_until(lambda: training(laboratory), "a trial in training")
            server.kill()
            time.sleep(8)
            server.start()
            finish(sweep)
        assert_whole(laboratory, 3)
        laboratory.run("sync", "--output", laboratory.output)
        assert_tracked(MlflowClient(server.uri), 3)


def test_workers_are_sent_to_a_cluster_by_submitit(laboratory: Laboratory):
    pytest.importorskip("submitit")
    file = sweep_file(laboratory, trials=2)
    laboratory.run("sweep", file, "--workers", "2", "--cluster", "local")
    assert_whole(laboratory, 2)
