"""What was measured is known by records and contents, never by names, places or times of files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from run_folders import (
    WEIGHTS,
    asked,
    contents,
    draws,
    subject,
    write_model,
    write_reference,
    write_run,
    write_samples,
)
from store_rows import fill, kept

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment
from opdlab.configuration.server_settings import Server
from opdlab.errors import DataError, ResumeError
from opdlab.evaluation.measured import engine_of
from opdlab.evaluation.store import ask, read_samples, sample_sets
from opdlab.identity import EXECUTION, MEASUREMENTS, Execution, Measurement, learned, roles
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving.engine import OpenAIEngine
from opdlab_dashboards.pages import page_files, tables
from opdlab_dashboards.pages.leaderboard import gather
from opdlab_dashboards.pages.report import pairings, report
from opdlab_dashboards.pages.samples import in_common
from opdlab_dashboards.results import records
from opdlab_dashboards.results.board import build
from opdlab_dashboards.results.measured import find

SHORT, LONG = "math/short", "code/long"
WHOLE = {"p0": "10", "p1": "n1"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two executions with two seeds each, their references, and a model measured in two ways."""
    place = tmp_path / "runs"
    for number in (1, 2):
        group = place / f"try-00{number}"
        write_reference(group, "student", {SHORT: draws(0.2)})
        for seed in (0, 1):
            method = {"type": "lgr", "top_k": number}
            share = draws(0.4 + 0.1 * number, seed=10 * number + seed)
            write_run(group / f"lgr-{seed}", {SHORT: share}, seed=seed, method=method)
    write_model(place / "evaluations" / "other", {SHORT: draws(0.7)}, temperature=0.6)
    write_model(place / "evaluations" / "other", {SHORT: draws(0.6)})
    return place


def table(*places: Path) -> str:
    """Every table, and what the page shows."""
    board = gather([str(place) for place in places], places[0], [])
    ways = (records.as_csv, records.as_json, tables.markdown, page_files.content)
    return "\n".join(str(way(board)) for way in ways)


def copied(place: Path, to: Path) -> None:
    shutil.copytree(place, to, copy_function=shutil.copyfile)
    # As a copy that goes from file to file by their names backwards leaves them.
    for when, path in enumerate(sorted(to.rglob("*"), reverse=True)):
        os.utime(path, (1e9 + when, 1e9 + when))


def archived(place: Path, to: Path) -> None:
    shutil.unpack_archive(shutil.make_archive(str(to) + "-packed", "tar", place), to)


def renamed(place: Path, to: Path) -> None:
    copied(place, to)
    (to / "try-001").rename(to / "zz")
    (to / "try-002" / "lgr-0").rename(to / "try-002" / "teacher")
    (to / "evaluations" / "other").rename(to / "evaluations" / "model")


def linked(place: Path, to: Path) -> None:
    to.mkdir()
    for one in place.iterdir():
        (to / one.name).symlink_to(one)


def doubled(place: Path, to: Path) -> None:
    copied(place, to / "one")
    copied(place, to / "another")
    (to / "round").symlink_to(to)


def cut_short(place: Path, to: Path) -> None:
    """A copy that ended early stands before the whole one."""
    copied(place, to / "whole")
    copied(place, to / "again")
    for number, path in enumerate(sorted((to / "again").rglob("*.parquet"))):
        if number % 2:
            path.unlink()


def older(place: Path, to: Path) -> None:
    """A copy that was made before the last measurements were."""
    copied(place, to / "whole")
    copied(place, to / "again")
    for path in (to / "again").rglob(MEASUREMENTS):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: max(1, len(lines) - 1)]))


@pytest.mark.parametrize("way", [copied, archived, renamed, linked, doubled, cut_short, older])
def test_tables_are_the_same_of_copies_moved_renamed_packed_and_linked(
    runs: Path, tmp_path: Path, way: Callable[[Path, Path], None]
) -> None:
    expected = table(runs)
    assert expected.count("try/lgr") > 2
    way(runs, tmp_path / "elsewhere")
    assert table(tmp_path / "elsewhere") == expected
    assert table(tmp_path / "elsewhere", runs) == table(runs, tmp_path / "elsewhere") == expected


