"""Faults of the disk, and of a store that stops answering, are told in one line."""

from __future__ import annotations

import logging
import resource
import shutil
from pathlib import Path

import pytest

from opdlab import cli, mlflow_store, tracking
from opdlab.errors import TrackingError
from opdlab.training import group


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
    with pytest.raises(OSError, match="No space"):
        cli.main()


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
    from opdlab import loader

    before = loader.load_experiment("quickstart", [f"output={tmp_path / 'old'}"])
    folder = group.open_group(before).folder
    (tmp_path / "old").rename(tmp_path / "new")
    after = loader.load_experiment("quickstart", [f"output={tmp_path / 'new'}"])
    assert group.last_group(after).folder == tmp_path / "new" / folder.name
