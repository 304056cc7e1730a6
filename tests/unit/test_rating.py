"""How hard prompts are for the student: measured once, resumed, written as a column, filtered by."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from opdlab.configuration.loader import load_experiment
from opdlab.datafiles import iter_rows, json_line
from opdlab.errors import ConfigError, DataError, ResumeError
from opdlab.evaluation import rating, store
from opdlab.evaluation.rating import rate, rates_of
from opdlab.files.claim import claimed
from opdlab.modelling.models import load_tokenizer
from opdlab.prompts.drawn import open_dataset
from opdlab.records import Sample

ROWS = [{"q": f"M{n}a+3b+2c-1=", "a": str((n + 4) % 10), "n": n} for n in range(9)]


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    prompts = {"type": "dataset", "path": "a.jsonl", "column": "q", "answer_column": "a"}
    found = {
        "name": "mine",
        "student": {"path": "embedded:student"},
        "teacher": {"path": "embedded:teacher"},
        "prompts": {**prompts, "grader": "numeric", "where": "n < 6"},
        "rollout": {"type": "cached", "max_new_tokens": 32},
        "method": {"type": "opd"},
        "training": {"steps": 1, "threads": 1, "accelerator": "cpu"},
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(found))
    return str(tmp_path / "e.yaml")


def test_pass_rates_are_those_of_the_stored_answers_and_nothing_is_drawn_twice(
    tmp_path: Path, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "rated.jsonl"
    rate(experiment, [], str(target), 4)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [{key: row[key] for key in ("q", "a", "n")} for row in rows] == ROWS[:6]
    samples = store.read_samples(tmp_path / "rated.samples")
    assert len(samples) == 24
    by_row = {int(name) - 1: value for name, value in rates_of(samples).items()}
    assert [row["pass_rate"] for row in rows] == [by_row[n] for n in range(6)]
    for sample in samples:
        gold = ROWS[int(sample.problem) - 1]["a"]
        assert (sample.status == "correct") == (sample.answer == gold)
    written = target.read_text()

    def never(*given: object) -> None:
        raise AssertionError("an answer was drawn again")

    monkeypatch.setattr("opdlab.evaluation.subjects.Subject.answer", never)
    rate(experiment, [], str(target), 4)
    assert target.read_text() == written
    low, high = sorted({row["pass_rate"] for row in rows})[0], 1.0
    config = load_experiment(
        experiment,
        [f"prompts.path={target}", f"prompts.where=pass_rate > {low} and pass_rate <= {high}"],
    )
    assert config.prompts.type == "dataset"
    left = [row["q"] for row in rows if row["pass_rate"] > low]
    if left:
        source = open_dataset(config.prompts, load_tokenizer("embedded:student"), 0).source
        assert source.texts == left


def test_no_file_of_somebody_elses_is_written_over(tmp_path: Path, experiment: str) -> None:
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for name, said in (
        ("a.jsonl", "another file, without pass_rate"),
        ("other.jsonl", "another file, without pass_rate"),
        ("rated.csv", "ends in .jsonl"),
    ):
        with pytest.raises(ConfigError, match=said):
            rate(experiment, [], str(tmp_path / name), 4)
    (tmp_path / "a.jsonl").write_text(json.dumps({**ROWS[0], "pass_rate": 0.5}) + "\n")
    with pytest.raises(ConfigError, match="the prompts themselves"):
        rate(experiment, [], str(tmp_path / "a.jsonl"), 4)


def test_rows_are_written_as_they_were_or_refused_before_anything_is_sampled(
    tmp_path: Path, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    when = datetime.datetime(2024, 1, 1, 12)
    more = {
        "price": Decimal("0.1000000000000000055"),
        "when": when,
        "bad": "\ud800",
        "deep": {"n": [Decimal(10**30)]},
    }
    line = json_line({**ROWS[0], **more})
    (tmp_path / "b.jsonl").write_text(line)
    (row,) = iter_rows(tmp_path / "b.jsonl")
    assert row == {**ROWS[0], **more, "when": when.isoformat()}
    assert '"price": 0.1000000000000000055' in line
    picture = {"q": [row["q"] for row in ROWS], "a": [row["a"] for row in ROWS]}
    pq.write_table(
        pa.table({**picture, "n": range(9), "image": [None] * 8 + [b"\xff"]}),
        tmp_path / "a.parquet",
    )

    def never(*given: object) -> None:
        raise AssertionError("something was sampled")

    monkeypatch.setattr("opdlab.evaluation.subjects.Subject.answer", never)
    with pytest.raises(DataError, match=r"row 9: column 'image' holds a value of type bytes"):
        rate(
            experiment,
            ["prompts.path=" + str(tmp_path / "a.parquet")],
            str(tmp_path / "r.jsonl"),
            2,
        )


def test_rates_are_not_written_beside_rows_that_came_meanwhile(
    tmp_path: Path, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded = rating.grade_missing
    file, target = tmp_path / "a.jsonl", tmp_path / "rated.jsonl"
    before = file.read_text()

    def and_insert(*given: Any) -> None:
        graded(*given)
        file.write_text(json.dumps({**ROWS[8], "n": 99}) + "\n" + before)

    (tmp_path / "rated.samples").mkdir()
    with claimed(tmp_path / "rated.samples"), pytest.raises(ResumeError, match="is in use by"):
        rate(experiment, [], str(target), 1)
    monkeypatch.setattr(rating, "grade_missing", and_insert)
    with pytest.raises(DataError, match="changed while its prompts were answered"):
        rate(experiment, ["rollout.max_new_tokens=2"], str(target), 1)
    assert not target.exists()
    file.write_text(before)
    monkeypatch.setattr(rating, "grade_missing", graded)
    rate(experiment, ["rollout.max_new_tokens=2"], str(target), 1)
    assert len(target.read_text().splitlines()) == 6


def test_prompts_without_a_grader_have_no_pass_rate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts.answer_column and prompts.grader"):
        rate("quickstart", [], str(tmp_path / "x.jsonl"), 2)


def test_an_answer_that_could_not_be_graded_counts_for_nothing() -> None:
    base = {"checkpoint": "m", "benchmark": "b", "seed": 0, "prompt": "", "completion": ""}
    base |= {
        "tokens": 1,
        "stop": "eos",
        "answer": None,
        "reason": "",
        "grader": "g",
        "protocol": "",
    }
    given = [("1", "correct"), ("1", "grader_error"), ("2", "grader_error"), ("3", "wrong")]
    samples = [Sample(problem=p, index=n, status=s, **base) for n, (p, s) in enumerate(given)]
    assert rating.rates_of(samples) == {"1": 1.0, "3": 0.0}
