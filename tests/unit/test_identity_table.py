"""Every field of identity against every command that reads it: a change is seen, named or drawn anew."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import contents, draws, subject, write_model, write_run
from store_rows import asked, fill, kept

from opdlab.configuration.loader import load_experiment
from opdlab.diagnosis.work import Settings, Work, what, what_is_asked
from opdlab.errors import DataError, ResumeError
from opdlab.evaluation.side_by_side import comparable, compare
from opdlab.evaluation.store import sample_sets
from opdlab.identity import Execution, Measurement, ModelId
from opdlab.modelling import models
from opdlab.records import Verdict
from opdlab_dashboards.pages.report import report
from opdlab_dashboards.pages.samples import in_common, samples
from opdlab_dashboards.results.board import build
from opdlab_dashboards.results.measured import find

BENCHMARK = "math/short"
COMPARED: dict[str, Any] = {
    "data": "others",
    "template": "auto",
    "temperature": 0.5,
    "top_p": 0.5,
    "max_new_tokens": 9,
    "grader": "grader-2",
    "engine": {"type": "Mine", "top_k": 5},
    "samples": 4,
}
"""What two scores must share to be compared."""
DRAWN: dict[str, Any] = {"seed": 9, "shown": "with another date"}
"""What decides which answers are drawn, and no score's meaning."""
ANSWERED: dict[str, Any] = {
    "weights": "9" * 64,
    "tokenizer": "another",
    "template": "another",
    "ends": (2, 3),
    "config": "another",
    "entries": 20,
    "server": {"model": "m", "fingerprint": "f"},
}
"""Who answers."""
SHOWN = {"name", "trained_by"}
RECORDED = {
    *("model", "role", "benchmark", "evaluator", "problems", "software"),
    *("step", "execution", "label", "id", "number", "time"),
}
"""Names and places, and what another field decides; see `Measurement`."""


def test_the_table_has_every_field() -> None:
    mine = {one.name for one in fields(Measurement)}
    assert mine == {*COMPARED, *DRAWN, "subject", *RECORDED}
    assert {one.name for one in fields(ModelId)} == {*ANSWERED, *SHOWN}


def write(folder: Path, seed: int = 0, **of: Any) -> Path:
    k = of.pop("samples", 8)
    return write_model(folder, {BENCHMARK: draws(0.5, 12, k, seed)}, **of)