def test_two_users_results_are_one_table_in_whatever_order(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    (tmp_path / "bob").mkdir()
    for name, whose in (("try-001", "ann"), ("try-002", "bob"), ("evaluations", "ann")):
        copied(runs / name, tmp_path / whose / name)
    ways = [(tmp_path / "ann", tmp_path / "bob"), (tmp_path / "bob", tmp_path / "ann")]
    assert {table(*way) for way in ways} == {table(runs)}


def test_copies_that_went_on_apart_are_one_model(tmp_path: Path) -> None:
    write_model(tmp_path / "one" / "m", {SHORT: draws(0.5)})
    copied(tmp_path / "one", tmp_path / "two")
    write_model(tmp_path / "one" / "m", {LONG: draws(0.4)})
    write_model(tmp_path / "two" / "m", {"math/long": draws(0.3)})
    (board,) = build(find(tmp_path)).boards
    assert [list(row.cells) for row in board.rows] == [[LONG, "math/long", SHORT]]


def test_an_older_copy_brings_nothing_back_that_was_withdrawn(tmp_path: Path) -> None:
    write_model(tmp_path / "one" / "m", {SHORT: draws(0.5)})
    copied(tmp_path / "one", tmp_path / "two")
    (one,) = sample_sets(tmp_path / "one" / "m" / "samples")
    one.withdraw("drawn otherwise")
    for place in (tmp_path / "one", tmp_path):
        (found,) = find(place)
        (kept,) = found.sets
        assert {sample.status for sample in kept.samples()} == {"server_error"}


def test_a_page_of_copies_is_equal_to_the_byte(runs: Path, tmp_path: Path) -> None:
    renamed(runs, tmp_path / "elsewhere")
    texts = []
    for number, folder in enumerate((runs / "try-001", tmp_path / "elsewhere" / "zz")):
        report([str(folder)], str(tmp_path), str(tmp_path / f"{number}.html"))
        texts.append((tmp_path / f"{number}.html").read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("content", ["{", "null", "[1]", '{"id": 3}', "\x00\xff"])
@pytest.mark.parametrize("name", [EXECUTION, f"samples/{MEASUREMENTS}"])
def test_a_damaged_record_leaves_its_run_out_and_is_named(
    runs: Path, content: str, name: str
) -> None:
    whole = build(find(runs))
    path = runs / "try-001" / "lgr-0" / name
    path.write_text(content)
    board = build(find(runs))
    assert sum(len(row.runs) for one in board.boards for row in one.rows) == (
        sum(len(row.runs) for one in whole.boards for row in one.rows) - 1
    )
    assert any(str(path) in why for _, why in board.left_out)


def test_rows_of_one_name_are_told_apart_by_what_was_asked_for(tmp_path: Path) -> None:
    """Marks grow until they differ, and know the benchmarks that are shown."""
    for weights in ("a", "b"):
        who = subject(weights, "hub/m")
        for name, k in ((SHORT, 8), (LONG, 4)):
            folder = tmp_path / weights
            write_samples(
                folder / "samples",
                draws(0.5, k=k),
                benchmark=name,
                model="m",
                label="m",
                subject=who,
            )
    (board,) = build(find(tmp_path), [SHORT]).boards
    assert len({row.name for row in board.rows}) == 2


def test_the_samples_of_many_checkpoints_stand_in_order_of_their_steps(tmp_path: Path) -> None:
    for step in (1000, 40, 200):
        whose = {"model": "a", "step": step, "execution": "e", "subject": subject(str(step))}
        write_samples(tmp_path / "samples", draws(0.5, 2, 2), **whose)
    names = in_common([tmp_path], ["a"])
    assert list(names) == [f"{SHORT} of a@{step}" for step in (40, 200, 1000)]


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "2" * 64},
        {"tokenizer": "u"},
        {"template": "chat"},
        {"ends": (2, 3)},
        {"entries": 40},
        {"server": {"fingerprint": "f"}},
    ],
)
def test_another_subject_under_the_same_name_is_drawn_anew(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    fill(kept(tmp_path), WHOLE)
    told = {"weights": "1" * 64, **change}
    other = kept(tmp_path, subject=subject(told.pop("weights"), **told))
    assert other.generations() == {}
    fill(other, {"p0": "00", "p1": "00"})
    assert {s.status for s in read_samples(tmp_path)} == {"wrong"}


def test_a_name_decides_nothing(tmp_path: Path) -> None:
    fill(kept(tmp_path), WHOLE)
    same = kept(tmp_path, subject=subject("1" * 64, "another/place", trained_by="x"), label="y")
    assert len(same.generations()) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"max_new_tokens": 9},
        {"template": "chat"},
        {"data": "other"},
        {"engine": {"type": "Mine", "top_k": 5}},
    ],
)
def test_another_way_of_drawing_tops_nothing_up(tmp_path: Path, change: dict[str, Any]) -> None:
    fill(kept(tmp_path), WHOLE)
    assert kept(tmp_path, **change).generations() == {}


