"""The folders of an experiment's executions: where a resumed one goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdlab.configuration import loader
from opdlab.configuration.config import Experiment
from opdlab.errors import ResumeError, StorageError
from opdlab.files.natural_order import natural
from opdlab.training.group import CONFIG, groups, last_group, open_group


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
    with pytest.raises(ResumeError, match=r"-002 already exists .* these differ: seed\. "):
        last_group(experiment(tmp_path))


def test_the_execution_after_the_thousandth_is_counted_as_a_number(tmp_path: Path) -> None:
    for number in (998, 999, 1000):
        (tmp_path / f"quickstart-{number}").mkdir()
    assert open_group(experiment(tmp_path)).folder.name == "quickstart-1001"
    assert open_group(experiment(tmp_path)).folder.name == "quickstart-1002"
    found = [path.name for path in groups(tmp_path, "quickstart")]
    assert found == [f"quickstart-{number}" for number in range(998, 1003)]
    assert last_group(experiment(tmp_path)).folder.name == "quickstart-1002"


def test_names_are_ordered_by_their_numbers() -> None:
    names = ["step-1000000", "step-999999", "x-10/y-2", "x-9/y-11", "x-9/y-2", "7", "07", "", "a"]
    assert sorted(names, key=natural) == [
        "", "07", "7", "a", "step-999999", "step-1000000", "x-9/y-2", "x-9/y-11", "x-10/y-2",
    ]  # fmt: skip


def test_an_output_that_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"output: .*file cannot be made a folder \(File exists"):
        open_group(experiment(tmp_path / "file"))
