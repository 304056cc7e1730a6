"""Tests of a benchmark that fail whatever the program is: a fault of the data, never a wrong answer."""

from __future__ import annotations

import json

import pytest
from code_rows import ROWS, write as write_programs
from machine import need_sandbox
from typer.testing import CliRunner

from opdlab.cli import app
from opdlab.console.terminal import console
from opdlab.errors import DataError
from opdlab_evaluators.benchmarks import benchmark as benchmark_module
from opdlab_evaluators.benchmarks.code_benchmark import fenced
from opdlab_evaluators.benchmarks.humaneval import HumanEval
from opdlab_evaluators.benchmarks.mbpp import Mbpp

RIGHT = "def add_1(values):\n    return sum(values) + 1"
WRONG = [
    RIGHT.replace("+ 1", "+ 2"),
    "def add_1(x): raise ImportError('no')",
    "import nowhere_1\n" + RIGHT,
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    need_sandbox()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPDLAB_DATA", str(tmp_path))
    monkeypatch.setattr(console, "width", 300)
    benchmark_module._checked.cache_clear()
    return tmp_path


def change(folder, name, **changed):
    """A copy in which row 1 has other columns."""
    make, count = ROWS[name]
    rows = [make(number) for number in range(count)]
    rows[1] |= changed
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


CHECK = "def check(candidate):\n    {}\n    assert candidate([1, 2]) == 4\n"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"test": "import nowhere\n" + CHECK.format("pass")}, "No module named 'nowhere'"),
        ({"test": CHECK.format("from json import nothing")}, "cannot import name 'nothing'"),
        (
            {"test": CHECK.format("assert candidate([1]) == nothing")},
            "name 'nothing' is not defined",
        ),
        ({"test": CHECK.format("pass") + "return\n"}, "'return' outside function"),
        ({"entry_point": "add"}, "the prompt defines no add"),
        (
            {"prompt": "import nowhere\ndef add_1(values):\n    '''Sum.'''\n"},
            "No module named 'nowhere'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tests_that_cannot_run_are_a_fault_of_the_data(folder, changed, reason):
    change(folder, "humaneval", **changed)
    benchmark = HumanEval()
    problem = benchmark.problems()[1]
    verdicts = [benchmark.grade(problem, fenced(one)) for one in (RIGHT, WRONG[0])]
    assert [verdict.status for verdict in verdicts] == ["grader_error"] * 2, verdicts
    assert all(reason in verdict.reason for verdict in verdicts), verdicts
    result = CliRunner().invoke(app, ["data", "check", "humaneval", "--limit", "3"])
    assert (result.exit_code, "2 of 3" in result.output) == (1, True)
    assert "problem HumanEval/1 judges its own reference answer grader_error" in result.output
    assert "another copy of the data" in result.output


@pytest.mark.parametrize(
    "program", [*WRONG, "def other(): pass", "x = 1", "def add_1(x): return unknown"]
)
def test_what_a_program_does_is_no_fault_of_the_data(folder, program):
    write_programs(folder, "humaneval")
    problem = HumanEval().problems()[1]
    assert HumanEval().grade(problem, fenced(program)).status == "wrong"


def test_a_guarded_import_of_the_tests_is_no_fault(folder):
    guarded = "try:\n    import nowhere\nexcept ImportError:\n    pass\n" + CHECK.format("pass")
    change(folder, "humaneval", test=guarded)
    problem = HumanEval().problems()[1]
    answers = [fenced(RIGHT), fenced(WRONG[0])]
    assert [HumanEval().grade(problem, one).status for one in answers] == ["correct", "wrong"]


def test_a_missing_module_of_mbpp_is_a_fault_of_the_data(folder):
    change(folder, "mbpp", test_setup_code="import nowhere")
    problem = Mbpp().problems()[1]
    verdict = Mbpp().grade(problem, fenced(RIGHT))
    assert (verdict.status, "nowhere" in verdict.reason) == ("grader_error", True)


def test_tests_that_are_no_python_are_refused_by_their_row(folder):
    change(folder, "humaneval", test="def check(candidate)\n    assert candidate([1])")
    with pytest.raises(DataError, match=r"humaneval\.jsonl: row 2 is malformed \(SyntaxError"):
        HumanEval().problems()
