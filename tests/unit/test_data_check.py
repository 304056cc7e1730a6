"""`opdlab data check`: the table, the faults, the exit code."""

import json

import pytest
from code_rows import write as write_programs
from typer.testing import CliRunner

from opdlab.cli import app
from opdlab.terminal import console
from opdlab_evaluators import benchmark as benchmark_module
from opdlab_evaluators.benchmark import question_id
from opdlab_evaluators.programs import pool
from opdlab_evaluators.sandbox import command


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
    assert f"problem {question_id('0?')} judges its own gold no_answer" in result.output


def test_a_benchmark_that_was_named_must_be_there(folder):
    result = CliRunner().invoke(app, ["data", "check", "aime_2026"])
    assert result.exit_code == 1
    assert "put aime_2026.jsonl (or .json, .csv, .parquet" in result.output
    assert str(folder) in result.output


def test_without_names_missing_data_are_no_failure_but_wrong_data_are(folder):
    (folder / "aime_2025.jsonl").write_text(json.dumps({"problem": "1+1?", "answer": 2}))
    result = CliRunner().invoke(app, ["data", "check"])
    assert result.exit_code == 1
    assert result.output.count("no data") == 11
    assert "aime_2025" in result.output
    assert "refused" in result.output
    assert "holds 1 problems, not 30" in result.output
    (folder / "aime_2025.jsonl").unlink()
    benchmark_module._checked.cache_clear()
    assert CliRunner().invoke(app, ["data", "check"]).exit_code == 0


@pytest.mark.parametrize("name", ["aime_2026", "hmmt_feb_2026"])
def test_data_that_nobody_here_has_seen_are_recorded_and_compared_from_then_on(folder, name):
    count = {"aime_2026": 30, "hmmt_feb_2026": 33}[name]
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(count)]
    path = folder / f"{name}.jsonl"

    def check(rows):
        path.write_text("\n".join(map(json.dumps, rows)))
        benchmark_module._checked.cache_clear()
        result = CliRunner().invoke(app, ["data", "check", name])
        return result.exit_code, result.output

    assert "recorded on this first use" in check(rows)[1]
    code, said = check(rows[::-1])
    assert (code, "as first used on" in said) == (0, True)
    code, said = check([{**rows[0], "answer": "7"}, *rows[1:]])
    assert (code, "has changed since it was first used" in said) == (1, True)
    code, said = check(rows[1:])
    assert (code, f"holds {count - 1} problems, not {count}" in said) == (1, True)


def test_without_a_sandbox_the_data_of_programs_are_checked_and_their_golds_are_not(
    folder, monkeypatch
):
    write_programs(folder, "humaneval")
    monkeypatch.setattr(pool, "_SHARED", pool._Shared({}))
    monkeypatch.setenv("PATH", "/nonexistent")
    command.find_bwrap.cache_clear()
    result = CliRunner().invoke(app, ["data", "check", "humaneval"])
    command.find_bwrap.cache_clear()
    assert result.exit_code == 1
    assert "not graded" in result.output
    assert "humaneval: its golds were not judged: bubblewrap (bwrap) was not found" in result.output
