"""`opdlab watch`: what is shown of a training that another process goes on with."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opdlab.errors import DataError
from opdlab.files import begin_metrics, claim, claimed, tell_live
from opdlab_dashboards.pages import watch as page
from opdlab_dashboards.results import newest, watched

HOSTILE = "<script>alert(1)</script>\x1b[2J[bold]x[/]</pre>"


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
    assert not page.going_on(page.looked_at(run))
    (run / "model").mkdir()
    assert watched(run).phase == "ended"


def test_a_run_whose_trained_student_is_evaluated_has_not_ended(working: Path) -> None:
    (working / "model").mkdir()
    tell_live(working, {"phase": "evaluating", "step": 10, "steps": 10})
    assert watched(working).phase == "evaluating"
    tell_live(working, {"phase": "ended", "step": 10, "steps": 10})
    assert watched(working).phase == "ended"
    # The execution's next run has not begun.
    assert page.going_on(page.looked_at(working.parent))


def test_the_newest_execution_is_watched_where_none_is_named(run: Path) -> None:
    output = run.parent.parent
    trial = write(output / "wide-sweep" / "trial-0003" / "seed-0", 2)
    earlier = time.time() - 60
    os.utime(run / "metrics.jsonl", (earlier, earlier))
    assert newest(output) == output / "wide-sweep"
    assert [one.folder for one in page.looked_at(output / "wide-sweep")] == [trial]
    with pytest.raises(DataError, match="opdlab train"):
        newest(output / "wide-sweep" / "trial-0003" / "seed-0")
    with pytest.raises(DataError, match="no folder 'typo'"):
        page.found("typo", output)
    (output / "empty").mkdir()
    with pytest.raises(DataError, match="has begun"):
        page.looked_at(output / "empty")


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
    assert re.search(r'http-equiv="refresh" content="\d+"', text)


def test_a_page_of_a_run_that_ended_is_not_loaded_again(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "watch.html"
    page.watch(str(run), "runs", str(target), once=False)
    assert "refresh" not in target.read_text()
    target.write_text("mine")
    with pytest.raises(DataError, match="not written by opdlab"):
        page.watch(str(run), "runs", str(target), once=False)
