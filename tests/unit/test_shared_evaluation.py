"""Several processes draw the answers of one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from opdlab.configuration.loader import load_experiment
from opdlab.evaluation import Share, draw_share, evaluate, store
from opdlab.evaluation.measuring import open_subject
from opdlab.identity import Owner
from opdlab.records import Sample

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
