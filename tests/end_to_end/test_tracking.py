"""What a run leaves in MLflow, and what happens when the server is not there."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from end_to_end.laboratory import Laboratory, wait_for_step
from end_to_end.servers import MlflowServer
from mlflow import MlflowClient
from planted import found, planted

from opdlab.files import metrics_file
from opdlab.tracking import mlflow_store, session as tracking
from opdlab.training.group import Group

EXPECTED = (
    "loss",
    "reverse_kl",
    "entropy",
    "active_share",
    "confidence_spread",
    "flat_group_share",
    "reward",
    "fidelity",
    "response_length",
    "truncated_share",
    "eos_rate",
    "repetition_rate",
    "teacher_score_share",
    "gradient_norm",
    "learning_rate",
    "tokens_per_second",
    "fidelity/t0000-0001",
    "reverse_kl/t0000-0001",
    "seconds/rollout",
    "seconds/teacher",
    "seconds/trunk",
    "seconds/leaves",
    "seconds/update",
    "seconds/logging",
)


def test_a_run_leaves_its_metrics_parameters_and_artifacts(undisturbed: Laboratory) -> None:
    runs = undisturbed.mlflow_runs()
    run, parent = runs["lgr"], runs["small-001"]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert run.data.params["method.top_k"] == "4"
    assert run.data.params["training.steps"] == "40"
    for name in EXPECTED:
        history = undisturbed.client().get_metric_history(run.info.run_id, name)
        assert {metric.step for metric in history} <= set(range(1, 41)), name
        assert history, name
    assert run.data.metrics["teacher_score_share"] == 1.0
    assert "math/short/mean_at_2" in run.data.metrics
    client = undisturbed.client()
    listed = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert listed == {"config.yaml", "manifest.json", "model", "samples", "tables"}
    table = json.loads(
        (undisturbed.output / "small-001/lgr/tables/rollouts-000004.json").read_text()
    )
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert len(row["tokens"]) == len(row["teacher_log_prob"]) == len(row["fidelity"])


def test_the_manifest_says_what_the_run_was_made_of(undisturbed: Laboratory) -> None:
    manifest = json.loads((undisturbed.output / "small-001/lgr/manifest.json").read_text())
    assert len(manifest["teacher"]["weights_sha256"]) == 64
    assert manifest["teacher"]["name"] == str(undisturbed.teacher)
    assert manifest["environment"]["packages"]["torch"]
    assert (manifest["seed"], manifest["settings"]["evaluation"]["seed"]) == (3, 1234)
    assert manifest["code"]["version"]
    assert manifest["prompts"]["type"] == "problems"
    assert len(manifest["prompts"]["sha256"]) == 64


def test_an_unreachable_server_is_an_error_before_anything_is_done(laboratory: Laboratory) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = laboratory.write(tracking__uri=f"http://127.0.0.1:{port}")
    text = laboratory.run("train", file, code=1)
    assert f"no MLflow server answers at http://127.0.0.1:{port}" in text
    assert "opdlab ui" in text
    assert not list(laboratory.output.glob("small-*"))


def test_training_outlives_its_server_and_sync_sends_the_rest(laboratory: Laboratory) -> None:
    with MlflowServer(laboratory.output / "mlflow.db") as server:
        uri = server.uri
        file = laboratory.write(tracking__uri=planted(uri))
        process = laboratory.start("train", file)
        wait_for_step(laboratory, 3, process)
        server.kill()
        text, _ = process.communicate(timeout=200)
        assert process.returncode == 0, text
        assert "opdlab sync" in text
        rows = [row for row in laboratory.metrics() if "loss" in row]
        assert [row["step"] for row in rows] == list(range(1, 41))

        server.start()
        laboratory.run("sync", "--output", laboratory.output)
        run_id = Group(laboratory.output / "small-001").run("lgr")["run_id"]
        client = MlflowClient(uri)
        steps = {metric.step for metric in client.get_metric_history(run_id, "loss")}
        assert steps == set(range(1, 41))
        assert client.get_run(run_id).info.status == "FINISHED"
        assert "model" in {artifact.path for artifact in client.list_artifacts(run_id)}
        site = laboratory.folder / "site"
        said = [text]
        said += [laboratory.run("leaderboard", planted(uri), "--to", site)]
        page = laboratory.folder / "report.html"
        said += [laboratory.run("report", "small-001", "--output", planted(uri), "--to", page)]
        said += [laboratory.run("plan", file)]
    assert f"{uri}/#/compare-runs?" in text
    said += [laboratory.run("train", file, code=1)]
    assert "no MLflow server answers" in said[-1]
    file.unlink()
    assert found(laboratory.folder, *said) == []
    assert len(list(site.rglob("*.js"))) > 3


def test_only_runs_of_dead_processes_are_reaped(laboratory: Laboratory) -> None:
    client = laboratory.client()
    experiment = mlflow_store.experiment_id(client, "reaping", laboratory.output)
    alive = tracking.start_run(client, experiment, "alive", None, {})
    elsewhere = tracking.start_run(client, experiment, "elsewhere", None, {})
    client.set_tag(elsewhere, "opdlab.host", "another-machine")
    beside = tracking.start_run(client, experiment, "beside", None, {})
    # Another container of the same name, in which ids of processes are others.
    client.set_tag(beside, "opdlab.machine", "another pid:[1]")
    gone = tracking.start_run(client, experiment, "gone", None, {})
    client.set_tag(gone, "opdlab.pid_started", "12.0")
    stranger = client.create_run(experiment, run_name="not ours").info.run_id
    assert tracking.reap(client, experiment) == [gone]
    assert client.get_run(gone).info.status == "KILLED"
    for run_id in (alive, elsewhere, beside, stranger):
        assert client.get_run(run_id).info.status == "RUNNING"


def test_processes_that_begin_together_share_one_experiment(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path / "mlflow.db")
    client = mlflow_store.open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    begin, ids = threading.Barrier(2, timeout=60), []

    class Late(MlflowClient):
        """A client whose question is answered just before the other's experiment is made."""

        def get_experiment_by_name(self, name: str) -> Any:
            found = super().get_experiment_by_name(name)
            if not begin.broken and found is None:
                begin.wait()
            return found

    def start() -> None:
        ids.append(mlflow_store.experiment_id(Late(client.tracking_uri), "shared", tmp_path))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 2
    assert ids[0] == ids[1]


