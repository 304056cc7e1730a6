"""`opdlab watch`: what is shown of a training that another process goes on with."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.small_runs import experiment, train

from opdlab.console import console
from opdlab.errors import DataError
from opdlab.files import GENERATOR, begin_metrics, claim, claimed, read_live, tell_live
from opdlab.training.onlookers import Onlookers, sample_of
from opdlab_dashboards.pages import watch as page
from opdlab_dashboards.results import Reader, newest, scene, watched

HOSTILE = "<script>alert(1)</script>\x1b[2J[bold]x[/]</pre>\u202e"


def write(run: Path, steps: int, **more: Any) -> Path:
    """A run's metrics, two seconds a step."""
    run.mkdir(parents=True, exist_ok=True)
    begin_metrics(run, "some")
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(1, steps + 1):
            row = {"step": step, "time": 1000.0 + 2 * step, "loss": 1.0 / step, **more}
            row |= {"seconds/rollout": 3.0, "seconds/teacher": 1.0, "seconds/update": 4.0}
            file.write(json.dumps(row) + "\n")
    (run / "config.yaml").write_text("training:\n  steps: 10\n")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "runs" / "try-001" / "opd", 4)


@pytest.fixture
def working(run: Path) -> Iterator[Path]:
    with claimed(run.parent):
        os.utime(run / "metrics.jsonl")
        yield run


def test_a_run_that_goes_on_says_how_long_it_will_take(working: Path) -> None:
    found = watched(working)
    assert (found.step, found.steps, found.phase) == (4, 10, "training")
    assert found.seconds_left == pytest.approx(6 * 2.0)
    assert found.parts == pytest.approx({"rollout": 0.375, "teacher": 0.125, "update": 0.5})
    assert found.by.startswith(f"process {os.getpid()} on ")
    tell_live(working, {"phase": "evaluating", "step": 4, "steps": 12})
    found = watched(working)
    assert (found.phase, found.steps, found.seconds_left) == ("evaluating", 12, None)


def test_who_was_killed_has_stopped_and_who_has_a_model_has_ended(run: Path) -> None:
    tell_live(run, {"phase": "training", "step": 4, "steps": 10})
    (run.parent / claim.OWNER).write_text(
        json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "started": 1.0})
    )
    assert watched(run).phase == "stopped"
    assert not scene(run).going_on
    (run / "model").mkdir()
    # Killed in its evaluation, which --resume goes on with.
    tell_live(run, {"phase": "evaluating", "step": 4, "steps": 10})
    assert watched(run).phase == "stopped"
    (run / "live.json").unlink()
    assert watched(run).phase == "ended"


def test_a_run_whose_trained_student_is_evaluated_has_not_ended(working: Path) -> None:
    (working / "model").mkdir()
    tell_live(working, {"phase": "evaluating", "step": 10, "steps": 10})
    found = watched(working)
    # The figures of the last step are written after its evaluation.
    assert (found.phase, found.step) == ("evaluating", 10)
    assert found.told.startswith("evaluating for ")
    tell_live(working, {"phase": "ended", "step": 10, "steps": 10})
    assert watched(working).phase == "ended"
    # The execution's next run has not begun.
    assert scene(working.parent).going_on


def test_the_newest_execution_is_watched_where_none_is_named(run: Path) -> None:
    output = run.parent.parent
    trial = write(output / "wide-sweep" / "trial-0003" / "seed-0", 2)
    earlier = time.time() - 60
    os.utime(run / "metrics.jsonl", (earlier, earlier))
    assert newest(output) == output / "wide-sweep"
    assert [one.folder for one in scene(output / "wide-sweep").runs] == [trial]
    with pytest.raises(DataError, match="opdlab train"):
        newest(output / "wide-sweep" / "trial-0003" / "seed-0")
    with pytest.raises(DataError, match="no folder 'typo'"):
        page.found("typo", output)
    (output / "empty").mkdir()
    with pytest.raises(DataError, match="has begun"):
        scene(output / "empty")


