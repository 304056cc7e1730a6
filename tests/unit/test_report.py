"""The report on an experiment: what it concludes, what it refuses to, and what it says that would take."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import draws, write_reference, write_run

from opdlab.errors import DataError
from opdlab.evaluation import comparison
from opdlab_dashboards.pages import trial_figures
from opdlab_dashboards.pages.report import differing, pairings, report
from opdlab_dashboards.results import swept, with_interval
from opdlab_dashboards.results.board import build
from opdlab_dashboards.results.differences import pair
from opdlab_dashboards.results.measured import find
from opdlab_evaluators.statistics.needed import smallest
from opdlab_evaluators.statistics.seeds import paired_over_seeds

BOTH = ("code/long", "math/short")


def scores(share: float, seed: int) -> dict[str, np.ndarray]:
    return {name: draws(share, seed=seed + i) for i, name in enumerate(BOTH)}


@pytest.fixture
def group(tmp_path: Path) -> Path:
    group = tmp_path / "runs" / "try-001"
    write_reference(group, "student", scores(0.2, 0))
    for seed in (0, 1):
        write_run(group / f"opd-{seed}", scores(0.5, 10 + seed), seed=seed)
        write_run(group / f"lgr-{seed}", scores(0.52, 20 + seed), seed, {"type": "lgr", "top_k": 8})
    return group


def text_of(group: Path, *runs: str) -> str:
    report(runs or ("try-001",), str(group.parent), str(group / "page" / "report.html"))
    page = (group / "page" / "report.html").read_text()
    return re.sub(r"<script.*?</script>|<style>.*?</style>", "", page, flags=re.DOTALL)


def section(text: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', text, re.DOTALL)
    assert found is not None
    return found[1]


def test_differences_are_those_of_compare_where_a_side_is_one_run(group: Path) -> None:
    rows = {
        row.name: row for row in build(find(group / "opd-0") + find(group / "lgr-1")).boards[0].rows
    }
    mine = pair(rows["try-001/opd-0"], rows["try-001/lgr-1"])
    measured = {name: comparison.read_run(group / name) for name in ("opd-0", "lgr-1")}
    (theirs,) = comparison.all_differences(measured, [("opd-0", "lgr-1")]).values()
    assert len(mine) == len(theirs) == 3
    for a, b in zip(mine, theirs, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.mean.value, b.mean.low, b.mean.high))
        assert a.p == pytest.approx(b.mean.p_holm)


def test_seeds_are_those_of_the_comparison_over_seeds(group: Path) -> None:
    (board,) = build(find(group)).boards
    rows = {row.method: row for row in board.rows}
    mine = pair(rows["opd"], rows["lgr"])[-1].seeds
    sides = [[comparison.read_run(group / f"{m}-{s}") for s in (0, 1)] for m in ("opd", "lgr")]
    theirs = paired_over_seeds(*sides)[-1]
    assert mine is not None
    assert mine.each == pytest.approx(theirs.differences)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high))


def test_a_clear_gain_is_shown_and_a_doubtful_one_is_not(group: Path) -> None:
    text = text_of(group)
    assert "try/opd is better than hub/student as they were trained" in section(text, "found")
    assert "try/lgr is better than hub/student" in section(text, "found")
    assert "try/lgr and try/opd are not told apart" in section(text, "open")
    assert "Does it work?" in section(text, "question")


def test_what_it_takes_is_enough_by_the_same_rule(group: Path) -> None:
    (board,) = build(find(group)).boards
    apart = pairings(board.rows)
    d = next(one.differences[-1] for one in apart if one.a.role == one.b.role == "run")
    assert not d.shown
    assert d.needed is not None
    assert d.needed > d.fewest == 30
    # Half of the level is for the differences over both benchmarks, and the page has three of them.
    level = 0.05 / 2 / len(apart)
    deviation = d.smallest / smallest(1.0, 30, level=level)
    found = [smallest(deviation, d.needed - less, level=level) for less in (0, 1)]
    assert found[0] <= abs(d.value) < found[1]
    assert f"takes about {d.needed} problems in each benchmark" in section(text_of(group), "open")


@pytest.mark.parametrize("problems", [1, 30])
def test_without_a_spread_what_can_be_found_is_called_unknown(
    tmp_path: Path, problems: int
) -> None:
    group = tmp_path / "runs" / "try-001"
    same = draws(0.5)[:problems]
    for name in ("opd", "lgr"):
        write_run(group / name, {"math/short": same}, seed=0, method={"type": name})
    text = text_of(group)
    assert "not told apart" in section(text, "open")
    assert "is not known" in section(text, "open")
    assert "unknown" in section(text, "differences")
    assert "nan" not in text.lower().replace("finance", "")
    assert "0.0 points or more" not in text


def test_a_benchmark_where_the_other_side_is_better_is_named_as_such(tmp_path: Path) -> None:
    group = tmp_path / "runs" / "try-001"
    for seed in (0, 1, 2):
        low, high = draws(0.1, seed=seed), draws(0.9, seed=10 + seed)
        mixed = draws((0.9, 0.2, 0.5)[seed], seed=20 + seed)
        opd = {"math/short": low, "math/long": low, "code/long": high, "routes": draws(0.2)}
        lgr = {"math/short": high, "math/long": high, "code/long": low, "routes": mixed}
        write_run(group / f"opd-{seed}", opd, seed=seed)
        write_run(group / f"lgr-{seed}", lgr, seed, {"type": "lgr"})
    found = section(text_of(group, "try-001"), "found")
    assert "try/lgr is better than try/opd" in found
    assert (
        "it shows on math/long, math/short, routes (not over training seeds); "
        "the other way on code/long." in found
    )


def test_a_name_turns_no_sentence_round(tmp_path: Path) -> None:
    group = tmp_path / "runs" / "try-001"
    write_reference(group, "student", {"a": draws(0.2, 12, 2)})
    write_run(group / "q\u202egpo", {"a": draws(0.5, 12, 2)})
    text = text_of(group)
    assert "q&lt;U+202E&gt;gpo: one training seed" in section(text, "open")
    page = (group / "page" / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert "\u202e" not in text + data
    assert "q\\u003cU+202E>gpo" in data


def test_one_seed_is_called_one_seed_and_cut_responses_are_named(group: Path) -> None:
    text = section(text_of(group, "try-001/opd-0", "try-001/lgr-0"), "open")
    assert "try-001/opd-0, try-001/lgr-0: one training seed" in text
    assert "20 % of responses were cut" in text
    assert "one training seed" not in text_of(group)


def test_references_beside_a_run_come_with_it(group: Path) -> None:
    assert "hub/student" in section(text_of(group, "try-001/opd-0"), "scores")


def test_only_keys_that_differ_are_listed(group: Path) -> None:
    (board,) = build(find(group)).boards
    rows = sorted((row for row in board.rows if row.role == "run"), key=lambda row: row.method)
    assert dict(differing(rows)) == {"method.type": ["lgr", "opd"], "method.top_k": ["8", "–"]}


def write_sweep(folder: Path, count: int) -> None:
    """Trials of two seeds each, of which the one before the last is best, and their findings."""
    write_reference(folder / "references", "student", scores(0.2, 0))
    trials: list[dict[str, Any]] = []
    for number in range(count):
        value = 0.9 if number == count - 2 else 0.3 + 0.02 * number
        for seed in (0, 1):
            method = {"type": "lgr", "top_k": 2 + number}
            correct = scores(value, 10 * number + seed)
            place = folder / f"trial-{number:04d}" / f"seed-{seed}"
            trial = {"study": "one", "number": number, "parameters": {}}
            made = {"experiment": "try", "trial": trial}
            write_run(place, correct, seed, method, made=made)
        params = {"method.top_k": 2 + number, "method.rate": 0.00123456789012345 * 2**number}
        told = {"params": params, "state": "complete", "values": [value], "constraints": {}}
        trials.append({"trial": number, **told})
    for number, reason in ((count, "of <no> room"), (count + 1, "of <no> room")):
        ended = {"trial": number, "state": "fail", "values": None, "constraints": {}}
        trials.append({**ended, "reason": reason})
    content = {
        "objectives": [{"metric": "mean_at_k", "direction": "maximize"}],
        "space": {"method.rate": {"type": "float", "log": True}},
        "trials": trials,
        "importance": {
            "mean_at_k": {"method.top_k": {"share": 0.94, "low": 0.63, "high": 0.99, "trials": 10}}
        },
    }
    (folder / "sweep.json").write_text(json.dumps(content))


def test_a_sweep_has_one_table_of_all_trials_and_one_plot_of_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "try-sweep"
    write_sweep(folder, 10)
    text = text_of(folder, "try-sweep")
    trials = re.findall(r'data-trial="(-?\d+)"', section(text, "trials"))
    assert trials == [*map(str, (8, 9, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11)), "-1"], "the student last"
    assert "Worse than trial 8 in mean@8: 9 of 9 others" in section(text, "found")
    assert "try/trial-0008 is better than hub/student" in section(text, "found")
    assert "best partly by luck" in section(text, "open")
    assert "<li>Trials 10, 11 failed: of &lt;no&gt; room</li>" in section(text, "open")
    assert "left out" not in section(text, "open")
    assert "top_k: 94 % [63, 99]" in section(text, "question")
    # Folded: of the best eight.
    folded = text[text.index('<details class="part" id="differences">') :]
    assert "<h3>try/trial-0002 minus try/trial-0008</h3>" in folded
    assert "trial-0001" not in folded
    figures = embedded(folder)
    (forest,) = (one for one in figures if one["place"] == "differences")
    assert forest["layout"]["yaxis"]["ticktext"] == [
        f"trial {n}" for n in (9, 7, 6, 5, 4, 3, 2, 1, 0)
    ]
    drawn = {one["title"].partition(":")[0] for one in figures if one["place"] == "trials"}
    assert drawn == {"Parallel coordinates", "top_k", "rate", "What matters", "History"}
    (rate,) = (one for one in figures if one["title"] == "rate")
    assert rate["layout"]["xaxis"]["type"] == "log"
    beside = section(text_of(folder, "try-sweep", "try-sweep/references"), "open")
    assert "of 10 complete trials the best 8 by mean_at_k are shown and 2 left out" in beside
    assert "0.00123456789012345" not in re.sub(r'(title|data-by)="[^"]*"', "", text)


def test_a_report_is_written_as_tables_by_its_ending(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "try_sweep"
    write_reference(folder / "references", "student", {"a_b": draws(0.2, 12, 2)})
    trials = []
    for n in range(2):
        made = {"experiment": "try_1", "trial": {"study": "one", "number": n, "parameters": {}}}
        place = folder / f"trial-{n:04d}" / "seed-0"
        method = {"type": "opd", "rate": n}
        write_run(place, {"a_b": draws(0.5, 12, 2, n)}, method=method, made=made)
        told = {"trial": n, "state": "complete", "params": {"x.rate": n / 3}, "values": [n]}
        trials.append({**told, "constraints": {}})
    objectives = [{"metric": "loss", "direction": "maximize"}]
    (folder / "sweep.json").write_text(json.dumps({"objectives": objectives, "trials": trials}))
    made = {}
    for kind in ("tex", "md", "json", "csv"):
        to = tmp_path / f"report.{kind}"
        to.write_text("of mine")
        runs = (
            ["try_sweep"] if kind != "csv" else [f"try_sweep/trial-000{n}/seed-0" for n in (0, 1)]
        )
        report(runs, str(tmp_path / "runs"), str(to))
        made[kind] = to.read_text()
        assert [p.read_text() for p in tmp_path.glob(f"report-*.{kind}")] == ["of mine"]
    assert "\\caption{Trials}" in made["tex"]
    assert r"a\_b" in made["tex"]
    assert "| try_1/trial-0001 minus hub/student | a_b | 12 |" in made["md"]
    assert [row["x.rate"] for row in json.loads(made["json"])] == [1 / 3, 0.0]
    heads, *lines = made["csv"].splitlines()
    assert heads.startswith("run,minus,benchmark,a,b,value,low,high,p,problems")
    assert [line.split(",")[:3] for line in lines] == [
        ["try_1/trial-0001", "try_1/trial-0000", "a_b"]
    ]
    with pytest.raises(DataError, match=r"not written as \.png: end its name in \.html"):
        report(["try_sweep"], str(tmp_path / "runs"), str(tmp_path / "report.png"))


def test_figures_tell_keys_of_one_name_apart_and_draw_what_can_be_drawn() -> None:
    long = "a" * 100
    trials = [
        swept.Trial(n, "complete", {"x.tau": n, "y.tau": -n, "z.tokens": word}, (value,), {}, "")
        for n, (word, value) in enumerate([("b", 2.0), (long, 1.0), ("b", math.inf), ("c", 3.0)])
    ]
    share = {"share": 0.6, "low": 0.3, "high": 0.8}
    space = {"z.tokens": {"type": "choice", "values": ["c", "b", long]}}
    importance = {"loss": {"x.tau": share, "y.tau": share}}
    objectives = (("loss", "minimize"),)
    sweep = swept.Swept(Path(), objectives, tuple(trials), (), space, importance)
    made = {one["title"].partition(":")[0]: one for one in trial_figures.figures(sweep, {})}
    assert json.dumps(made, allow_nan=False)
    assert made["What matters"]["traces"][0]["y"] == ["y.tau", "x.tau"]
    assert {"x.tau", "y.tau", "z.tokens"} < made.keys(), "tokens is a column of its own"
    assert made["History"]["traces"][0]["x"] == [0, 1, 3]
    axis = made["z.tokens"]["layout"]["xaxis"]
    assert axis["categoryarray"] == ["c", "b", long], "in the order of the space"
    assert axis["ticktext"] == ["c", "b", "a" * 23 + "…"]


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (45.31, 32.1, 58.4, "45 [32, 58]"),
        (45.31, 44.1, 46.6, "45.3 [44.1, 46.6]"),
        (0.1234567, 0.1228, 0.1241, "0.1235 [0.1228, 0.1241]"),
        (-0.01, -9.0, 9.0, "0 [-9, +9]"),
        (12.5, 12.5, 12.5, "+12.5 [+12.5, +12.5]"),
    ],
)
def test_a_number_has_as_many_digits_as_its_error_leaves(
    value: float, low: float, high: float, words: str
) -> None:
    assert with_interval(value, low, high, sign="+" in words) == words


def test_a_trial_beyond_a_limit_is_not_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "try-sweep"
    write_sweep(folder, 3)
    content = json.loads((folder / "sweep.json").read_text())
    content["trials"][1]["constraints"] = {"truncated_share": 0.1}
    (folder / "sweep.json").write_text(json.dumps(content))
    found = swept.read(folder, find(folder))
    assert found is not None
    assert found.best == (2, 0, 1)


def test_runs_of_different_protocols_are_refused(group: Path) -> None:
    write_run(group.parent / "new-001" / "opd", scores(0.5, 3), grader="grader-2")
    with pytest.raises(DataError, match="measured in different ways"):
        text_of(group, "try-001", "new-001")
    with pytest.raises(DataError, match="there are new-001/opd"):
        text_of(group, "tyr-001")


def figures_of(group: Path) -> list[dict[str, Any]]:
    report(["try-001"], str(group.parent), str(group / "page" / "report.html"))
    return embedded(group)


def embedded(group: Path) -> list[dict[str, Any]]:
    page = (group / "page" / "report.html").read_text()
    found = re.search(r'<script[^>]* id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_all_differences_stand_in_one_figure_with_zero_on_its_scale(group: Path) -> None:
    (forest,) = (one for one in figures_of(group) if one["place"] == "differences")
    low, high = forest["layout"]["xaxis"]["range"]
    assert low < 0 < high
    (trace,) = forest["traces"]
    assert len(trace["x"]) == 3 * 3, "three pairs on two benchmarks and over both"
    names = [note["text"] for note in forest["layout"]["annotations"]]
    assert names[:2] == ["try/opd minus hub/student", "code/long"]


def test_a_short_value_of_a_setting_is_not_broken_at_its_hyphen(group: Path) -> None:
    assert 'class="value short"' in text_of(group)