def test_an_engines_own_options_count_and_its_pace_does_not() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(CachedEngine):
        top_k: int = 5

    assert engine_of(Mine(top_k=5, group_size=3)) == {"type": "Mine", "top_k": 5}
    slow = OpenAIEngine(url="http://other:1/v1", concurrency=1, timeout_s=2, largest_gap=1)
    assert engine_of(slow) == engine_of(OpenAIEngine()) == {"type": "OpenAIEngine"}


def test_prompts_that_are_shown_otherwise_are_other_samples(tmp_path: Path) -> None:
    """A template may write the date, or a later version of the library more blanks, into them."""
    fill(kept(tmp_path), WHOLE)
    assert kept(tmp_path, shown="with another date").generations() == {}


def test_what_was_asked_for_last_counts_whatever_the_files_times_say(tmp_path: Path) -> None:
    for temperature in (1.0, 0.6, 1.0):
        one = kept(tmp_path, temperature=temperature)
    for number, path in enumerate(sorted(tmp_path.rglob("*"), reverse=True)):
        os.utime(path, (number, number))
    assert [s.asked.temperature for s in sample_sets(tmp_path)] == [1.0]
    assert one.asked.number == 3
    assert kept(tmp_path, temperature=1.0).asked == one.asked, "nothing new was asked"


def test_a_measurement_keeps_its_id_when_more_is_asked_or_another_grader_judges(
    tmp_path: Path,
) -> None:
    changes: list[dict[str, Any]] = [{}, {"samples": 4}, {"grader": "grader-2"}, {}]
    ids = {kept(tmp_path, **change).asked.id for change in changes}
    assert len(ids) == 1
    assert kept(tmp_path, seed=5).asked.id not in ids


def test_grading_again_swaps_no_execution(tmp_path: Path) -> None:
    for number in (1, 2):
        write_run(tmp_path / f"try-00{number}" / "opd", {SHORT: draws(0.5, seed=number)})
    expected = table(tmp_path)
    older = sample_sets(tmp_path / "try-001" / "opd" / "samples")[0]
    ask(older.folder, older.asked.asked)
    assert table(tmp_path) == expected


def test_one_seed_measured_on_more_benchmarks_later_is_one_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "try-001" / "opd", {SHORT: draws(0.5)})
    write_run(tmp_path / "try-002" / "opd", {SHORT: draws(0.6), LONG: draws(0.4)})
    (board,) = build(find(tmp_path), [SHORT]).boards
    assert [len(row.runs) for row in board.rows] == [1]
    assert board.rows[0].name == "try-002/opd"


@pytest.mark.parametrize(
    "made",
    [
        {"student": contents("student") | {"weights_sha256": "9" * 64}},
        {"teacher": contents("teacher") | {"weights_sha256": "9" * 64}},
        {"specialists": [contents("teacher")]},
        {"prompts": {"sha256": "others", "count": 2}},
    ],
)
def test_runs_of_other_models_or_prompts_at_the_same_paths_are_no_seeds_of_one(
    tmp_path: Path, made: dict[str, Any]
) -> None:
    write_run(tmp_path / "try-001" / "opd-0", {SHORT: draws(0.5)}, seed=0)
    write_run(tmp_path / "try-002" / "opd-1", {SHORT: draws(0.6)}, seed=1, made=made)
    (board,) = build(find(tmp_path)).boards
    assert len(board.rows) == 2


def test_seeds_that_draw_their_own_problems_are_one_method(tmp_path: Path) -> None:
    for seed in (0, 1):
        made = {"prompts": {"sha256": f"of seed {seed}", "count": None}}
        write_run(tmp_path / "try-001" / f"a-{seed}", {SHORT: draws(0.5)}, seed=seed, made=made)
    (board,) = build(find(tmp_path)).boards
    assert [len(row.runs) for row in board.rows] == [2]


def test_runs_are_set_against_their_own_student(tmp_path: Path) -> None:
    for name, weights in (("one", WEIGHTS["student"]), ("two", "9" * 64)):
        group = tmp_path / f"{name}-001"
        who = subject(weights, f"hub/{name}")
        write_reference(group, "student", {SHORT: draws(0.3, seed=len(name))}, subject=who)
        made = {"student": contents("student") | {"weights_sha256": weights}}
        write_run(group / "opd", {SHORT: draws(0.5)}, method={"type": name}, made=made)
    (board,) = build(find(tmp_path)).boards
    pairs = {(one.a.name, one.b.name) for one in pairings(board.rows) if one.a.role == "student"}
    assert pairs == {("hub/one", "one-001/opd"), ("hub/two", "two-001/opd")}


