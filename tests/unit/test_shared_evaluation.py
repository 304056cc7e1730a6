"""Several processes draw the answers of one evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from two_processes import in_two_processes

from opdlab.configuration.loader import load_experiment
from opdlab.console import StopRequest
from opdlab.evaluation import Share, draw_share, evaluate, store
from opdlab.evaluation.measuring import open_subject
from opdlab.identity import Owner
from opdlab.records import Sample
from opdlab.training import evaluating

STUDENT = "embedded:student"
ANSWERS = 9


def test_each_draws_a_share_and_the_first_grades_all_and_draws_what_is_missing(
    tmp_path: Path,
) -> None:
    benchmark = "{type: math, level: short, limit: 3}"
    changes = ["evaluation.samples=3", "evaluation.max_new_tokens=8", f"output={tmp_path}"]
    config = load_experiment("quickstart", [*changes, f"evaluation.benchmarks=[{benchmark}]"])
    subject, label = open_subject(config, STUDENT, STUDENT, None)
    owner, settings = Owner(label, label=f"evaluations/{label}"), config.evaluation
    alone = evaluate(subject, settings, owner, tmp_path / "alone")

    draw_share(config, STUDENT, Share(1, 3))
    folder, there = tmp_path / "evaluations" / label / "samples", []
    (kept,) = store.sample_sets(folder)
    assert len(kept.generations()) == ANSWERS // 3
    shared = Share(0, 3, lambda: there.append(len(kept.generations())))
    # The last process has failed.
    assert plain(evaluate(subject, settings, owner, folder, share=shared)) == plain(alone)
    assert there == [2 * ANSWERS // 3]
    parts = kept.path.glob("generations-*.parquet")
    assert sum(pq.read_metadata(part).num_rows for part in parts) == ANSWERS


def plain(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(one, seconds=0.0) for one in samples]


def interrupted(rank: int) -> None:
    """As by Ctrl-C in a terminal, which reaches all."""
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        if rank == 1:
            stop.check()
        evaluating.share().meet()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_process_whose_peers_a_signal_ended_says_so(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, interrupted) == ["Stopped: stopped by SIGINT"] * 2
