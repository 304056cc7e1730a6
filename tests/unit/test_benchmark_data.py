"""Where a benchmark's rows come from, and that changed or missing data are noticed at once."""

import gzip
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opdlab.errors import DataError
from opdlab.records import Problem, Verdict
from opdlab_evaluators.benchmarks import benchmark as benchmark_module
from opdlab_evaluators.benchmarks.benchmark import Benchmark, hashes, pick
from opdlab_evaluators.data.first_use import ledger
from opdlab_evaluators.data.source import Source

ROWS = [{"problem": "1+1?", "answer": 2}, {"problem": "2+2?", "answer": 4}]
SUMS = Source("sums", "nobody/sums", count=2, aliases=("sums_v2",))


@dataclass(frozen=True)
class Sums(Benchmark):
    """Two sums."""

    source: ClassVar[Source] = SUMS
    grader_version = "1"

    def normalise(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        question = pick(row, ("problem", "question"), "sums", number)
        gold = str(int(pick(row, ("answer",), "sums", number)))
        return {"id": str(row.get("id") or number), "question": question, "gold": gold}

    def problem(self, fields: Mapping[str, Any]) -> Problem:
        return Problem("sums", fields["id"], fields["question"], fields["gold"])

    def grade(self, problem: Problem, completion: str) -> Verdict:
        return Verdict("correct" if completion == problem.gold else "wrong")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPDLAB_DATA", raising=False)
    benchmark_module._checked.cache_clear()


def write_jsonl(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def as_csv(folder, rows):
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / "sums.csv").write_text("\n".join(lines))


def as_gzip(folder, rows):
    (folder / "sums.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


FORMS = {
    "jsonl": lambda folder, rows: write_jsonl(folder / "sums.jsonl", rows),
    "alias": lambda folder, rows: write_jsonl(folder / "sums_v2.jsonl", rows),
    "json": lambda folder, rows: (folder / "sums.json").write_text(json.dumps(rows)),
    "gzip": as_gzip,
    "csv": as_csv,
    "parquet": lambda folder, rows: datasets.Dataset.from_list(rows).to_parquet(
        folder / "sums.parquet"
    ),
    "folder": lambda folder, rows: write_jsonl(folder / "sums" / "test.jsonl", rows),
    "saved": lambda folder, rows: datasets.Dataset.from_list(rows).save_to_disk(folder / "sums"),
    "saved splits": lambda folder, rows: datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows[:1]), test=datasets.Dataset.from_list(rows)
    ).save_to_disk(folder / "sums"),
}


@pytest.mark.parametrize("form", FORMS)
def test_local_copies_of_every_form_give_the_same_problems_and_hash(tmp_path, monkeypatch, form):
    FORMS[form](tmp_path, ROWS)
    expected = [Problem("sums", "1", "1+1?", "2"), Problem("sums", "2", "2+2?", "4")]
    assert Sums(path=str(tmp_path)).problems() == expected
    monkeypatch.setenv("OPDLAB_DATA", str(tmp_path))
    assert Sums().problems() == expected
    assert (
        Sums().data().content
        == hashes([{"question": "1+1?", "gold": "2"}, {"question": "2+2?", "gold": "4"}])[0]
    )


