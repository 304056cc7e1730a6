"""The leaderboard's data: who stands in one ranking, over which seeds, and what is left out."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from run_folders import WEIGHTS, draws, write_model, write_reference, write_run

from opdlab.console.terminal import SymbolConsole
from opdlab.errors import DataError
from opdlab.files.metrics_file import is_bin
from opdlab_dashboards.pages import hub_results, tables
from opdlab_dashboards.results import records
from opdlab_dashboards.results.board import Leaderboard, build
from opdlab_dashboards.results.curves import fidelity_curves, training_curves
from opdlab_dashboards.results.measured import find
from opdlab_dashboards.results.settings import in_short, varied
from opdlab_evaluators.statistics.intervals import mean_interval

BOTH = ("math/short", "code/long")


def board_of(folder: Path, *benchmarks: str) -> Leaderboard:
    return build(find(folder), benchmarks)


def scores(share: float, seed: int = 0) -> dict[str, np.ndarray]:
    return {name: draws(share, seed=seed + i) for i, name in enumerate(BOTH)}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An experiment with two seeds of OPD, one of LGR, student and teacher."""
    group = tmp_path / "try-001"
    write_reference(group, "student", scores(0.2))
    write_reference(group, "teacher", scores(0.95, 50))
    write_run(group / "opd-0", scores(0.5, 1), seed=0)
    write_run(group / "opd-1", scores(0.5, 2), seed=1)
    write_run(group / "lgr", scores(0.55, 3), method={"type": "lgr"})
    return tmp_path


def test_seeds_of_one_configuration_are_one_row(runs: Path) -> None:
    (board,) = board_of(runs).boards
    row = next(row for row in board.rows if row.method == "opd")
    assert row.name == "try/opd"
    assert [run.seed for run in row.runs] == [0, 1]
    each = np.array([draws(0.5, seed=s).mean(1) for s in (1, 2)])
    cell = row.cells["math/short"]
    assert [one.value for one in cell.each_seed] == pytest.approx(list(each.mean(1)))
    assert cell.mean.value == pytest.approx(each.mean())
    assert (cell.mean.low, cell.mean.high) == pytest.approx(mean_interval(each.mean(0)))
    assert cell.pass_at.value == pytest.approx(
        (draws(0.5, seed=1).any(1).mean() + draws(0.5, seed=2).any(1).mean()) / 2
    )


def trial(number: int) -> dict[str, Any]:
    """What a manifest says of a sweep's trial."""
    return {"experiment": "search", "trial": {"study": "one", "number": number, "parameters": {}}}


def test_trials_of_a_sweep_are_named_by_their_numbers(tmp_path: Path) -> None:
    for number in range(2):
        for seed in range(number + 1):
            method = {"type": "lgr", "top_k": 2 + number}
            folder = tmp_path / "search-sweep" / f"trial-{number:04d}" / f"seed-{seed}"
            write_run(folder, scores(0.5, seed), seed=seed, method=method, made=trial(number))
    (board,) = board_of(tmp_path).boards
    assert {row.name for row in board.rows} == {"search/trial-0000", "search/trial-0001"}


def test_trials_tell_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "other-001" / "opd", scores(0.5), method={"type": "opd", "top_k": 9})
    for number, weight in enumerate((1.85053, 0.5)):
        method = {"type": "lgr", "top_k": 2 + number, "reward_weight": weight, "control": "none"}
        for seed in range(2):
            folder = tmp_path / "search-sweep" / f"trial-{number:04d}" / f"seed-{seed}"
            write_run(folder, scores(0.6, seed), seed=seed, method=method, made=trial(number))
    leaderboard = board_of(tmp_path)
    text = tables.markdown(leaderboard)
    assert text.count("| search/trial-0000: reward_weight 1.85, top_k 2 |") == 2
    assert text.count("| search/trial-0001: reward_weight 0.5, top_k 3 |") == 2
    assert text.count("| other-001/opd |") == 2

    content = json.loads(records.as_json(leaderboard))["records"]
    settings = {one["model"]: one["settings"] for one in content}
    first = {"method.top_k": 2, "method.reward_weight": 1.85053}
    assert settings["search/trial-0000"] == first
    assert settings["other-001/opd"] == {}
    rows = csv.DictReader(io.StringIO(records.as_csv(leaderboard)))
    told = {row["model"]: (row["method.top_k"], row["method.reward_weight"]) for row in rows}
    assert told["search/trial-0000"] == ("2", "1.85053")
    assert told["other-001/opd"] == ("", "")