def test_names_say_what_tells_rows_apart(tmp_path: Path) -> None:
    for gamma in (0.3, 1.0):
        for seed in (0, 1):
            folder = tmp_path / "try-001" / f"gamma-{gamma}-{seed}"
            method = {"type": "opd", "gamma": gamma}
            write_run(folder, {SHORT: draws(0.5, seed=seed)}, seed=seed, method=method)
    (board,) = build(find(tmp_path)).boards
    assert {row.name for row in board.rows} == {"try/gamma-0.3", "try/gamma-1.0"}


def test_a_file_that_was_moved_away_is_drawn_again_and_no_other_is_written_over(
    tmp_path: Path,
) -> None:
    one = kept(tmp_path, problems=3)
    for name in ("p0", "p1", "p2"):
        fill(one, {name: "11"})
    parts = sorted(one.path.glob("generations-*.parquet"))
    parts[1].rename(tmp_path / "away")
    whole = parts[2].read_bytes()
    one.add_generations(list(one.generations().values()))
    fill(one, {"p1": "11"})
    assert parts[2].read_bytes() == whole
    assert len(one.generations()) == 6


def test_a_store_of_another_version_is_named(tmp_path: Path) -> None:
    old = tmp_path / "old" / "samples" / "student" / "math" / "3f2a"
    old.mkdir(parents=True)
    (old / "asked.json").write_text("{}")
    for read in (lambda: sample_sets(old.parents[2]), lambda: find(tmp_path)):
        with pytest.raises(DataError, match=r"an earlier opdlab"):
            read()
    with pytest.raises(DataError, match=r"an earlier opdlab"):
        ask(old.parents[2], asked("math", 2))


@pytest.mark.parametrize("damage", ["{", "[]", '{"model": "x"}', "null", "\x00"])
def test_a_damaged_record_is_named_by_its_line(tmp_path: Path, damage: str) -> None:
    kept(tmp_path)
    path = tmp_path / MEASUREMENTS
    path.write_text(path.read_text() + damage + "\n")
    with pytest.raises(DataError, match=f"{MEASUREMENTS}, line 2: damaged"):
        sample_sets(tmp_path)
    with pytest.raises(DataError, match="line 2"):
        kept(tmp_path, seed=9)


def test_samples_beside_the_manifest_of_another_training_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {SHORT: draws(0.5)})
    other = write_run(tmp_path / "try-002" / "opd", {})
    shutil.copy(other / EXECUTION, run / EXECUTION)
    with pytest.raises(DataError, match="of another training"):
        find(run)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("the student", {"student": contents("teacher")}),
        ("the teacher", {"teacher": contents("student")}),
        ("the list of specialists", {"specialists": [contents("teacher")]}),
        ("the prompts", {"prompts": {"sha256": "others"}}),
        ("the trial", {"trial": {"study": "another", "number": 1}}),
    ],
)
def test_a_training_goes_on_with_what_it_began_with_alone(
    tmp_path: Path, what: str, change: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "try-001" / "opd", {})
    before = (run / EXECUTION).read_text()
    now = replace(Execution.read(run), id="another", started="later")
    assert now.begun_in(run).id == Execution.read(run).id != "another"
    with pytest.raises(ResumeError, match=f"{what} changed since this run began"):
        replace(now, **change).begun_in(run)
    assert (run / EXECUTION).read_text() == before
    assert "continues with 0.3" in replace(now, code={"version": "0.3"}).other_code(
        now.begun_in(run)
    )


def test_every_key_with_a_role_is_one_of_an_experiment() -> None:
    settings = load_experiment("quickstart").model_dump(mode="json")
    engine = {option.name for option in fields(OpenAIEngine)}
    served = {f"server.{key}" for key in Server.model_fields}
    sections = {**settings, "rollout": engine, "specialists": served}
    sections["teacher"] = {*settings["teacher"], *served}
    for key in roles.UNLEARNED:
        section, _, name = key.partition(".")
        assert section in Experiment.model_fields
        assert not name or name in sections[section]


def test_what_is_learned_knows_neither_paths_nor_seeds() -> None:
    base = load_experiment("quickstart")
    for override in ("seed=5", "output=x", "name=y", "training.threads=2", "evaluation.samples=3"):
        other = load_experiment("quickstart", [override])
        assert learned(other.model_dump(mode="json")) == learned(base.model_dump(mode="json"))
    for override in ("training.steps=7", "method.type=lgr", "rollout.temperature=0.9"):
        other = load_experiment("quickstart", ["runs=[]", override])
        assert learned(other.model_dump(mode="json")) != learned(base.model_dump(mode="json"))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write_samples(tmp_path, draws(0.5, 2), model="a", step=40, role="run", execution="e")
    (one,) = sample_sets(tmp_path)
    assert one.checkpoint == "a@40"
    assert Measurement.read(json.loads(json.dumps(one.asked.plain()))) == one.asked