def test_offline_and_missing_says_at_once_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(DataError, match=r"sums: no local copy.*put sums.jsonl \(or .json"):
        Sums().problems()
    assert time.monotonic() - started < 5
    monkeypatch.setenv("OPDLAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"into {tmp_path}"):
        Sums().problems()
    with pytest.raises(DataError, match=r"path .*gone.jsonl does not exist"):
        Sums(path=str(tmp_path / "gone.jsonl")).problems()


def test_a_copy_with_problems_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds 1 problems, not 2"):
        Sums(path=write_jsonl(tmp_path / "sums.jsonl", ROWS[:1])).problems()


def test_a_row_without_its_answer_is_named(tmp_path):
    rows = [ROWS[0], {"problem": "2+2?", "answer": ""}]
    with pytest.raises(DataError, match="row 2 has nothing in answer; it has the columns problem"):
        Sums(path=write_jsonl(tmp_path / "a.jsonl", rows)).problems()


def test_a_file_that_is_no_data_is_refused_with_its_name(tmp_path):
    (tmp_path / "sums.jsonl").write_text("{not json")
    with pytest.raises(DataError, match=r"sums.jsonl cannot be read"):
        Sums(path=str(tmp_path)).problems()
    (tmp_path / "sums.pdf").write_text("")
    with pytest.raises(DataError, match="no known format"):
        Sums(path=str(tmp_path / "sums.pdf")).problems()


def test_a_change_since_the_first_use_is_noticed_and_can_be_accepted(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl")
    assert "recorded on this first use" in Sums(path=path).data().standing
    benchmark_module._checked.cache_clear()
    assert "as first used on" in Sums(path=path).data().standing
    write_jsonl(tmp_path / "sums.jsonl", [ROWS[0], {"problem": "2+2?", "answer": 5}])
    benchmark_module._checked.cache_clear()
    with pytest.raises(DataError, match="has changed since it was first used") as caught:
        Sums(path=path).problems()
    assert str(ledger()) in str(caught.value)
    ledger().unlink()
    assert Sums(path=path).problems()[1].gold == "5"


def again(path):
    """What a new process says of the data."""
    benchmark_module._checked.cache_clear()
    return Sums(path=path).data().standing


@pytest.mark.parametrize("changed", ["file", "link"])
def test_a_file_is_remembered_by_every_name_that_leads_to_it(tmp_path, changed):
    path = tmp_path / "data" / "sums.jsonl"
    write_jsonl(path)
    (tmp_path / "link").symlink_to(path.parent)
    (tmp_path / "link.jsonl").symlink_to(path)
    others = [tmp_path / "link" / "sums.jsonl", tmp_path / "link.jsonl"]
    others.append(tmp_path / "data" / ".." / "link" / ".." / "data" / "sums.jsonl")
    assert "recorded on this first use" in Sums(path=str(path)).data().standing
    for each in others:
        assert "as first used on" in Sums(path=str(each)).data().standing
    benchmark_module._checked.cache_clear()
    other = [ROWS[0], {"problem": "3+3?", "answer": 6}]
    if changed == "file":
        write_jsonl(path, other)
    else:
        others[1].unlink()
        others[1].symlink_to(write_jsonl(tmp_path / "other.jsonl", other))
    for each in [path, *others] if changed == "file" else [others[1]]:
        with pytest.raises(DataError, match="has changed since it was first used"):
            Sums(path=str(each)).data()


def test_known_answers_are_checked_and_a_change_of_a_known_copy_is_seen(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "sums.jsonl")
    report = Sums(path=path).data()
    monkeypatch.setattr(
        Sums, "source", replace(SUMS, answers=report.answers, contents=(report.content,))
    )
    ledger().unlink()
    assert again(path) == "known copy"
    # Other wording, other order: the answers are still those that are known.
    reworded = [{"question": "Two and two?", "answer": "4"}, {"question": "1+1?", "answer": "02"}]
    other = Sums(path=write_jsonl(tmp_path / "other.jsonl", reworded)).data()
    assert other.standing.startswith("known answers")
    write_jsonl(tmp_path / "sums.jsonl", reworded)
    with pytest.raises(DataError, match="has changed since it was first used"):
        again(path)
    wrong = write_jsonl(tmp_path / "wrong.jsonl", [ROWS[0], {"problem": "2+2?", "answer": 5}])
    with pytest.raises(DataError, match="its reference answers have the hash"):
        Sums(path=wrong).problems()


def test_a_copy_that_becomes_a_known_one_needs_no_hand_at_the_record(tmp_path, monkeypatch):
    content = Sums(path=write_jsonl(tmp_path / "a.jsonl")).data().content
    monkeypatch.setattr(Sums, "source", replace(SUMS, contents=(content,)))
    path = write_jsonl(tmp_path / "sums.jsonl", [ROWS[0], {"problem": "2+2?", "answer": 5}])
    assert "first use" in again(path)
    write_jsonl(tmp_path / "sums.jsonl")
    assert again(path) == "known copy"
    assert again(path) == "known copy"


def test_other_contents_of_the_same_date_are_other_contents(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl")
    os.utime(path, (10**9, 10**9))
    assert "first use" in again(path)
    write_jsonl(tmp_path / "sums.jsonl", [ROWS[0], {"problem": "2+2?", "answer": 5}])
    os.utime(path, (10**9, 10**9))
    with pytest.raises(DataError, match="has changed"):
        again(path)


def test_a_record_of_a_newer_version_is_read_or_refused_in_words(tmp_path):
    path = write_jsonl(tmp_path / "sums.jsonl")
    again(path)
    entries = json.loads(ledger().read_text())
    (key,) = entries
    ledger().write_text(json.dumps({key: entries[key] | {"algorithm": "new"}}))
    assert "as first used on" in again(path)
    for odd in ({"digest": "new"}, [1], None, entries[key] | {"count": "2"}):
        ledger().write_text(json.dumps({key: odd}))
        with pytest.raises(
            DataError, match=r"has an entry 'sums .*' that this version cannot read"
        ):
            again(path)
    ledger().write_text("[]")
    with pytest.raises(DataError, match="holds a list instead of entries: move it away"):
        again(path)


def test_a_revision_of_the_hub_beside_local_data_is_refused(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "sums.jsonl")
    with pytest.raises(DataError, match="remove either `revision` or path"):
        Sums(path=str(tmp_path), revision="main").problems()
    monkeypatch.setenv("OPDLAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="remove either `revision` or OPDLAB_DATA"):
        Sums(revision="main").problems()


def test_a_folder_that_holds_other_benchmarks_is_not_taken_for_the_data(tmp_path):
    write_jsonl(tmp_path / "aime_2025.jsonl")
    with pytest.raises(DataError, match=r"sums: the folder .* holds no file of this name"):
        Sums(path=str(tmp_path)).problems()
    (tmp_path / "sums" / ".cache").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no file of this name"):
        Sums(path=str(tmp_path)).problems()
    write_jsonl(tmp_path / "test.jsonl")
    assert len(Sums(path=str(tmp_path)).problems()) == 2
    write_jsonl(tmp_path / "sums.jsonl")
    benchmark_module._checked.cache_clear()
    assert Sums(path=str(tmp_path)).data().origin == str(tmp_path / "sums.jsonl")


def test_a_folder_of_the_name_pattern_of_another_is_itself(tmp_path):
    write_jsonl(tmp_path / "set[1]" / "sums.jsonl")
    write_jsonl(tmp_path / "set1" / "sums.jsonl", [{"problem": f"{n}?", "answer": 9} for n in "ab"])
    assert [p.gold for p in Sums(path=str(tmp_path / "set[1]")).problems()] == ["2", "4"]


def test_a_problem_that_stands_there_twice_is_named(tmp_path):
    rows = [{"id": "a", **ROWS[0]}, {"id": "b", **ROWS[0]}]
    with pytest.raises(DataError, match=r"sums.jsonl holds a problem twice: rows 1 and 2"):
        Sums(path=write_jsonl(tmp_path / "sums.jsonl", rows)).problems()


def test_bytes_that_are_no_text_are_told_with_row_and_column(tmp_path):
    table = pa.table({"problem": [b"1+1?", b"\xff"], "answer": [2, 4]})
    pq.write_table(table, tmp_path / "sums.parquet")
    with pytest.raises(DataError, match=r"sums.parquet: sums: row 2 has bytes in problem"):
        Sums(path=str(tmp_path)).problems()
    path = write_jsonl(tmp_path / "torn.jsonl", [ROWS[0], {**ROWS[1], "problem": "\ud800?"}])
    with pytest.raises(DataError, match=r"torn.jsonl: sums: row 2 has half a character in problem"):
        Sums(path=path).problems()


def test_two_rows_with_one_id_are_refused(tmp_path):
    rows = [{"id": "a", **row} for row in ROWS]
    with pytest.raises(DataError, match="uses a problem's id twice"):
        Sums(path=write_jsonl(tmp_path / "sums.jsonl", rows)).problems()


def test_a_limit_shows_in_the_name_and_still_checks_the_whole_copy(tmp_path):
    short = Sums(path=write_jsonl(tmp_path / "sums.jsonl"), limit=1)
    assert [(p.benchmark, p.id) for p in short.problems()] == [("sums/first-1", "1")]
    assert short.data().count == 2
    assert {p.benchmark for p in replace(short, limit=2).problems()} == {"sums"}
    part = write_jsonl(tmp_path / "part.jsonl", ROWS[:1])
    with pytest.raises(DataError, match=r"no whole copy of the benchmark$"):
        Sums(path=part, limit=1).problems()


def test_ids_and_the_first_problems_do_not_depend_on_the_order_of_the_rows(tmp_path):
    rows = [{"id": f"q{n}", "problem": f"{n}+0?", "answer": n} for n in (10, 2)]
    one, other = (write_jsonl(tmp_path / f"{n}.jsonl", rows[::n]) for n in (1, -1))
    assert Sums(path=one).problems() == Sums(path=other).problems()
    assert [p.id for p in Sums(path=other, limit=1).problems()] == ["q2"]


def test_a_first_use_that_cannot_be_recorded_warns(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="could not be recorded"):
        Sums(path=write_jsonl(tmp_path / "sums.jsonl")).problems()
