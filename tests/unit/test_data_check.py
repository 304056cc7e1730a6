"""`opdlab data check`: the table, the faults, the exit code."""

import json
import os

import pytest
from code_rows import ROWS, mbpp, write as write_programs
from machine import need_sandbox, own_data
from typer.testing import CliRunner

from opdlab.cli import app
from opdlab.console.terminal import console
from opdlab.plugins import registry as plugins
from opdlab.records import Verdict
from opdlab_evaluators.benchmarks import benchmark as benchmark_module
from opdlab_evaluators.benchmarks.benchmark import question_id
from opdlab_evaluators.benchmarks.code_benchmark import fenced
from opdlab_evaluators.benchmarks.humaneval import HumanEval
from opdlab_evaluators.benchmarks.livecodebench import LiveCodeBench
from opdlab_evaluators.benchmarks.math_benchmark import REWRITTEN, MathBenchmark
from opdlab_evaluators.data.source import find_local
from opdlab_evaluators.programs import pool
from opdlab_evaluators.sandbox import command

OWN = os.environ.get("OPDLAB_DATA")


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
    assert f"problem {question_id('0?')} judges its own reference answer no_answer" in result.output


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
    assert (
        "humaneval: its answers were not graded: bubblewrap (bwrap) was not found" in result.output
    )


def graded(*arguments):
    """The exit code of `data check --grade`, and what it prints, each row's blanks as one."""
    benchmark_module._checked.cache_clear()
    result = CliRunner().invoke(app, ["data", "check", "--grade", *arguments])
    return result.exit_code, " ".join(result.output.split())


def test_grading_counts_every_kind_of_answer_and_its_verdicts(folder):
    write(folder)
    code, said = graded("hmmt_feb_2026")
    assert code == 0, said
    assert f"33 of 33 none {33 * len(REWRITTEN)} of {33 * len(REWRITTEN)} 33 of 33 66 of 66" in said
    assert "4 of 4 none 20 of 20 4 of 4 8 of 8" in graded("hmmt_feb_2026", "--limit", "4")[1]


@pytest.mark.parametrize(
    ("replacement", "said"),
    [
        (lambda gold, answer: True, "judges another problem's reference answer correct"),
        (lambda gold, answer: bool(answer.strip()), "judges a trivial answer correct"),
        (lambda gold, answer: answer.startswith("The answer is"), "judges its rewritten"),
    ],
)
def test_a_grader_that_is_wrong_on_the_data_fails_the_check(folder, monkeypatch, replacement, said):
    def grade_all(self, answers, on_graded=None):
        right = [replacement(problem.gold, answer) for problem, answer in answers]
        return [Verdict("correct" if one else "wrong") for one in right]

    write(folder)
    monkeypatch.setattr(MathBenchmark, "grade_all", grade_all)
    code, output = graded("hmmt_feb_2026", "--limit", "5")
    assert (code, said in output) == (1, True), output
    assert "more of this kind" in output


def test_a_worked_solution_with_another_answer_fails_the_check(folder):
    rows = [
        {"problem": f"{n}?", "answer": n, "solution": f"It is \\boxed{{{n}}}."} for n in range(500)
    ]
    rows[7]["solution"] = "It is \\boxed{8}."
    (folder / "math_500.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, said = graded("math_500")
    assert code == 1
    assert "499 of 500" in said
    assert "judges its authors' solution wrong" in said


@pytest.mark.parametrize("name", ROWS)
def test_programs_that_solve_nothing_are_wrong(folder, name):
    need_sandbox()
    write_programs(folder, name)
    code, said = graded(name, "--limit", "3")
    assert code == 0, said
    others = "none none none none" if name == "livecodebench" else "3 of 3 none none 3 of 3"
    assert f"{others} 18 of 18" in said


def test_a_test_that_a_trivial_program_passes_fails_the_check(folder):
    need_sandbox()
    write_programs(folder, "humaneval")
    rows = [json.loads(line) for line in (folder / "humaneval.jsonl").read_text().splitlines()]
    rows[1]["test"] = "def check(candidate):\n    assert candidate([1]) or True\n"
    (folder / "humaneval.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, said = graded("humaneval", "--limit", "3")
    assert code == 1
    assert "HumanEval/1 judges another problem's reference answer correct" in said
    assert "HumanEval/1 judges a trivial answer correct" in said
    problem = HumanEval().problems()[1]
    assert HumanEval().known_fault(problem) is None


def test_a_known_fault_of_the_data_is_told_and_fails_no_check(folder):
    need_sandbox()
    rows = [mbpp(number) for number in range(500)]
    tests = ["(root) == False", "(root1) == True", "(root2) == False "]
    rows[367] |= {
        "test_list": [f"assert is_tree_balanced{test}" for test in tests],
        "code": "def is_tree_balanced(root): return True",
    }
    (folder / "mbpp.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = CliRunner().invoke(app, ["data", "check", "mbpp"])
    assert result.exit_code == 0, result.output
    assert "499 of 499" in result.output
    assert "mbpp: problem 367: known fault: this copy lacks the set-up code" in result.output


def test_a_function_of_the_preamble_is_no_solution(folder):
    need_sandbox()
    write_programs(folder, "livecodebench")
    benchmark = LiveCodeBench(limit=2)
    problem = benchmark.problems()[1]
    assert problem.gold["function"] == "add"
    tried = {"x = 1": "wrong", "def add(a, b): return a + b": "correct"}
    assert [benchmark.grade(problem, fenced(one)).status for one in tried] == list(tried.values())


def test_real_data_are_graded_as_they_must_be(folder, monkeypatch):
    """A few problems of every benchmark that is at hand; `.ci/run` grades them all."""
    need_sandbox()
    monkeypatch.setenv("OPDLAB_DATA", OWN or str(folder))
    kinds = {
        name: plugins.load(plugins.EVALUATORS, name)()
        for name in plugins.names("opdlab.evaluators")
        if name != "dataset"  # it has no data of its own
    }
    sources = {name: one.source for name, one in kinds.items() if hasattr(one, "source")}
    files = own_data({name: find_local(source, None) for name, source in sources.items()})
    code, said = graded(*files, "--limit", "12")
    assert code == 0, said
