"""What an experiment names and is not there is found without loading anything."""

from pathlib import Path

import pytest
import yaml

from opdlab.configuration import load, moving
from opdlab.errors import ConfigError

HEX = "0123456789abcdef0123456789abcdef01234567"


def refusal(*overrides: str) -> str:
    load("quickstart", overrides)  # is otherwise valid
    with pytest.raises(ConfigError) as told:
        load("quickstart", overrides, there=True)
    return str(told.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.path=/nope", "command line: student.path: /nope: no such model folder"),
        ("teacher.path=embedded:nobody", "teacher.path: embedded:nobody: no such embedded model"),
        ("teacher.path=a/b", "teacher.path: a/b: there is no such folder, and a model of the"),
        (
            "specialists=[{path: ./gone, domains: [math]}]",
            "command line: specialists.0.path: gone: no such model folder",
        ),
        (
            "prompts={type: dataset, path: gone.jsonl, column: q}",
            "command line: prompts.path: there is no file",
        ),
    ],
)
def test_what_is_missing_is_told_with_its_key(override, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refusal("runs=[]", "method={type: opd}", override)


def test_every_missing_thing_is_told_with_its_line(tmp_path):
    whole = yaml.safe_load(
        Path(__file__).parents[2].joinpath("experiments/quickstart.yaml").read_text()
    )
    whole["student"]["path"], whole["teacher"]["path"] = str(tmp_path / "a"), str(tmp_path / "b")
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(ConfigError) as told:
        load(file, there=True)
    lines = file.read_text().splitlines()
    said = str(told.value).splitlines()
    assert len(said) == 2
    for name in ("a", "b"):
        number = next(i for i, line in enumerate(lines, 1) if line.endswith(str(tmp_path / name)))
        assert any(f"x.yaml:{number}: " in line for line in said)


def test_a_folder_without_a_model_is_told(tmp_path):
    assert "has no config.json" in refusal(f"student.path={tmp_path}")


def test_a_revision_that_moves_is_noted_and_a_commit_is_not():
    config = load(
        "quickstart",
        [
            "student.path=a/b",
            "student.revision=main",
            "teacher.path=a/c",
            f"teacher.revision={HEX}",
        ],
    )
    (note,) = moving(config)
    assert note.startswith("student.revision: 'main' is not a commit")