def test_methods_of_an_experiment_that_differ_in_nothing_else_are_named_alone(
    tmp_path: Path,
) -> None:
    for n, method in enumerate(({"type": "opd", "top_k": 1}, {"type": "lgr", "top_k": 8})):
        write_run(tmp_path / "try-001" / f"run{n}", scores(0.5, n), method=method)
    (board,) = board_of(tmp_path).boards
    assert varied(board.rows) == [{}, {}]


def test_a_setting_whose_last_word_is_shared_or_says_little_is_named_whole() -> None:
    settings = {"method.first": 1, "training.mask.first": 2, "rollout.type": "cached"}
    assert in_short(settings) == "method.first 1, training.mask.first 2, rollout.type cached"
    assert in_short({"training.learning_rate": 0.00012345}) == "learning_rate 0.000123"
    assert len(in_short({"prompts.sources": ["x" * 99]})) == len("sources ") + 40


def test_roles_costs_and_names_are_found(runs: Path) -> None:
    (board,) = board_of(runs).boards
    assert [(row.name, row.role) for row in board.rows] == [
        ("hub/teacher", "teacher"),
        ("try-001/lgr", "run"),
        ("try/opd", "run"),
        ("hub/student", "student"),
    ]
    lgr = board.rows[1]
    assert lgr.teacher_tokens == 20 * 110
    assert lgr.seconds == pytest.approx(20 * 1.0)
    assert board.rows[0].teacher_tokens is None


def test_a_clear_winner_is_first_and_doubtful_rows_share_their_places(runs: Path) -> None:
    (board,) = board_of(runs).boards
    ranks = {
        row.name: str(s) for row, s in zip(board.rows, board.standings["average"], strict=True)
    }
    assert ranks == {"hub/teacher": "1", "try-001/lgr": "2–3", "try/opd": "2–3", "hub/student": "4"}


@pytest.mark.parametrize(
    "change",
    [{"grader": "grader-2"}, {"temperature": 0.6}, {"template": "chat"}, {"max_new_tokens": 9}],
)
def test_rows_of_different_protocols_never_stand_in_one_ranking(runs: Path, change: dict) -> None:
    write_run(runs / "other-001" / "opd", scores(0.9, 9), **change)
    boards = board_of(runs).boards
    assert [len(board.rows) for board in boards] == [4, 1]
    assert [str(s) for s in boards[1].standings["average"]] == ["1"]
    for record in records.records(board_of(runs)):
        assert (record["model"] == "other-001/opd") == (
            record["rank_last"] == 1 and record["method"] == "opd"
        )


def test_a_row_with_fewer_benchmarks_is_ranked_by_those_alone(runs: Path) -> None:
    write_run(runs / "other-001" / "opd", {"math/short": draws(0.9)}, method={"type": "new"})
    assert len(board_of(runs).boards) == 2
    (board,) = board_of(runs, "math/short").boards
    assert len(board.rows) == 5
    assert list(board.standings) == ["math/short"]


def test_a_benchmark_on_which_nothing_was_measured_is_told_with_those_there_are(runs: Path) -> None:
    with pytest.raises(DataError) as error:
        board_of(runs, "math/short", "math/shrot")
    assert str(error.value) == (
        "nothing was measured on 'math/shrot'. Did you mean math/short? "
        "There are code/long, math/short"
    )


def test_an_unfinished_run_is_left_out_with_the_reason(runs: Path) -> None:
    late = write_run(runs / "try-001" / "late", {"math/short": draws(0.5, 3)})
    next((late / "samples").rglob("grades-*.parquet")).unlink()
    (name, why), *_ = board_of(runs).left_out
    assert name == "try-001/late"
    assert "0 of 24 samples" in why


def test_where_a_grader_failed_there_are_bounds_and_no_place(runs: Path) -> None:
    correct = {name: draws(0.9) for name in BOTH}
    write_run(runs / "bad-001" / "opd", correct, status="grader_error", method={"type": "new"})
    (board,) = board_of(runs).boards
    place = next(i for i, row in enumerate(board.rows) if row.name == "bad-001/opd")
    assert board.standings["average"][place] is None
    mean = board.rows[place].mean
    assert (mean.value, mean.best) == (None, 1.0)
    assert mean.worst == pytest.approx(draws(0.9).mean())
    others = [s for i, s in enumerate(board.standings["average"]) if i != place]
    assert [str(s) for s in others] == ["1", "2–3", "2–3", "4"], "ranked without it"


