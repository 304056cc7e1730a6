"""Every run that is shipped: what holds of its settings beyond their being valid."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment, variants
from opdlab.evaluation.measured import sampling_engine
from opdlab.training.hacking import unwatched

SHIPPED = [
    path
    for path in sorted((Path(__file__).parents[2] / "experiments").rglob("*.yaml"))
    if "\nmethod:" in path.read_text()
]
each_file = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)


@cache
def runs_of(path: Path) -> list[Experiment]:
    return [run for _, run in variants(load_experiment(str(path), []))]


@each_file
def test_every_sign_of_hacking_is_watched_or_it_is_said(path: Path) -> None:
    for run in runs_of(path):
        graded = run.prompts.type == "problems" and run.method.sampler == "student"
        assert bool(list(unwatched(run))) is not graded


@each_file
def test_no_answer_is_cut_shorter_in_measurement_than_in_training(path: Path) -> None:
    for run in runs_of(path):
        if run.evaluation.benchmarks:
            engine = sampling_engine(run.rollout, run.evaluation)
            assert engine.max_new_tokens >= run.rollout.max_new_tokens
