"""The folders of an experiment's executions: where a resumed one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdlab import loader
from opdlab.config import Experiment
from opdlab.errors import ResumeError, StorageError
from opdlab.training.group import CONFIG, last_group, open_group


def experiment(output: Path, *overrides: str) -> Experiment:
    return loader.load_experiment("quickstart", [f"output={output}", *overrides])


def test_the_newest_execution_with_the_same_configuration_goes_on(tmp_path: Path) -> None:
    older, newer = (open_group(experiment(tmp_path)) for _ in range(2))
    open_group(experiment(tmp_path, "seed=99"))
    (open_group(experiment(tmp_path)).folder / CONFIG).unlink()
    assert last_group(experiment(tmp_path)) == newer != older


def test_differences_are_those_from_the_newest_execution(tmp_path: Path) -> None:
    open_group(experiment(tmp_path, "seed=98", "training.steps=7"))
    open_group(experiment(tmp_path, "seed=99"))
    with pytest.raises(ResumeError, match=r"-002 was begun .* these differ: seed\. "):
        last_group(experiment(tmp_path))


def test_an_output_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"output: .*file cannot be made a folder \(File exists"):
        open_group(experiment(tmp_path / "file"))
