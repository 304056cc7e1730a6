"""Prompts of a dataset: a file that holds none says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdlab.characters import character_tokenizer
from opdlab.config import DatasetPrompts
from opdlab.errors import DataError
from opdlab.prompts import open_prompts


def first_prompt(path: Path) -> None:
    config = DatasetPrompts(type="dataset", path=str(path))
    open_prompts(config, character_tokenizer("abc", 16), 0).prompt(0)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("b.jsonl", "\n\n"), ("c.json", "[]"), ("d.csv", "prompt\n")],
)
def test_a_file_without_rows_is_said_to_have_none(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name} has no rows"):
        first_prompt(tmp_path / name)


def test_a_line_that_is_no_json_is_told_once_with_its_row(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a"}\n{bad\n')
    with pytest.raises(DataError, match=r"cannot be read: JSON parse error.* row 1"):
        first_prompt(path)
    assert not "".join(capfd.readouterr())
    assert not caplog.records
