"""Sweeps whose processes, database and tracking server are killed: no trial lost, none counted twice."""

from __future__ import annotations

import json
import signal

import psutil
import pytest
from end_to_end.laboratory import Laboratory
from end_to_end.servers import MlflowServer, Postgres, postgres_missing
from end_to_end.sweeps import (
    assert_tracked,
    assert_whole,
    at_once,
    finish,
    hold_a_trial,
    processes,
    sweep_file,
    sweeping,
    training,
    trials_of,
    wait_until,
)
from mlflow import MlflowClient
from optuna.trial import TrialState
from planted import found, planted

from opdlab.configuration.loader import load_experiment
from opdlab.methods.lgr import LGR


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
    assert "already exists with different values of: training" in text


def test_trials_train_on_several_devices_and_go_on_where_one_is_lost(laboratory: Laboratory):
    file = sweep_file(laboratory, trials=1)
    devices = ["training.devices=2", "training.accelerator=cpu", "training.strategy=fsdp"]
    with sweeping(laboratory, file, *devices) as sweep:
        wait_until(lambda: training(laboratory), "a trial in training")
        writing = processes(laboratory)
        (follower,) = (one for one in writing if one.environ().get("LOCAL_RANK") == "1")
        follower.kill()
        finish(sweep)
    assert_whole(laboratory, 1)
    log = (laboratory.output / "small-sweep" / "trial-0000" / "log.txt").read_text()
    assert "training process 1" in log


def test_a_worker_and_a_trial_that_are_killed_and_a_stop_lose_nothing(laboratory: Laboratory):
    file = sweep_file(laboratory, trials=4)
    with sweeping(laboratory, file, "--workers", "2") as sweep:
        wait_until(lambda: training(laboratory), "a trial in training")
        killed = processes(laboratory, "opdlab-worker")[0]
        orphans = killed.children(recursive=True)
        assert len(orphans) >= 2
        killed.kill()
        _, alive = psutil.wait_procs(orphans, 20)
        assert not alive
        wait_until(
            lambda: training(laboratory) and processes(laboratory, "opdlab-trial"), "another trial"
        )
        processes(laboratory, "opdlab-trial")[0].kill()
        wait_until(
            lambda: training(laboratory) and processes(laboratory, "opdlab-trial"), "another trial"
        )
        sweep.send_signal(signal.SIGTERM)
        assert "died (exit code -9)" in finish(sweep, code=143)
    assert processes(laboratory) == []
    laboratory.run("sweep", file)
    assert_whole(laboratory, 4)
    assert_tracked(laboratory.client(), 4)


def test_an_alarm_ends_a_trial_as_pruned(laboratory: Laboratory):
    alarm = {"metric": "entropy", "at_least": 1000.0}
    file = sweep_file(laboratory, trials=1, stop_when_beyond=[alarm])
    text = laboratory.run("sweep", file, code=1)
    assert "no trial was completed" in text
    assert "trial 0 pruned: seed-0: entropy is" in text
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


def test_a_time_budget_ends_a_sweep_that_says_so_and_goes_on(laboratory: Laboratory):
    text = laboratory.run("sweep", sweep_file(laboratory, trials=50, time_budget_s=0.001))
    assert "ended the sweep after 0 of 50 trials" in " ".join(text.split())
    text = laboratory.run("sweep", sweep_file(laboratory, trials=50, time_budget_s=1))
    begun = len(trials_of(laboratory))
    assert begun < 50
    assert f"ended the sweep after {begun} of 50 trials" in " ".join(text.split())
    text = laboratory.run("sweep", sweep_file(laboratory, trials=begun + 1))
    assert "time budget" not in text
    assert_whole(laboratory, begun + 1)


@pytest.mark.skipif(bool(postgres_missing()), reason=postgres_missing())
def test_a_sweep_survives_the_death_of_its_postgresql_server(laboratory: Laboratory):
    with Postgres() as database:
        file = sweep_file(laboratory, trials=3, storage=database.url)
        with sweeping(laboratory, file, "--workers", "2") as sweep:
            wait_until(lambda: training(laboratory), "a trial in training")
            logs = laboratory.output / "small-sweep" / "workers"
            database.kill()
            wait_until(
                lambda: any("the database " in log.read_text() for log in logs.iterdir()),
                "a worker that misses it",
            )
            database.start()
            finish(sweep)
        assert_whole(laboratory, 3, database.url)
        assert at_once(trials_of(laboratory, database.url)) == 2
    assert_tracked(laboratory.client(), 3)


@pytest.mark.skipif(bool(postgres_missing()), reason=postgres_missing())
def test_a_command_elsewhere_joins_a_sweep_by_its_database_alone(laboratory: Laboratory):
    elsewhere = laboratory.output.parent / "elsewhere"
    with Postgres() as database, MlflowServer(laboratory.output / "mlflow.db") as server:
        file = sweep_file(laboratory, trials=6, storage=planted(database.url))
        uri = f"tracking.uri={planted(server.uri)}"
        with sweeping(laboratory, file, uri, "--workers", "1") as first:
            # Short trials could all be over before the other command has imported what it needs.
            held = hold_a_trial(laboratory)
            with sweeping(laboratory, file, uri, f"output={elsewhere}", "--workers", "1") as second:
                begun = elsewhere / "small-sweep"
                wait_until(
                    lambda: list(begun.glob("trial-*/seed-*/metrics.jsonl")), "a trial there"
                )
                held.resume()
                joined = finish(second)
            text = finish(first)
        trials = trials_of(laboratory, database.url)
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
        assert at_once(trials) == 2
        for trial in trials:
            places = [laboratory.output, elsewhere]
            here = [p for p in places if (p / "small-sweep" / trial.user_attrs["folder"]).exists()]
            assert len(here) == 1, "each trial is run once, on one of the machines"
        assert list((elsewhere / "small-sweep").glob("trial-*"))
        best = max(trials, key=lambda trial: trial.values[0]).user_attrs["mlflow_run"]
        for said in (text, joined):
            assert "6 complete" in said
            assert "another machine, where its samples are" in " ".join(said.split())
            assert best in said
        assert_tracked(MlflowClient(server.uri), 6)
        file.unlink()
        kept = [str(trial.user_attrs) + str(trial.system_attrs) for trial in trials]
        assert found(laboratory.folder, text, joined, *kept) == []


def test_a_sweep_survives_the_death_of_its_tracking_server(laboratory: Laboratory):
    with MlflowServer(laboratory.output / "mlflow.db") as server:
        file = sweep_file(laboratory, trials=3)
        with sweeping(laboratory, file, f"tracking.uri={server.uri}", "--workers", "2") as sweep:
            trials = wait_until(lambda: training(laboratory), "a trial in training")
            server.kill()
            wait_until((trials[0].parent / "finished").exists, "the end of its training")
            server.start()
            text = finish(sweep)
        assert_whole(laboratory, 3)
        laboratory.run("sync", "--output", laboratory.output)
        assert_tracked(MlflowClient(server.uri), 3)
        assert f"{server.uri}/#/compare-runs?runs=[" in text


def test_workers_are_sent_to_a_cluster_by_submitit(laboratory: Laboratory):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -e .[dev]")
    file = sweep_file(laboratory, trials=2)
    laboratory.run("sweep", file, "--workers", "2", "--cluster", "local")
    assert_whole(laboratory, 2)
