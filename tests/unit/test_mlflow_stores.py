"""Stores that are made, broken, moved, copied and emptied by others."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from opdlab.errors import TrackingError
from opdlab.sweeps.run import send_all
from opdlab.tracking import mlflow_app, mlflow_empty, mlflow_store, session as tracking, unsent
from opdlab.tracking.mlflow_extras import DataSet
from opdlab.tracking.mlflow_run import INSTEAD, TAG_LIMIT, MlflowRun
from opdlab.tracking.session import Tracker


@pytest.fixture
def cache(store: Path) -> Path:
    """A cache with an empty store in it."""
    return store.parent.parent / "cache"


@pytest.fixture
def runs(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs that nobody used yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path / "runs"


def open_at(runs: Path) -> MlflowClient:
    return mlflow_store.open_client(mlflow_store.store_uri(runs, None))


def start(runs: Path, name: str = "run") -> Tracker:
    client = open_at(runs)
    experiment = mlflow_store.experiment_id(client, "e", runs)
    return Tracker(client, tracking.start_run(client, experiment, name, None, {}), runs / name)


def apart(action: Callable[[], object]) -> int:
    """Begin an action in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


def test_a_store_whose_making_was_killed_is_not_there_and_the_next_command_makes_it(
    runs: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    pid = apart(lambda: open_at(runs))
    new = runs / ".mlflow.db.new"
    while not (new.exists() and new.stat().st_size > 50_000):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not (runs / "mlflow.db").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert open_at(runs).search_experiments()
    assert not new.exists()


def test_commands_that_begin_together_in_a_new_folder_find_one_store(runs: Path) -> None:
    def use() -> None:
        mlflow_store.experiment_id(open_at(runs), "e", runs)

    pids = [apart(use) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert len(open_at(runs).search_experiments()) == 2


def test_a_new_store_is_a_copy_of_the_empty_one_of_this_version(runs: Path, cache: Path) -> None:
    (empty,) = (cache / "opdlab").glob("mlflow-*.db")
    client = open_at(runs)
    before = client.search_experiments()[0].creation_time
    with sqlite3.connect(empty) as store:
        assert store.execute("SELECT creation_time FROM experiments").fetchone() == (before,)
    assert client.search_experiments()[0].artifact_location == (runs / "mlartifacts").as_uri()


@pytest.mark.parametrize("spoil", [b"", b"no database at all", None])
def test_a_cache_that_is_damaged_is_not_copied(
    tmp_path: Path, cache: Path, spoil: bytes | None
) -> None:
    (empty,) = (cache / "opdlab").glob("mlflow-*.db")
    source = tmp_path / "cached"
    source.write_bytes(empty.read_bytes()[:300_000] if spoil is None else spoil)
    assert not mlflow_empty._copied(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_broken_store_is_named_with_the_remedy(runs: Path) -> None:
    file = runs / "mlflow.db"
    runs.mkdir()
    for content in (b"not a database" * 100, None):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        else:
            with sqlite3.connect(file) as store:
                store.execute("CREATE TABLE registered_models (name TEXT)")
        with pytest.raises(
            TrackingError, match=rf"store sqlite:///{file} cannot be used.*mv {file} "
        ):
            open_at(runs)


def test_a_moved_store_finds_its_files_and_writes_nothing_to_the_old_place(runs: Path) -> None:
    tracker = start(runs)
    (runs / "note.txt").write_text("old")
    tracker.artifact(runs / "note.txt")
    tracker.close("FINISHED")
    moved = runs.rename(runs.with_name("moved"))
    client = open_at(moved)
    assert [one.path for one in client.list_artifacts(tracker.run_id)] == ["note.txt"]
    again = start(moved, "again")
    again.artifact(moved / "note.txt")
    again.close("FINISHED")
    assert not runs.exists()
    assert client.get_run(again.run_id).info.artifact_uri.startswith(moved.as_uri())


def test_a_copied_store_leaves_the_one_that_it_was_copied_from_alone(runs: Path) -> None:
    start(runs).close("FINISHED")
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    copied = Path(shutil.copytree(runs, runs.with_name("backup")))
    tracker = start(copied, "more")
    (copied / "note.txt").write_text("new")
    tracker.artifact(copied / "note.txt")
    tracker.close("FINISHED")
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before
    assert list(copied.rglob("artifacts/note.txt"))


def test_another_experiment_takes_the_place_of_one_that_was_deleted(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_at(runs)
    first = mlflow_store.experiment_id(client, "e", runs)
    client.delete_experiment(first)
    second = mlflow_store.experiment_id(client, "e", runs)
    assert client.get_experiment(second).name == "e (2)"
    assert mlflow_store.experiment_id(client, "e", runs) == second
    assert "'e' was deleted: 'e (2)' takes its place" in capsys.readouterr().out


def metrics(client: MlflowClient, run: str, name: str) -> list[float]:
    return [one.value for one in client.get_metric_history(run, name)]


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_run_that_is_deleted_while_it_is_recorded_is_replaced_with_all_it_had(
    runs: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(runs)
    (runs / "note.txt").write_text("old")
    tracker.artifact(runs / "note.txt")
    tracker.params({"a": {"b": 1}})
    tracker.log({"loss": 1.0}, 1)
    old = tracker.run_id
    if what == "run":
        tracker.client.delete_run(old)
    else:
        tracker.client.delete_experiment(tracker.client.get_run(old).info.experiment_id)
    tracker.log({"loss": 2.0}, 2)
    tracker.set({"mean_at_8": 0.5})
    tracker.close("FINISHED")
    run = tracker.client.get_run(tracker.run_id)
    assert run.data.tags[INSTEAD] == old
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params == {"a.b": "1"}
    assert set(metrics(tracker.client, run.info.run_id, "loss")) == {1.0, 2.0}
    assert run.data.metrics["mean_at_8"] == 0.5
    assert [one.path for one in tracker.client.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert not (runs / "run" / unsent.UNSENT).exists()
    assert "takes its place" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_was_deleted_before_it_is_resumed_is_replaced(runs: Path) -> None:
    tracker = start(runs)
    tracker.log({"loss": 1.0}, 1)
    tracker.close("KILLED")
    tracker.client.delete_run(tracker.run_id)
    experiment = mlflow_store.experiment_id(tracker.client, "e", runs)
    run = tracking.run_for(tracker.client, experiment, "run", None, {}, tracker.run_id)
    assert run != tracker.run_id
    again = Tracker(tracker.client, run, runs / "run")
    again.log({"loss": 2.0}, 2)
    again.close("FINISHED")
    assert metrics(again.client, run, "loss") == [1.0, 2.0]
    assert tracking.run_for(tracker.client, experiment, "run", None, {}, run) == run


def test_names_that_mlflow_refuses_keep_nothing_from_arriving(runs: Path) -> None:
    tracker = start(runs)
    tracker.set({"gsm8k+/mean_at_8": 0.25, "math/mean_at_8": 0.5})
    tracker.params({"a b+c": 1, "x" * 300: 2, "": 3})
    tracker.tags({"t/../u": "1"})
    tracker.close("FINISHED")
    run = tracker.client.get_run(tracker.run_id)
    assert run.data.metrics == {"gsm8k:2b:/mean_at_8": 0.25, "math/mean_at_8": 0.5}
    assert len(run.data.params) == 3
    assert run.info.status == "FINISHED"
    assert not (runs / "run" / unsent.UNSENT).exists()


def test_one_thing_that_is_refused_is_told_and_all_others_arrive(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(runs)
    tracker.params({"a": 1})
    tracker.params({"b": 1, "a": 2, "c": 3})
    tracker.artifact(runs / "nothing")
    tracker.close("FINISHED")
    run = tracker.client.get_run(tracker.run_id)
    assert run.data.params == {"a": "1", "b": "1", "c": "3"}
    assert run.info.status == "FINISHED"
    text = " ".join(capsys.readouterr().out.split())
    assert "MLflow refuses parameter a (" in text
    assert "does not answer" not in text
    assert text.count("refuses") == 1


def test_what_was_not_sent_is_sent_from_any_folder_and_after_the_runs_moved(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start(runs)
    monkeypatch.chdir(tmp_path)
    (runs / "run" / "note.txt").write_text("mine")
    row = {"loss": 3.0, "step": 4, "time": 0.0}
    told: dict[str, Any] = unsent.empty() | {
        "rows": [row],
        "artifacts": [["runs/run/note.txt", None]],
    }
    told |= {
        "run_id": tracker.run_id,
        "uri": str(tracker.client.tracking_uri),
        "status": "FINISHED",
    }
    unsent.keep(Path("runs/run"), told)
    away = {**told, "uri": "http://127.0.0.1:9", "artifacts": []}
    (runs / "away").mkdir()
    unsent.keep(runs / "away", away)
    moved = runs.rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    with pytest.raises(
        TrackingError, match=r"moved/away: no MLflow server answers at http://127.0.0.1:9"
    ):
        unsent.sync(str(moved))
    run = open_at(moved).get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics["loss"]) == ("FINISHED", 3.0)
    assert [one.path for one in open_at(moved).list_artifacts(tracker.run_id)] == ["note.txt"]
    assert not runs.exists()


def test_why_a_store_takes_nothing_is_said_and_none_is_made_at_an_old_place(
    runs: Path, tmp_path: Path
) -> None:
    told = unsent.empty() | {"run_id": "x"}
    for place, uri in (("gone", "sqlite:////nowhere/mlflow.db"), ("bad", f"sqlite:///{__file__}")):
        for name in ("a", "b"):
            (runs / place / name).mkdir(parents=True)
            unsent.keep(runs / place / name, told | {"uri": uri})
    with pytest.raises(
        TrackingError, match=r"gone/a and 1 more: .* is gone, with its folder"
    ) as all_:
        unsent.sync(str(runs))
    assert "bad/a and 1 more: the MLflow store" in str(all_.value)
    assert "file is not a database" in str(all_.value)
    assert not Path("/nowhere").exists()


def test_a_sweep_ends_whatever_its_trials_have_left_to_send(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(runs)
    trials = [runs / f"trial-{number}" for number in range(3)]
    for trial in trials:
        trial.mkdir()
    (trials[0] / unsent.UNSENT).write_text("{")
    told = unsent.empty() | {"run_id": tracker.run_id, "uri": str(tracker.client.tracking_uri)}
    unsent.keep(trials[1], told)
    unsent.keep(trials[2], told | {"uri": "http://127.0.0.1:9"})
    send_all(trials)
    assert "trial-0/unsent.json is damaged" in "".join(capsys.readouterr().out.split("\n"))
    assert [(trial / unsent.UNSENT).exists() for trial in trials] == [True, False, True]


def test_a_run_that_was_deleted_before_what_it_lacks_is_sent_is_made_again(runs: Path) -> None:
    tracker = start(runs)
    tracker.log({"loss": 1.0}, 1)
    tracker.close("KILLED")
    row = {"loss": 3.0, "step": 4, "time": 0.0}
    told = unsent.empty() | {"rows": [row], "status": "FINISHED", "about": tracker.run.about}
    told |= {"run_id": tracker.run_id, "uri": str(tracker.client.tracking_uri)}
    unsent.keep(runs / "run", told)
    tracker.client.delete_run(tracker.run_id)
    unsent.sync(str(runs))
    experiment = mlflow_store.experiment_id(tracker.client, "e", runs)
    (run,) = tracker.client.search_runs([experiment])
    assert (run.data.tags[INSTEAD], run.info.run_name) == (tracker.run_id, "run")
    assert set(metrics(tracker.client, run.info.run_id, "loss")) == {1.0, 3.0}


def test_two_syncs_at_once_send_the_same_and_neither_fails(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start(runs)
    tracker.close("KILLED")
    row = {"loss": 3.0, "step": 4, "time": 0.0}
    told = unsent.empty() | {"rows": [row], "run_id": tracker.run_id}
    unsent.keep(runs / "run", told | {"uri": str(tracker.client.tracking_uri)})
    end = MlflowRun.end

    def end_after_another(run: MlflowRun, status: str) -> None:
        monkeypatch.setattr(MlflowRun, "end", end)
        assert unsent.send_unsent(runs / "run") == 1
        end(run, status)

    monkeypatch.setattr(MlflowRun, "end", end_after_another)
    assert unsent.send_unsent(runs / "run") == 1
    assert metrics(tracker.client, tracker.run_id, "loss") == [3.0]


def test_a_run_that_sync_made_again_is_gone_on_with_and_stands_once(runs: Path) -> None:
    tracker = start(runs)
    tracker.close("KILLED")
    told = unsent.empty() | {"params": {"p": "1"}, "about": tracker.run.about}
    told |= {"run_id": tracker.run_id, "uri": str(tracker.client.tracking_uri)}
    unsent.keep(runs / "run", told)
    experiment = mlflow_store.experiment_id(tracker.client, "e", runs)
    store = mlflow_store.file_of(str(tracker.client.tracking_uri))
    assert store is not None
    with closing(sqlite3.connect(store)) as rows, rows:  # as `mlflow gc` leaves it
        for table in ("tags", "runs"):
            rows.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (tracker.run_id,))
    unsent.sync(str(runs))
    again = tracking.run_for(tracker.client, experiment, "run", None, {}, tracker.run_id)
    (run,) = tracker.client.search_runs([experiment])
    assert (run.info.run_id, run.data.params) == (again, {"p": "1"})


def test_a_run_stands_below_the_run_that_took_its_parents_place(runs: Path) -> None:
    client = open_at(runs)
    experiment = mlflow_store.experiment_id(client, "e", runs)
    parent = tracking.start_run(client, experiment, "all", None, {})
    child = tracking.start_run(client, experiment, "one", parent, {})
    client.delete_run(parent)
    instead = tracking.run_for(client, experiment, "all", None, {}, parent)
    assert tracking.run_for(client, experiment, "one", instead, {}, child) == child
    assert client.get_run(child).data.tags[tracking.PARENT] == instead
    # A trial of one seed is a run and its own parent.
    assert tracking.run_for(client, experiment, "all", instead, {}, instead) == instead
    assert tracking.PARENT not in client.get_run(instead).data.tags


def test_the_tag_of_tables_holds_the_last_ones_whole_however_many_there_are() -> None:
    names = [f"rollouts-{step:06d}.json" for step in range(20, 20_000, 20)]
    tag = tracking.listed(names)
    found = [one["path"] for one in json.loads(tag)]
    assert len(tag) <= TAG_LIMIT
    assert found == [f"tables/{name}" for name in names[-len(found) :]]
    assert len(found) > 100


def test_steps_arrive_many_at_once_and_in_order(runs: Path) -> None:
    tracker = start(runs)
    for step in range(1, 101):
        tracker.log({f"m{number}": float(step) for number in range(61)}, step)
    tracker.close("FINISHED")
    for name in ("m0", "m60"):
        assert metrics(tracker.client, tracker.run_id, name) == [float(n) for n in range(1, 101)]
    assert tracker.client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_run_that_was_scheduled_by_a_process_that_died_does_not_stay_so(runs: Path) -> None:
    client = open_at(runs)
    experiment = mlflow_store.experiment_id(client, "e", runs)
    run = tracking.start_run(client, experiment, "later", None, {})
    client.update_run(run, "SCHEDULED")
    assert tracking.reap(client, experiment) == []
    client.set_tag(run, "opdlab.pid_started", "12.0")
    assert tracking.reap(client, experiment) == [run]
    assert client.get_run(run).info.status == "KILLED"


def test_runs_on_another_disk_to_which_a_link_leads_are_sent_once(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(runs)
    row = {"loss": 3.0, "step": 4, "time": 0.0}
    told = unsent.empty() | {"rows": [row], "status": "FINISHED", "run_id": tracker.run_id}
    unsent.keep(runs / "run", told | {"uri": str(tracker.client.tracking_uri)})
    (runs / "run").rename(tmp_path / "scratch")
    for name in ("run", "again"):
        (runs / name).symlink_to(tmp_path / "scratch")
    (runs / "round").symlink_to(runs)
    unsent.sync(str(runs))
    assert capsys.readouterr().out.count("sent 1 records") == 1
    assert metrics(tracker.client, tracker.run_id, "loss") == [3.0]


def test_mlflow_gets_data_sets_a_description_traces_and_a_version_of_the_model(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = start(runs)
    variables = dict(os.environ)
    client, run = tracker.client, tracker.run_id
    tracker.describe(" What it is to find out. ")
    tracker.inputs([DataSet("routes", "5" * 64, "evaluation", "routes", 12)])
    model = runs / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    tracker.artifact(model, "model")
    capfd.readouterr()
    tracker.register("", "model", "refused")
    for _ in range(2):  # a resumed run keeps its version
        tracker.register("o'brien's", "model", "e-001/run")
    # Half of a character, as a server may send it.
    said = {"inputs": {"prompt": "1+1="}, "outputs": {"completion": "2\ud800"}}
    answer = {"name": "routes p1", **said}
    tracker.traces([{**answer, "attributes": {"status": "correct"}, "seconds": 2.0}])
    told = capfd.readouterr()
    assert "MLflow refuses a version of" in told.out
    assert "does not answer" not in told.out
    assert not told.err
    assert dict(os.environ) == variables, "the user's own code keeps its store"
    tracker.log({"loss": 1.0}, 1)
    tracker.close("FINISHED")
    found = client.get_run(run)
    assert found.data.tags["mlflow.note.content"] == "What it is to find out."
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("routes", "5" * 36)
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "evaluation")]
    (version,) = client.search_model_versions("name = \"o'brien's\"")
    assert (version.run_id, version.description) == (run, "e-001/run")
    (trace,) = client.search_traces([found.info.experiment_id])
    assert trace.info.trace_metadata["mlflow.sourceRun"] == run
    assert "1+1=" in str(trace.info.request_preview)
    assert trace.info.execution_duration == pytest.approx(2000, abs=1)
    assert "system/cpu_utilization_percentage" in found.data.metrics
    assert "system" not in (runs / "run" / "metrics.jsonl").read_text()


def test_mlflows_page_is_served_with_its_assistant_closed() -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        assert not {b"accept-encoding", b"if-none-match"} & {key for key, _ in scope["headers"]}
        headers = [(b"content-type", b"text/html"), (b"content-length", b"13"), (b"etag", b"x")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<head></", "more_body": True})
        await send({"type": "http.response.body", "body": b"head>"})

    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)

    asked = {"headers": [(b"accept-encoding", b"gzip"), (b"if-none-match", b"x")]}
    served = mlflow_app.closed(page)
    for path in ("/", "/ajax"):
        told = asked if path == "/" else {"headers": []}
        asyncio.run(served({"type": "http", "path": path, **told}, take, take))
    begun, body, *other = sent
    assert (
        body["body"]
        .decode()
        .startswith(f"<head><script>try {{ localStorage.setItem('{mlflow_app.KEY}'")
    )
    assert dict(begun["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert b"etag" not in dict(begun["headers"])
    assert b"".join(one.get("body", b"") for one in other) == b"<head></head>"