def test_an_execution_that_still_measures_its_references_is_watched(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = run.parent.parent / "try-002"
    begun.mkdir()
    with claimed(begun):
        assert newest(run.parent.parent) == begun
        assert scene(begun).going_on
        page.watch(None, str(run.parent.parent), str(begun.parent / "watch.html"), once=True)
    assert f"no training has begun; by process {os.getpid()}" in capsys.readouterr().out
    assert "no training has begun" in (begun.parent / "watch.html").read_text()


def test_a_sweep_goes_on_between_two_trials(run: Path) -> None:
    sweep = run.parent.parent / "wide-sweep"
    write(sweep / "trial-0000" / "seed-0", 2)
    assert not scene(sweep).going_on
    (sweep / "study.json").write_text("{}")
    assert scene(sweep).going_on
    (sweep / "sweep.json").write_text("{}")
    assert not scene(sweep).going_on
    # One that is continued has what was found before.
    earlier = time.time() - 600
    os.utime(sweep / "sweep.json", (earlier, earlier))
    assert scene(sweep).going_on


def test_a_training_without_a_sign_is_said_to_be_silent(working: Path) -> None:
    earlier = time.time() - 7200
    os.utime(working / "metrics.jsonl", (earlier, earlier))
    os.utime(working.parent / claim.OWNER, (1e9, 1e9))
    assert watched(working).told == "training, no sign of it for 2 h 0 min"


def test_a_resumed_training_is_not_what_the_process_before_it_said(run: Path) -> None:
    tell_live(run, {"phase": "evaluating", "step": 9, "steps": 10, "sample": {"step": 9}})
    for name in ("live.json", "metrics.jsonl"):
        os.utime(run / name, (1e9, 1e9))
    with claimed(run.parent):
        found = watched(run)
        assert (found.told, found.step) == ("beginning", 4)
        assert found.live["sample"]
        tell_live(run, {"phase": "training", "step": 5, "steps": 10})
        assert (watched(run).phase, watched(run).step) == ("training", 5)


def test_what_another_machine_left_hides_nothing_that_is_newer(run: Path) -> None:
    output = run.parent.parent
    dead = write(output / "dead-001" / "opd", 2).parent
    gone = {"pid": 1, "host": "elsewhere", "started": 1.0}
    (dead / claim.OWNER).write_text(json.dumps(gone))
    for path in (dead / claim.OWNER, dead / "opd" / "metrics.jsonl"):
        os.utime(path, (1e9, 1e9))
    assert newest(output) == run.parent
    os.utime(run / "metrics.jsonl", (1e8, 1e8))
    assert newest(output) == dead
    with claimed(run.parent):
        assert newest(output) == run.parent
    pretraining = output / "little"
    pretraining.mkdir()
    (pretraining / "pretraining.yaml").write_text("{}")
    with claimed(pretraining):
        assert newest(output) == dead


def test_a_damaged_run_is_named_and_takes_no_other_away(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write(run.parent / "lgr", 3)
    (other / "live.json").write_text("{")
    (run / "config.yaml").write_text("[")
    assert watched(run).steps is None
    page.watch(str(run.parent), "runs", None, once=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be read:" in said
    assert "live.json" in said
    assert "try-001/opd" in said
    (run / "live.json").write_text("{")
    with pytest.raises(DataError, match=r"live\.json"):
        scene(run.parent)


def test_what_does_not_fit_the_terminal_is_cut_and_the_answer_stays(
    working: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {"step": 4, "prompt": "?", "answer": "x " * 2000 + "end", "tokens": 3, "ended": True}
    told = {"phase": "training", "step": 4, "steps": 10}
    tell_live(working, {**told, "sample": {**sample, "rewards": {}}})
    with (working / "metrics.jsonl").open("a") as file:
        many = {f"math/{n}/mean_at_8": 0.5 for n in range(30)}
        file.write(json.dumps({"step": 5, "time": 1010.0, **many}) + "\n")
    console.print(page.shown(scene(working), height=24))
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(lines) <= 24
    assert any("end" in line for line in lines)


def test_of_a_run_that_grows_the_newest_reading_alone_is_kept(run: Path) -> None:
    reader = Reader()
    first = watched(run, reader).rows
    assert watched(run, reader).rows is first, "read once"
    write(run, 5)
    newer = scene(run.parent, reader).runs[0].rows
    assert newer[-1]["step"] == 5
    assert [rows for _, rows in reader.read.values()] == [newer]


def test_curves_have_gaps_where_training_broke_and_none_where_nothing_was_measured() -> None:
    assert page.sparkline([0.0, 1.0, float("nan"), 0.5]) == "▁█ ▅"
    assert page.sparkline([2.0, 2.0]) == "▅▅"
    assert len(page.sparkline(list(range(1000)))) == page.POINTS
    curve = [(1.0, 0.0), (2.0, 1.0), (3.0, float("nan")), (4.0, 0.5)]
    lines = page.drawn("loss", curve, 4)["lines"]
    assert [len(line.split()) for line in lines] == [3, 2]
    assert len(page.drawn("rare", [(1.0, 0.5), (4.0, 0.7)], 4)["lines"]) == 1


def test_a_models_words_do_nothing_on_terminal_and_page(
    working: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {"step": 4, "prompt": HOSTILE, "answer": HOSTILE, "tokens": 3, "ended": False}
    tell_live(
        working,
        {"phase": "training", "step": 4, "steps": 10, "sample": {**sample, "rewards": {"r": 0.5}}}
        | {"memory": {"process": 2**30, "device": 2**33, "device_total": 2**34}},
    )
    target = working.parent.parent / "watch.html"
    page.watch("try-001", str(working.parent.parent), str(target), once=True)
    said = capsys.readouterr().out
    assert "\x1b[2J" not in said
    assert "␛[2J[bold]x[/]" in said
    assert "cut at the limit" in said
    assert "device 8.0 GiB of 16.0 GiB" in said
    text = target.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("</pre>") == 2
    assert "␛[2J[bold]x[/]" in text
    assert not {"\x1b", "\u202e"} & {*text}
    # Nobody writes it again.
    assert "refresh" not in text


def test_a_page_is_loaded_again_as_long_as_it_is_written(
    working: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "watch.html"

    def look(seconds: float) -> None:
        assert re.search(r'http-equiv="refresh" content="\d+"', target.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "sleep", look)
    with pytest.raises(KeyboardInterrupt):
        page.watch(str(working), "runs", str(target), once=False)
    assert "refresh" not in target.read_text()


def test_pages_of_others_stay(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "watch.html"
    page.watch(str(run), "runs", str(target), once=False)
    page.watch(str(run), "runs", str(target), once=False)
    assert list(tmp_path.glob("*.html")) == [target]
    target.write_text(f"{GENERATOR} a leaderboard")
    page.watch(str(run), "runs", str(target), once=False)
    (older,) = set(tmp_path.glob("*.html")) - {target}
    assert "a leaderboard" in older.read_text()
    assert "is kept as" in capsys.readouterr().out
    target.write_text("mine")
    with pytest.raises(DataError, match="name another file by --page"):
        page.watch(str(run), "runs", str(target), once=False)


def test_onlookers_are_told_of_every_kind_of_metric(tmp_path: Path) -> None:
    module, _ = train(experiment({"type": "grpo"}), tmp_path)
    collected = module.collected
    assert collected is not None
    tokens, answers = collected.whole
    assert (tokens, answers) == (len(collected.rollout.token), 4)
    first = int((collected.rollout.row == 0).sum())
    metrics: dict[str, Any] = {
        "bits": torch.ones(tokens, dtype=torch.bool),
        "counts": torch.arange(tokens),
        "answers": torch.arange(answers) + 7,
        "groups": torch.full((2,), 9.0),
        "nothing": torch.full((tokens,), torch.nan),
        "elsewhere": torch.arange(tokens + 5),
    }
    own = replace(collected.supervision, metrics=metrics)
    # A method's own numbers pass as well.
    metrics |= {"number": 0.5, "whole": 3}
    module.collected = replace(collected, supervision=own)
    rewards = sample_of(module)["rewards"]
    assert rewards["bits"] == 1.0
    assert rewards["counts"] == (first - 1) / 2
    assert rewards["answers"] == 7.0
    assert not rewards.keys() & {"number", "whole", "groups", "nothing", "elsewhere"}
    # Of two devices, of which this is the first.
    whole = replace(own, metrics={"counts": torch.arange(2 * tokens)})
    module.collected = replace(collected, supervision=whole, whole=(2 * tokens, 2 * answers))
    assert sample_of(module)["rewards"]["counts"] == (first - 1) / 2
    with Onlookers(tmp_path).evaluating():
        assert read_live(tmp_path)["phase"] == "evaluating"
    Onlookers(tmp_path).step(module, 1, 1)
    # Another process goes on with the evaluation: what was said of the step stays.
    Onlookers(tmp_path).phase("evaluating")
    assert read_live(tmp_path).keys() >= {"sample", "memory", "steps"}