@pytest.mark.parametrize("cut", ["", '{"step": 2, "lo'])
def test_a_run_taken_up_again_begins_a_line_of_its_own(laboratory: Laboratory, cut: str) -> None:
    client = laboratory.client()
    experiment = mlflow_store.experiment_id(client, "taken up", laboratory.output)
    run = tracking.start_run(client, experiment, "run", None, {})
    folder = laboratory.output / "run"
    tracking.Tracker(client, run, folder).log({"loss": 1.0}, 1)
    path = folder / metrics_file.METRICS
    path.write_text(path.read_text() + cut)
    tracking.Tracker(client, run, folder).log({"loss": 2.0}, 2)
    assert [row["step"] for row in metrics_file.read_metrics(folder)] == [1, 2]
    assert len(path.read_text().splitlines()) == 2 + bool(cut)


def test_metrics_that_are_not_finite_are_kept_as_such(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path / "mlflow.db")
    client = mlflow_store.open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("e")).info.run_id
    tracker = tracking.Tracker(client, run, tmp_path)
    tracker.log({"loss": 1.0, "gradient_norm": float("inf"), "entropy": float("nan")}, 1)
    tracker.close("FINISHED")
    (row,) = metrics_file.read_metrics(tmp_path)
    assert row["gradient_norm"] == float("inf")
    assert row["entropy"] != row["entropy"]
    assert "Infinity" in (tmp_path / metrics_file.METRICS).read_text()
    shown = client.get_run(run).data.metrics
    assert shown["loss"] == 1.0
    assert shown["gradient_norm"] != shown["gradient_norm"]