def test_of_a_run_done_twice_with_one_seed_the_newest_counts(runs: Path) -> None:
    write_run(runs / "try-002" / "lgr", scores(0.1, 7), method={"type": "lgr"})
    leaderboard = board_of(runs)
    row = next(row for row in leaderboard.boards[0].rows if row.method == "lgr")
    assert row.name == "try-002/lgr"
    assert ("try-001/lgr", "measured again with the same seed: try-002/lgr") in leaderboard.left_out


def test_the_same_weights_measured_by_themselves_are_the_reference(runs: Path) -> None:
    folder = runs / "evaluations" / "hub-teacher-77777777"
    write_model(folder, scores(0.95, 50), WEIGHTS["teacher"])
    (board,) = board_of(runs).boards
    assert [row.role for row in board.rows].count("teacher") == 1
    assert not any(row.role == "model" for row in board.rows)


def test_another_model_is_public(runs: Path) -> None:
    folder = runs / "evaluations" / "hub-public-12345678"
    write_model(folder, scores(0.7, 60))
    (board,) = board_of(runs).boards
    assert [row.name for row in board.rows if row.public] == ["hub-public-12345678"]


def test_nothing_measured_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="opdlab eval"):
        find(tmp_path)
    with pytest.raises(DataError, match="neither a folder"):
        find(tmp_path / "no")


def test_csv_and_json_hold_every_number(runs: Path) -> None:
    leaderboard = board_of(runs)
    rows = list(csv.DictReader(io.StringIO(records.as_csv(leaderboard))))
    content = json.loads(records.as_json(leaderboard))
    assert len(rows) == len(content["records"]) == 4 * 3
    (mine,) = [r for r in rows if r["model"] == "try/opd" and r["benchmark"] == "average"]
    assert (mine["rank_first"], mine["rank_last"], mine["k"]) == ("2", "3", "8")
    assert (mine["seeds"], mine["problems"], mine["samples"]) == ("0 1", "60", "960")


def test_only_what_was_trained_has_seeds(runs: Path) -> None:
    rows = csv.DictReader(io.StringIO(records.as_csv(board_of(runs))))
    seeds = {row["model"]: row["seeds"] for row in rows}
    assert seeds == {"hub/teacher": "", "hub/student": "", "try/opd": "0 1", "try-001/lgr": "0"}


def test_markdown_keeps_its_columns_whatever_a_name_holds(runs: Path) -> None:
    write_run(runs / "<i>a|b-001" / "opd", scores(0.4, 20), method={"type": "new"})
    text = tables.markdown(board_of(runs))
    (line,) = [line for line in text.splitlines() if "b-001" in line and "new" in line]
    assert line.startswith("| ")
    assert "&lt;i>a" in line
    assert line.replace("\\|", "").count("|") == 11


def test_the_terminal_shows_whole_numbers_in_eighty_columns(runs: Path) -> None:
    console = SymbolConsole(width=80, record=True, file=io.StringIO())
    console.print(tables.terminal(board_of(runs), 80))
    text = console.export_text()
    assert "…" not in text
    row = next(row for row in board_of(runs).boards[0].rows if row.name == "try/opd")
    assert tables.percent(row.mean) in text
    assert tables.percent(row.cells["code/long"].mean) in text


@pytest.mark.parametrize("width", [44, 60, 72, 76, 80, 90, 100, 120, 160])
def test_the_terminal_cuts_no_column_off(tmp_path: Path, width: int) -> None:
    """Short names leave room that longer ones do not; a column is shown whole or left out."""
    group = tmp_path / "a"
    write_run(group / "b", {"math/short": np.ones((30, 8), dtype=int)})
    write_run(group / "c", {"math/short": draws(0.5)}, method={"type": "lgr"})
    leaderboard = board_of(tmp_path)
    console = SymbolConsole(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal(leaderboard, width))
    text = console.export_text()
    (heading,) = [line for line in text.splitlines() if " rank " in line]
    shown = re.split(r"\s{2,}", heading.strip())
    lines = tables.overview(leaderboard.boards[0])
    assert {"rank", "model", "mean@8"} <= set(shown) <= set(lines[0])
    for line in lines[1:]:
        assert all(line[lines[0].index(name)] in text for name in shown)
    left_out = re.search(r"In the files, as they do not fit here: (.*?)\.", " ".join(text.split()))
    assert [*shown, *(left_out[1].split(", ") if left_out else [])] == lines[0], (
        "in order, or named"
    )
    assert text.startswith("Protocol "), "above the table, in its own lines"


