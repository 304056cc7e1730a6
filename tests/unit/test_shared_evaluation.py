"""Several processes draw the answers of one evaluation."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from two_processes import in_two_processes

from opdlab import api
from opdlab.configuration import Experiment
from opdlab.configuration.loader import load_experiment
from opdlab.console import StopRequest, progress_bar
from opdlab.errors import ConfigError
from opdlab.evaluation import Share, Subject, draw_share, evaluate, measuring, store
from opdlab.evaluation.measuring import evaluate_with_progress, open_subject
from opdlab.identity import Owner
from opdlab.records import Sample
from opdlab.training import evaluating

STUDENT = "embedded:student"
ANSWERS = 9
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def config_of(output: Path, *more: str) -> Experiment:
    benchmark = "{type: math, level: short, limit: 3}"
    changes = ["evaluation.samples=3", "evaluation.max_new_tokens=8", f"output={output}"]
    return load_experiment("quickstart", [*changes, f"evaluation.benchmarks=[{benchmark}]", *more])


def test_each_draws_a_share_and_the_first_grades_all_and_draws_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bar tells the time left of its own share."""
    config = config_of(tmp_path)
    with pytest.raises(ConfigError, match="leave out server or workers"):
        api.evaluate(STUDENT, config, server="http://localhost", workers=2)
    subject, label = open_subject(config, STUDENT, STUDENT, None)
    owner, settings = Owner(label, label=f"evaluations/{label}"), config.evaluation
    alone = evaluate(subject, settings, owner, tmp_path / "alone")

    draw_share(config, STUDENT, Share(1, 3))
    folder, there = tmp_path / "evaluations" / label / "samples", list[float | None]()
    (kept,) = store.sample_sets(folder)
    assert len(kept.generations()) == ANSWERS // 3
    bar = progress_bar()
    monkeypatch.setattr(measuring, "progress_bar", lambda: bar)

    def meet() -> None:
        there.extend([len(kept.generations()), bar.tasks[0].completed, bar.tasks[0].total])

    # The last process has failed.
    samples = evaluate_with_progress(
        subject, settings, owner, folder, lambda: None, Share(0, 3, meet)
    )
    assert plain(samples) == plain(alone)
    assert there == [2 * ANSWERS // 3, ANSWERS // 3, ANSWERS // 3]
    assert bar.tasks[0].completed == bar.tasks[0].total == ANSWERS
    parts = kept.path.glob("generations-*.parquet")
    assert sum(pq.read_metadata(part).num_rows for part in parts) == ANSWERS


def test_choices_are_weighed_with_those_that_one_process_weighs_them_with(tmp_path: Path) -> None:
    """Else their log-probabilities differ in the last digit, and between samples of a problem."""
    numbers = Random(1)
    rows = [
        {
            "q": "".join(numbers.choices("0123456789+-", k=numbers.randint(3, 60))),
            "options": [f"{numbers.random():.{numbers.randint(1, 9)}f}" for _ in range(4)],
            "answer": n % 4,
        }
        for n in range(35)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = f"path: {tmp_path}/rows.jsonl, column: q, choices: [options], answer_column: answer"
    weighs = f"{{type: dataset, name: w, choose: likelihood, {told}}}"
    config = config_of(tmp_path, "evaluation.samples=1", f"evaluation.benchmarks=[{weighs}]")
    subject, _ = open_subject(config, STUDENT, STUDENT, None)
    drawn = []
    for shares in ([Share()], [Share(1, 2), Share(0, 2)]):
        folder = tmp_path / f"{len(shares)}"
        for share in shares:
            evaluate(subject, config.evaluation, Owner("x"), folder, share=share)
        (kept,) = store.sample_sets(folder)
        drawn.append({key: row.drawn for key, row in kept.generations().items()})
    assert drawn[0] == drawn[1]


def together(config: Experiment, run: Path, rank: int) -> int:
    subject, _ = open_subject(config, STUDENT, STUDENT, None)
    assert isinstance(subject, Subject)
    owner = Owner("run")
    if rank:
        evaluating.follow(config, lambda _: nullcontext(subject), lambda _: None)
        return 0
    share = evaluating.lead(config, owner, run)
    return len(evaluate(subject, config.evaluation, owner, run / "samples", share=share))


@FORKS
def test_processes_that_train_together_draw_what_one_draws(tmp_path: Path) -> None:
    config = config_of(tmp_path, "training.devices=2")
    (tmp_path / "stores").mkdir()
    found = in_two_processes(tmp_path / "stores", partial(together, config, tmp_path))
    assert found == [ANSWERS, 0]
    (both,) = store.sample_sets(tmp_path / "samples")
    assert len(list(both.path.glob("generations-*.parquet"))) == 2
    assert together(config_of(tmp_path), tmp_path / "alone", 0) == ANSWERS
    (alone,) = store.sample_sets(tmp_path / "alone" / "samples")
    assert {key: row.drawn for key, row in both.generations().items()} == {
        key: row.drawn for key, row in alone.generations().items()
    }


def plain(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(one, seconds=0.0) for one in samples]


def interrupted(rank: int) -> None:
    """As by Ctrl-C in a terminal, which reaches all."""
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        if rank == 1:
            stop.check()
        evaluating.share().meet()


@FORKS
def test_a_process_whose_peers_a_signal_ended_says_so(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, interrupted) == ["Stopped: stopped by SIGINT"] * 2
