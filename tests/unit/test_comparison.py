"""Runs side by side: like beside like, and what cannot be compared is said instead of shown."""

import shutil
from pathlib import Path

import pytest
from store_rows import drawn, fill, graded, kept

from opdlab.console.terminal import console
from opdlab.errors import DataError
from opdlab.evaluation import comparison
from opdlab.evaluation.comparison import (
    find_run,
    last_sets,
    own_table,
    read_run,
    remarks,
    unanswered,
)
from opdlab.evaluation.side_by_side import comparable, compare
from opdlab.records import Grade, Refusal

RIGHT, HALF = {"p0": "11", "p1": "11"}, {"p0": "10", "p1": "01"}


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(console, "width", 120)
    return tmp_path


def run(output: Path, name: str, scores: dict[str, dict[str, str]], **asked) -> Path:
    """A run with these benchmarks, measured in this order."""
    for benchmark, letters in scores.items():
        fill(kept(output / name / "samples", name, benchmark=benchmark, **asked), letters)
    return output / name


def test_benchmarks_that_one_run_measured_in_another_order_stand_beside_their_own(output, capsys):
    run(output, "a", {"math": RIGHT, "code": HALF})
    run(output, "b", {"code": HALF, "math": RIGHT})
    compare(["a", "b"], str(output)).show()
    lines = capsys.readouterr().out.splitlines()
    for name, score in (("math", "100.0"), ("code", "50.0")):
        (row,) = [i for i, line in enumerate(lines) if line.strip().startswith(f"{name} n=2")]
        assert lines[row + 1].count(score) == 2
    assert sum("+0.0" in line for line in lines) == 3


def test_a_benchmark_not_measured_by_all_in_one_way_is_left_out_and_named(output, capsys):
    run(output, "a", {"math": RIGHT, "code": HALF})
    run(output, "b", {"math": RIGHT})
    run(output, "b", {"code": HALF}, temperature=0.5)
    run(output, "b", {"more": HALF})
    compare(["a", "b"], str(output)).show()
    said = capsys.readouterr().out
    assert "code (measured in different ways: temperature 1.0 and 0.5)" in said
    assert "more (not measured by a)" in said
    assert "math n=2" in said
    assert "code n=2" not in said


def test_nothing_in_common_is_refused_with_the_reason(output):
    run(output, "a", {"math": RIGHT})
    run(output, "b", {"math": RIGHT}, grader="grader-2")
    with pytest.raises(DataError, match=r"math \(measured in different ways: grader grader-1 and"):
        comparable({name: last_sets(output / name) for name in "ab"})


def test_a_run_beside_itself_is_refused(output):
    run(output, "a", {"math": RIGHT})
    for runs in (["a", "a"], ["a,a", "a,a"]):
        with pytest.raises(DataError, match="a is named twice"):
            compare(runs, str(output))


def test_the_folder_that_an_evaluation_prints_is_found_too(output):
    folder = run(output, "a", {"math": RIGHT})
    assert find_run(str(folder / "samples"), output) == find_run("a/samples", output) == folder


def test_a_score_is_not_shown_without_what_it_must_be_read_with(output):
    one = kept(output / "a" / "samples", "a", benchmark="math")
    rows = [("p0", 0, "length"), ("p0", 1, "eos"), ("p1", 0, "eos"), ("p1", 1, "eos")]
    one.add_generations([drawn(problem, i, stop=stop, tokens=80) for problem, i, stop in rows])
    grades = [g for g in graded({"p0": "11", "p1": "10"}) if (g.problem, g.index) != ("p1", 0)]
    one.add_grades([*grades, Grade("p1", 0, "grader-1", "sandbox_error", None, "gone")])
    samples = read_run(output / "a")
    assert list(remarks({"a": samples})) == [
        "a on math: 1 of 4 answers could not be judged (1 sandbox_error), so only bounds are known. "
        "`opdlab regrade` tries again.",
        "a: answers cut at the length limit: 25 % on math.",
    ]
    with console.capture() as shown:
        console.print(own_table("a", samples))
    (row,) = [line for line in shown.get().splitlines() if line.strip().startswith("math")]
    assert row.split() == ["math", "2", "50", "to", "75?", "50", "to", "100?", "25", "80"]


def test_what_a_server_refused_is_shown_as_bounds_until_it_is_answered(output):
    one = kept(output / "a" / "samples", "a", benchmark="math")
    one.add_generations([drawn("p0", 0), drawn("p0", 1), drawn("p1", 0)])
    one.add_grades(
        [g for g in graded({"p0": "11", "p1": "10"}) if (g.problem, g.index) != ("p1", 1)]
    )
    for _ in range(2):
        one.add_refusals([Refusal("p1", 1, 7, "question p1", "too long")])
    assert len(list(one.path.glob("refusals-*"))) == 1
    samples = read_run(output / "a")
    assert [sample.status for sample in samples] == ["correct"] * 3 + ["server_error"]
    (told,) = remarks({"a": samples})
    assert "a on math: 1 of 4 answers are missing" in told
    assert "--resume" in told
    assert unanswered(output / "a")
    one.add_generations([drawn("p1", 1)])
    assert not unanswered(output / "a")
    with pytest.raises(DataError, match="3 of 4 samples are drawn and graded"):
        read_run(output / "a")
    one.add_grades(graded({"p1": "10"}))
    assert [sample.status for sample in read_run(output / "a")] == ["correct"] * 3 + ["wrong"]


def test_summaries_of_different_benchmarks_never_share_a_row(output):
    run(output, "a", {"math": RIGHT})
    run(output, "b", {"code": RIGHT})
    with pytest.raises(DataError, match=r"different benchmarks \(a: math; b: code\)"):
        comparison.score_table({name: read_run(output / name) for name in "ab"})


def test_a_comma_in_the_name_of_a_folder_joins_no_seeds(output: Path, capsys) -> None:
    for name in ("a,b/x", "a,b/y"):
        run(output, name, {"math": RIGHT})
    compare([str(output / "a,b" / "x"), "a,b/y"], str(output)).show()
    assert "y - x" in capsys.readouterr().out


def test_a_run_under_two_names_is_not_compared_with_itself(output: Path) -> None:
    folder = run(output, "g/a", {"math": RIGHT})
    (output / "link").symlink_to(folder)
    shutil.copytree(folder, output / "copied")
    for other in (str(folder), "g/../g/a", "link", "copied"):
        with pytest.raises(DataError, match=r"a run cannot be compared with itself"):
            compare(["g/a", other], str(output))
