"""`opdlab data check`: the table, the faults, the exit code."""

import json

import pytest
from typer.testing import CliRunner

from opdlab.cli import app
from opdlab.terminal import console
from opdlab_evaluators import benchmark as benchmark_module


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPDLAB_DATA", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(console, "width", 200)
    benchmark_module._checked.cache_clear()
    return tmp_path


def write(folder, gold="1"):
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(33)]
    rows[0]["answer"] = gold
    (folder / "hmmt_feb_2026.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_whole_copy_passes_and_says_what_it_was_compared_with(folder):
    write(folder)
    result = CliRunner().invoke(app, ["data", "check", "hmmt_feb_2026"])
    assert result.exit_code == 0, result.output
    assert "33 of 33" in result.output
    assert "recorded on this first use" in result.output


def test_a_gold_that_is_not_judged_right_fails_the_check(folder):
    write(folder, gold="\\frac{1}{")
    result = CliRunner().invoke(app, ["data", "check", "hmmt_feb_2026"])
    assert result.exit_code == 1
    assert "32 of 33" in result.output
    assert "problem 1 judges its own gold no_answer" in result.output


def test_a_benchmark_that_was_named_must_be_there(folder):
    result = CliRunner().invoke(app, ["data", "check", "aime_2026"])
    assert result.exit_code == 1
    assert "put aime_2026.jsonl (or .json, .csv, .parquet" in result.output
    assert str(folder) in result.output