def test_the_hub_reads_what_is_written_for_it(tmp_path: Path) -> None:
    evaluator = {"type": "aime_2024", "revision": "0123abcd"}
    correct = {"aime_2024": draws(0.4), "math/short": draws(0.4)}
    run = tmp_path / "runs" / "evaluations" / "some"
    for name, array in correct.items():
        kind = evaluator if name == "aime_2024" else {"type": "math"}
        write_model(run, {name: array}, evaluator=kind)
    ((name, text),) = hub_results.results(board_of(tmp_path / "runs")).items()
    assert name.endswith("/.eval_results/opdlab.yaml")
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert entry.dataset_id == "HuggingFaceH4/aime_2024"
    assert entry.value == round(100 * draws(0.4).mean(), 2)
    assert entry.dataset_revision == "0123abcd"
    assert entry.notes is not None
    assert "30 problems" in entry.notes


@pytest.mark.parametrize(
    ("options", "problems", "why"),
    [
        ({"limit": 5}, 5, "only 5 problems (`limit`)"),
        ({"path": "mine.jsonl"}, 30, "its data are a file of your own (`path`)"),
        ({}, 29, "29 problems, of 30 that the data set has"),
        ({"limit": 30}, 30, ""),
    ],
)
def test_only_whole_and_known_data_are_a_result_for_the_hub(
    tmp_path: Path, options: dict[str, Any], problems: int, why: str
) -> None:
    evaluator = {"type": "aime_2024", **options}
    model = tmp_path / "runs" / "evaluations" / "some"
    write_model(model, {"aime_2024": draws(0.4, problems=problems)}, evaluator=evaluator)
    board = board_of(tmp_path / "runs")
    assert bool(hub_results.results(board)) == (not why)
    assert list(hub_results.left_out(board)) == ([f"some on aime_2024: {why}"] if why else [])


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (999_700, "1M"),
        (999.7, "1k"),
        (999_499, "999k"),
        (1500, "1.5k"),
        (12, "12"),
        (0.05, "0.05"),
        (5e16, "50000T"),
        (None, "–"),
    ],
)
def test_large_numbers_are_shown_without_an_exponent(number: float | None, shown: str) -> None:
    assert tables.big(number) == shown


def test_curves_average_seeds_and_keep_the_ends() -> None:
    rows = [{"step": s, "reverse_kl": 1.0 * s, "fidelity": 0.9} for s in range(1, 401)]
    other = [{**row, "reverse_kl": row["reverse_kl"] + 2} for row in rows]
    steps, values = training_curves([rows, other])["reverse_kl"]
    assert len(steps) == 80
    assert (steps[0], values[0]) == (3.0, 4.0), "the first five steps, over two seeds"


def test_a_step_that_is_not_finite_is_a_gap_in_its_curve() -> None:
    rows = [{"step": s, "reverse_kl": float(s)} for s in range(1, 5)]
    rows[2]["reverse_kl"] = math.inf
    assert training_curves([rows])["reverse_kl"] == [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, None, 4.0]]


def test_fidelity_is_shown_for_the_first_and_the_last_tenth() -> None:
    near, far = "fidelity/t0000-0009", "fidelity/t0010-0019"
    rows = [{"step": s, "fidelity": 0.5, near: s / 100, far: 0.5} for s in range(100)]
    del rows[99][far]
    found = fidelity_curves([rows])
    assert found["first steps"][0] == [4.5, 14.5]
    assert found["first steps"][1] == pytest.approx([0.045, 0.5])
    assert found["last steps"][1] == pytest.approx([0.945, 0.5])


def test_bins_beyond_9_999_tokens_are_drawn_in_their_order():
    edges = [(4875 * n, 4875 * (n + 1) - 1) for n in range(8)]
    for digits in (4, 5):
        bins = {f"fidelity/t{a:0{digits}d}-{b:0{digits}d}": -a / 39_000 for a, b in edges}
        assert all(map(is_bin, bins))
        positions, values = fidelity_curves([[{"step": 1, "fidelity": 0.5, **bins}]])["last steps"]
        assert positions == sorted(positions)
        assert values == sorted(values, reverse=True)