@pytest.fixture
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A model, and another one measured with one field changed."""
    write(tmp_path / "evaluations" / "a")
    write(tmp_path / "evaluations" / "b", 1, weights="2" * 64, **dict([request.param]))
    return tmp_path / "evaluations"


each_compared = pytest.mark.parametrize("two", COMPARED.items(), ids=list(COMPARED), indirect=True)


@each_compared
def test_no_command_compares_what_was_measured_in_another_way(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    field = request.node.callspec.id
    word = {"engine": "options"}.get(field, field)
    with pytest.raises(DataError, match=rf"measured in different ways: .*{word} "):
        compare(["a", "b"], str(two))
    with pytest.raises(DataError, match="measured in different ways"):
        report(["a", "b"], str(two), str(tmp_path / "r.html"))
    boards = build(find(two)).boards
    assert [[row.name for row in board.rows] for board in boards] in (
        [["a"], ["b"]],
        [["b"], ["a"]],
    )
    samples(["a", "b"], str(two), str(tmp_path / "s.html"))
    assert f"measured in different ways: {word} " in (tmp_path / "s.html").read_text()


@pytest.mark.parametrize("field", sorted(COMPARED.keys() - {"samples", "grader"} | DRAWN.keys()))
def test_an_evaluation_of_what_was_asked_otherwise_draws_anew(tmp_path: Path, field: str) -> None:
    fill(kept(tmp_path), {"p0": "10", "p1": "n1"})
    assert kept(tmp_path, **{field: {**COMPARED, **DRAWN}[field]}).generations() == {}
    assert len(sample_sets(tmp_path)) == 1, "what was asked for last counts"


@pytest.mark.parametrize("field", ANSWERED)
def test_another_model_under_one_name_is_another_row_and_other_samples(
    tmp_path: Path, field: str
) -> None:
    first, other = subject("1" * 64), subject(**{"weights": "1" * 64, field: ANSWERED[field]})
    fill(kept(tmp_path / "store", subject=first), {"p0": "10", "p1": "n1"})
    assert kept(tmp_path / "store", subject=other).generations() == {}
    for place, who in (("one", first), ("two", other)):
        write_model(tmp_path / "at" / place / "m", {BENCHMARK: draws(0.5, 12)}, subject=who)
    (board,) = build(find(tmp_path / "at")).boards
    assert len({row.name for row in board.rows}) == 2
    write_model(tmp_path / "at" / "one" / "m", {"math/long": draws(0.9, 12)}, subject=other)
    (only,) = in_common([tmp_path / "at" / "one" / "m"], ["m"]).values()
    assert [one.asked.benchmark for one in only] == ["math/long"], "never two models as one"


def test_names_decide_nothing_about_a_model() -> None:
    one = subject("1" * 64)
    assert replace(one, name="x", trained_by="y").key == one.key


TRAINED: dict[str, Any] = {
    "student": contents("student") | {"weights_sha256": "9" * 64},
    "teacher": contents("teacher") | {"template_sha256": "9" * 64},
    "specialists": [contents("teacher")],
    "prompts": {"sha256": "others", "count": 2},
    "trial": {"study": "s", "number": 1, "parameters": {"a": 1}},
}
FREE = {
    *("group", "label", "experiment", "run", "code", "environment", "id", "started"),
    *("method", "seed", "settings"),
}
"""Names, places, what is only said; and what the loader compares key by key before."""


def test_the_table_of_trainings_has_every_field() -> None:
    assert {one.name for one in fields(Execution)} == {*TRAINED, *FREE}


@pytest.mark.parametrize("field", TRAINED)
def test_no_training_goes_on_with_what_it_did_not_begin_with(tmp_path: Path, field: str) -> None:
    before = Execution.read(write_run(tmp_path / "x-001" / "opd", {BENCHMARK: draws(0.5, 12)}))
    now = replace(before, **{field: TRAINED[field]})
    with pytest.raises(ResumeError, match=field):
        now.begun_in(tmp_path / "x-001" / "opd")
    seen = now.system != before.system
    assert seen is (field != "trial"), "a trial is told by its settings"


def test_runs_of_two_ways_have_nothing_in_common_but_the_rest(tmp_path: Path) -> None:
    both = {BENCHMARK: draws(0.5, 12), "math/long": draws(0.5, 12)}
    folders = [write_model(tmp_path / name, both) for name in "ab"]
    write_model(folders[1], {"math/long": draws(0.5, 12)}, temperature=0.5)
    chosen, said = comparable({f.name: sample_sets(f / "samples") for f in folders})
    assert [one.asked.benchmark for one in chosen["b"]] == [BENCHMARK]
    assert "math/long (measured in different ways: temperature 1.0 and 0.5)" in said


CHANGES = [
    "rollout.max_new_tokens=50",
    "teacher.path=embedded:student",
    "evaluation.benchmarks=[{type: math, level: long, limit: 3}, {type: math, level: short, limit: 3}]",
    "evaluation.benchmarks=[{type: math, level: short, limit: 4}]",
]


def test_a_diagnosis_takes_up_what_was_seen_in_the_same_way_alone(tmp_path: Path) -> None:
    few = Settings(problems=None, samples=1, cuts=2, bins=4, least=0.8)
    usual = [
        f"output={tmp_path}",
        "evaluation.benchmarks=[{type: math, level: short, limit: 3}, {type: math, level: long, limit: 3}]",
    ]
    begun = [Work.begin(load_experiment("quickstart", [*usual, *more]), few) for more in ([], [])]
    assert begun[0].folder == begun[1].folder
    places = {
        Work.begin(load_experiment("quickstart", [*usual, change]), few).folder
        for change in CHANGES
    }
    assert len(places | {begun[0].folder}) == len(CHANGES) + 1


def test_problems_are_known_by_their_order_and_as_a_model_reads_them() -> None:
    """What was seen of a problem is kept under its number."""
    changes = ["evaluation.benchmarks=[{type: math, level: short, limit: 4}]"]
    few = Settings(problems=None, samples=2, cuts=2, bins=4, least=0.8)
    listed = list(what_is_asked(load_experiment("quickstart", changes), few))
    tokenizer = models.load_tokenizer("embedded:student")
    plain = what(listed, tokenizer, "none")
    assert plain == what(listed, tokenizer, "none")
    assert what(listed[::-1], tokenizer, "none") != plain
    other = replace(listed[0], problem=replace(listed[0].problem, prompt="1+1="))
    assert what([other, *listed[1:]], tokenizer, "none") != plain


def test_grading_again_changes_the_grader_alone(tmp_path: Path) -> None:
    one = kept(tmp_path)
    other = asked(grader="grader-2")
    assert one.asked.draws == other.draws
    assert one.asked.protocol != other.protocol
    assert one.asked.asked == replace(
        other, model=one.asked.model, grader="grader-1", label=one.asked.label
    )


def test_a_run_given_by_two_spellings_is_not_set_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "runs" / "x-001" / "a", {BENCHMARK: np.ones((4, 2), int)})
    (tmp_path / "link").symlink_to(run)
    shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "r.html"
    report(["x-001/a"], "runs", str(page))
    alone = page.read_text()
    for other in ("x-001/a", "runs/x-001/a", str(run), "link", "copy"):
        with pytest.raises(DataError, match="are one run"):
            samples(["x-001/a", other], "runs", str(tmp_path / "s.html"))
        report(["x-001/a", other], "runs", str(page))
        assert page.read_text() == alone


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_samples_shows_all_of_both_runs_whichever_is_named_first(
    tmp_path: Path, order: str
) -> None:
    right = {"a": np.ones((4, 2), int), "b": np.arange(24).reshape(12, 2) < 8}
    for name, correct in right.items():
        write_model(tmp_path / name, {BENCHMARK: correct}, weights=name * 64)
    samples([str(tmp_path / name) for name in order], str(tmp_path), str(tmp_path / "s.html"))
    text = (tmp_path / "s.html").read_text()
    found = re.search(r'id="overview">(.*?)</script>', text)
    assert found
    (sheet,) = json.loads(found[1])["sheets"]
    marks = dict(zip(order, map("".join, sheet["marks"]), strict=True))
    verdict = str(Verdict.STATUSES.index("correct"))
    counts = {name: (one.count(verdict), sum(map(str.isdigit, one))) for name, one in marks.items()}
    assert counts == {"a": (8, 8), "b": (8, 24)}
