"""Sweeps of seconds: begun, looked at while they run, checked when they are done."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
from end_to_end.laboratory import Laboratory
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState

from opdlab.files import read_metrics

STEPS = 12
SPACE = {
    "method.top_k": {"type": "int", "low": 2, "high": 8},
    "method.reward_weight": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
}


def sweep_file(laboratory: Laboratory, **sweep: Any) -> Path:
    """An experiment with a sweep of short trials."""
    settings = {
        "space": SPACE,
        "trials": 5,
        "seeds": [0],
        "startup_trials": 3,
        "heartbeat_s": 1,
        **sweep,
    }
    return laboratory.write(
        training__steps=STEPS, training__checkpoint_every=2, tracking__weights=False, sweep=settings
    )


def trials_of(laboratory: Laboratory, storage: str | None = None) -> list[FrozenTrial]:
    file = laboratory.output / "small-sweep" / "optuna.db"
    opened = optuna.storages.RDBStorage(storage or f"sqlite:///{file}")
    found = optuna.load_study(study_name="small", storage=opened).get_trials()
    opened.remove_session()
    opened.engine.dispose()
    return found


def first_number(trial: FrozenTrial) -> int:
    return trial.system_attrs.get("failed_trial", trial.number)


def at_once(trials: list[FrozenTrial]) -> int:
    """How many trials were in work at the same time."""
    spans = [(t.datetime_start, t.datetime_complete) for t in trials]
    return max(sum(a <= start < b for a, b in spans if a and b) for start, _ in spans if start)


def processes(laboratory: Laboratory, role: str = "") -> list[psutil.Process]:
    """Living processes of a role, or all but the command itself, by where they write."""
    found = []
    for process in psutil.process_iter():
        try:
            output = os.readlink(f"/proc/{process.pid}/fd/1")
            if output.startswith(f"{laboratory.output}/") and role in process.name():
                found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def wait_until(found: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


def training(laboratory: Laboratory) -> list[Path]:
    """Trials that have taken three steps and are not done."""
    return [
        path
        for path in (laboratory.output / "small-sweep").glob("trial-*/seed-*/metrics.jsonl")
        if path.read_text().count("\n") > 3 and not (path.parent / "finished").exists()
    ]


def hold_a_trial(laboratory: Laboratory) -> psutil.Process:
    """Suspend a trial in the midst of its training; whoever called resumes it."""

    def held() -> psutil.Process | None:
        for process in processes(laboratory, "opdlab-trial"):
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                if training(laboratory):
                    return process
                process.resume()
        return None

    return wait_until(held, "a trial in training")


def assert_whole(laboratory: Laboratory, trials: int, storage: str | None = None) -> None:
    """Every trial counted once, complete, all its steps there once; nothing left running."""
    found = trials_of(laboratory, storage)
    complete = [first_number(t) for t in found if t.state == TrialState.COMPLETE]
    assert sorted(complete) == sorted({first_number(trial) for trial in found})
    assert len(complete) == trials
    assert {t.state for t in found} <= {TrialState.COMPLETE, TrialState.FAIL}
    folders = sorted((laboratory.output / "small-sweep").glob("trial-*"))
    assert [int(folder.name[6:]) for folder in folders] == sorted(complete)
    for folder in folders:
        steps = [row["step"] for row in read_metrics(folder / "seed-0")]
        assert steps == list(range(1, STEPS + 1)), folder
    assert processes(laboratory) == []


def assert_tracked(client: MlflowClient, trials: int) -> None:
    """One finished run a trial under one finished run of the sweep."""
    experiment = client.get_experiment_by_name("opdlab")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = (run for run in runs if run.info.run_name == "small-sweep")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == trials == len({run.info.run_name for run in children})
    for child in children:
        assert "mean_at_k" in child.data.metrics
        assert "method.reward_weight" in child.data.params


@contextmanager
def sweeping(laboratory: Laboratory, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`opdlab sweep` in the background, gone at the end whatever happens."""
    process = laboratory.start("sweep", *arguments)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def finish(sweep: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == code, text
    return text
