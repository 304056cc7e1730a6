"""Faults of the disk, and of a store that stops answering, are told in one line."""

from __future__ import annotations

import logging
import resource
import shutil
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from opdlab.cli import program as cli
from opdlab.configuration.loader import load_experiment
from opdlab.console.interrupt import StopRequest
from opdlab.errors import StorageError, TrackingError
from opdlab.files.whole_files import write_whole
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.study import storage_url
from opdlab.tracking import mlflow_store, session as tracking
from opdlab.training import group
from opdlab.training.group import Group
from opdlab.training.run import Session


def test_a_disk_that_takes_nothing_ends_a_command_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(28, "No space left on device", str(tmp_path / "a"))

    def command(prog_name: str) -> None:
        raise full

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert (
        f"StorageError: {tmp_path / 'a'} cannot be used: No space left" in capsys.readouterr().err
    )
    full.errno = 9  # no fault of the disk but of the program
    full.filename = None
    with pytest.raises(OSError, match="No space"):
        cli.main()


def test_a_folder_that_no_address_can_hold_is_refused_before_anything_is_written_elsewhere(
    tmp_path: Path,
) -> None:
    config = load_experiment("quickstart", [f"output={tmp_path / 'why?' / 'runs'}"])
    with pytest.raises(StorageError, match=r"runs has a question mark in its name"):
        mlflow_store.store_uri(Path(config.output), None)
    with pytest.raises(StorageError, match=r"quickstart-sweep has a question mark in its name"):
        storage_url(config, Sweep.model_construct(storage=None))
    odd = tmp_path / "a #&% [x]"
    mlflow_store.open_client(mlflow_store.store_uri(odd, None))
    assert sorted(path.name for path in tmp_path.iterdir()) == [odd.name]


def test_a_folder_or_nothing_in_place_of_a_file_ends_a_command_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").mkdir()
    for command, named in (
        (lambda: (tmp_path / "gone.json").read_text(), "gone.json"),
        (lambda: write_whole(tmp_path / "results.json", ""), "results.json"),
        (lambda: (tmp_path / "results.json").read_text(), "results.json"),
    ):
        monkeypatch.setattr(cli, "app", lambda prog_name, command=command: command())
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr().err
        assert said.startswith("StorageError: ")
        assert f"{tmp_path / named} cannot be used: " in said
        assert said.count("\n") == 1


def test_runs_that_were_never_begun_are_ended_and_those_that_were_are_not(
    tmp_path: Path, store: Path
) -> None:
    shutil.copy(store, tmp_path / "mlflow.db")
    client = mlflow_store.open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = mlflow_store.experiment_id(client, "e", tmp_path)
    session = Session(Group(tmp_path), client, experiment, "", StopRequest())
    for name in ("a", "b", "c"):
        session.schedule(name, {})
    runs = {name: session.group.run(name)["run_id"] for name in "abc"}
    assert {client.get_run(run).info.status for run in runs.values()} == {"SCHEDULED"}
    with session.tracked("a"):
        pass
    session.abandon()
    ended = {name: client.get_run(run) for name, run in runs.items()}
    assert {name: run.info.status for name, run in ended.items()} == {
        "a": "FINISHED",
        "b": "KILLED",
        "c": "KILLED",
    }
    assert ended["b"].data.tags["opdlab.ended"] == "never begun"
    with session.tracked("b") as tracker:
        assert client.get_run(tracker.run_id).info.status == "RUNNING"


def test_a_store_that_is_away_is_asked_once_about_runs_that_were_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = MlflowClient(f"http://127.0.0.1:{server.getsockname()[1]}")
    asked: list[str] = []
    tracking.abandon(client, (asked.append(run) or run for run in "abc"))
    assert asked == ["a"]


def test_a_store_on_a_full_disk_is_told_with_the_remedy(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it logs would be written to a file, by pytest.
    monkeypatch.setattr(logging.getLogger("mlflow.store.db.utils"), "disabled", True)
    shutil.copy(store, tmp_path / "mlflow.db")
    client = mlflow_store.open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = mlflow_store.experiment_id(client, "e", tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(
            TrackingError, match=r"mlflow.db cannot be used: .*disk.*Free space there"
        ):
            tracking.start_run(client, experiment, "run", None, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert tracking.start_run(client, experiment, "run", None, {})


def test_runs_that_were_moved_are_gone_on_with(tmp_path: Path) -> None:
    from opdlab.configuration import loader

    before = loader.load_experiment("quickstart", [f"output={tmp_path / 'old'}"])
    folder = group.open_group(before).folder
    (tmp_path / "old").rename(tmp_path / "new")
    after = loader.load_experiment("quickstart", [f"output={tmp_path / 'new'}"])
    assert group.last_group(after).folder == tmp_path / "new" / folder.name
