"""Which trials of a sweep are ended early, which are not run at all, and how each comes out."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment
from opdlab.console.interrupt import StopRequest
from opdlab.errors import DataError
from opdlab.modelling import models
from opdlab.sweeps import study as studies
from opdlab.sweeps.importance import groups
from opdlab.sweeps.outcome import OUTCOME, Outcome, last_known, read_stop, write_stop
from opdlab.sweeps.pruning import Lagging
from opdlab.sweeps.study import SweepError, make_pruner, open_storage, open_study, progress
from opdlab.sweeps.watch import beyond
from opdlab.sweeps.worker import Worker
from opdlab.training.processes import Zygote

EVALUATIONS = 16
STARTUP = 8
RATE = "training.learning_rate"


def curves(pruner: str, trials: int, course: Callable[[int, int], float]) -> list[int]:
    """How many evaluations each trial of a study came to, of `EVALUATIONS`."""
    sweep = load(pruner=pruner, startup_trials=STARTUP).sweep
    assert sweep is not None
    study = optuna.create_study(direction="minimize", pruner=make_pruner(sweep))

    def objective(trial: optuna.Trial) -> float:
        for number in range(1, EVALUATIONS + 1):
            trial.report(course(trial.number, number), 10 * number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.0

    study.optimize(objective, n_trials=trials)
    return [len(trial.intermediate_values) for trial in study.trials]


def load(*overrides: str, **settings: Any) -> Experiment:
    space = {RATE: {"type": "float", "low": 1e-4, "high": 1e-2}}
    sweep = {"trials": 4, "space": space, **settings}
    lines = ["runs=[]", "method={type: opd}", "evaluation.every=10", f"sweep={json.dumps(sweep)}"]
    return load_experiment("quickstart", [*lines, *overrides])


def talent(trial: int, evaluation: int) -> float:
    """A score that depends on the trial alone, but for some noise."""
    chance = random.Random(1000 * trial + evaluation)
    return random.Random(trial).random() + chance.gauss(0, 0.02)


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_pruner_ends_about_half_of_the_trials_and_none_of_the_first(pruner: str) -> None:
    reached = curves(pruner, 100, talent)
    assert reached[:STARTUP] == [EVALUATIONS] * STARTUP
    later = reached[STARTUP:]
    at_first = sum(length == 1 for length in later) / len(later)
    to_the_end = sum(length == EVALUATIONS for length in later) / len(later)
    assert 0.3 < at_first < 0.65
    assert 0.3 < to_the_end < 0.65
    best = max(range(100), key=lambda trial: random.Random(trial).random())
    assert reached[best] == EVALUATIONS


def test_halving_asks_at_the_first_report_and_at_each_doubling_alone() -> None:
    # Bad from its third evaluation on: asked again at the fourth.
    reached = curves("halving", 12, lambda trial, number: -(trial == 11) * (number >= 3) + 1.0)
    assert reached == [EVALUATIONS] * 11 + [4]


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_trial_that_collapses_is_ended(pruner: str) -> None:
    def course(trial: int, number: int) -> float:
        return 0.0 if trial >= STARTUP and number > 8 else 0.5 + 0.01 * number

    reached = curves(pruner, STARTUP + 2, course)
    assert reached[STARTUP:] == ([9, 9] if pruner == "median" else [EVALUATIONS] * 2)


def test_a_metric_counts_where_it_was_last_measured() -> None:
    rows = [{"step": 1.0, "time": 1.0, "loss": 2.0, "accuracy": 0.5}, {"step": 2.0, "loss": 1.0}]
    assert last_known(rows) == {"loss": 1.0, "accuracy": 0.5}


def test_scores_of_benchmarks_and_costs_end_a_trial_as_well() -> None:
    costs = {"teacher_tokens": 60.0, "seconds/rollout": 1.0}
    costs |= {"seconds/teacher": 1.0, "seconds/update": 1.0}
    rows = [{"step": float(step), **costs} for step in range(1, 21)]
    for one in load().evaluation.benchmarks:
        rows[9] |= {f"{one.benchmark}/mean_at_8": 0.25, f"{one.benchmark}/pass_at_8": 0.5}

    def reason(metric: str, **bound: float) -> str:
        config = load(stop_when_beyond=[{"metric": metric, **bound}])
        assert config.sweep is not None
        return beyond(rows, config.sweep, config)

    assert reason("mean_at_k", at_least=0.3).startswith("mean_at_k is 0.25 at step 10, not")
    assert reason("pass_at_k", at_least=0.6).startswith("pass_at_k is 0.5 at step 10")
    assert reason("math/short/mean_at_8", at_least=0.3).startswith("math/short/mean_at_8 is 0.25")
    assert reason("mean_at_k", at_least=0.2) == ""
    assert reason("teacher_tokens", at_most=700).startswith("teacher_tokens is 720 at step 12")
    assert reason("seconds", at_most=30).startswith("seconds is 33 at step 11")


def test_a_reason_to_stop_is_for_the_process_that_it_names(tmp_path: Path) -> None:
    assert read_stop(tmp_path) == ""
    write_stop(tmp_path, "lags behind", os.getpid() + 1)
    assert read_stop(tmp_path) == ""
    write_stop(tmp_path, "lags behind")
    assert read_stop(tmp_path) == ""
    write_stop(tmp_path, "lags behind", os.getpid())
    assert read_stop(tmp_path) == "lags behind"


def worked(tmp_path: Path, trials: int, **settings: Any) -> tuple[optuna.Study, list[Path]]:
    """A sweep whose trials have all been trained already, worked off by one worker."""
    config = load(f"output={tmp_path}", trials=trials, **settings)
    assert config.sweep is not None
    study = open_study(config, config.sweep)
    folder = studies.folder_of(config)
    for number in range(200):
        place = folder / f"trial-{number:04d}"
        place.mkdir(exist_ok=True)
        # Of the second trial one metric has no value.
        found = {
            "mean_at_k": number / 200,
            "loss": 1.0,
            "fidelity": 0.5 if number != 1 else math.nan,
        }
        Outcome("complete", "", [found]).write(place)
    storage = open_storage(config, config.sweep)
    with StopRequest() as stop:
        zygote = cast(Zygote, None)  # nothing is begun
        Worker(config, config.sweep, study, storage, stop, time.time() + 600, zygote).work()
    storage.remove_session()
    storage.engine.dispose()
    return study, [path.parent for path in folder.glob(f"*/{OUTCOME}")]


FEW = {
    "method": {"type": "choice", "values": {"a": {"type": "opd"}, "b": {"type": "lgr"}}},
    "method.top_k": {"type": "int", "low": 2, "high": 4, "when": {"method": "b"}},
}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_equal_parameters_are_not_trained_again(
    tmp_path: Path, sampler: Literal["tpe", "random"]
) -> None:
    study, _ = worked(tmp_path, 9, space=FEW, sampler=sampler, startup_trials=2)
    finished = progress(study).finished.values()
    assert {trial.state for trial in finished} == {TrialState.COMPLETE}
    params = sorted(json.dumps(trial.params) for trial in finished)
    assert params == sorted(
        ['{"method": "a"}', *(f'{{"method": "b", "method.top_k": {k}}}' for k in (2, 3, 4))]
    )


def test_equal_parameters_count_once_in_what_matters() -> None:
    study = optuna.create_study()
    for number in range(12):
        trial = study.ask()
        trial.suggest_int("x", number % 2, number % 2)
        study.tell(trial, 1.0)
    (group,) = groups(study)
    assert len(group.trials) == 2


def test_a_combination_that_is_refused_fails_with_its_reason_and_the_sweep_goes_on(
    tmp_path: Path,
) -> None:
    space = {
        "training.steps": {"type": "choice", "values": [10, 500]},
        "training.warmup_steps": {"type": "choice", "values": [0, 5, 20]},
    }
    study, _ = worked(tmp_path, 6, space=space, sampler="grid")
    finished = progress(study).finished.values()
    (refused,) = (trial for trial in finished if trial.state == TrialState.FAIL)
    assert refused.params == {"training.steps": 10, "training.warmup_steps": 20}
    assert refused.user_attrs["reason"] == (
        "this combination cannot be used: training.warmup_steps (20) must be below training.steps (10)"
    )
    assert [trial.state for trial in finished].count(TrialState.COMPLETE) == 5


def test_a_metric_that_no_trial_has_ends_the_sweep_after_a_few(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no metric 'accuracy'; they have: fidelity, loss, mean_at_k"
    ):
        worked(tmp_path, 9, constraints=[{"metric": "accuracy", "at_least": 0.1}])


def test_a_trial_without_a_value_to_compare_fails_with_its_reason_and_is_not_repeated(
    tmp_path: Path,
) -> None:
    study, _ = worked(tmp_path, 3, objectives=[{"metric": "fidelity"}])
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert "'fidelity' of this trial is NaN" in study.trials[1].user_attrs["reason"]


def test_another_sweep_of_this_name_in_the_same_folder_is_no_result_of_this_one(
    tmp_path: Path,
) -> None:
    worked(tmp_path, 2)
    worked(tmp_path, 2)
    (tmp_path / "quickstart-sweep" / "optuna.db").unlink()
    with pytest.raises(SweepError, match="holds trials of another study"):
        worked(tmp_path, 2)


def test_a_sweep_goes_on_with_the_models_that_it_began_with_alone(tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(models.EMBEDDED / "student", student)
    config = load(f"output={tmp_path}", f"student.path={student}", trials=2)
    assert config.sweep is not None
    open_study(config, config.sweep)
    open_study(config, config.sweep)
    settings = student / "generation_config.json"
    settings.write_text(settings.read_text().replace("{", '{"max_length": 7,', 1))
    with pytest.raises(SweepError, match="the student of the sweep quickstart changed since"):
        open_study(config, config.sweep)


def test_models_that_trials_choose_among_are_known_by_contents_too(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(models.EMBEDDED / "teacher", teacher)
    named = {"type": "choice", "values": ["embedded:teacher", str(teacher)]}
    config = load(f"output={tmp_path}", space={"teacher.path": named}, trials=2)
    assert config.sweep is not None
    open_study(config, config.sweep)
    settings = teacher / "generation_config.json"
    settings.write_text(settings.read_text().replace("{", '{"max_length": 7,', 1))
    with pytest.raises(SweepError, match=f"the teacher with teacher.path={teacher} of the sweep"):
        open_study(config, config.sweep)


def test_a_damaged_outcome_is_named_and_made_again(tmp_path: Path) -> None:
    config = load(f"output={tmp_path}")
    assert config.sweep is not None
    folder = tmp_path / "trial-0000"
    folder.mkdir()
    said: list[str] = []
    worker = object.__new__(Worker)
    worker.say = said.append  # type: ignore[method-assign]
    for content in ("{", "null", '{"state": "done"}', '{"state": "complete", "seeds": 3}'):
        (folder / OUTCOME).write_text(content)
        assert worker._left(folder) is None
        assert not (folder / OUTCOME).exists()
        assert str(folder / OUTCOME) in said[-1]
    Outcome("complete", seeds=[{"a": 1.0}]).write(folder)
    assert worker._left(folder) == Outcome("complete", seeds=[{"a": 1.0}])


@pytest.mark.parametrize("point", ["before its first sign of life", "before it was queued again"])
def test_a_trial_whose_worker_was_killed_is_run_again(tmp_path: Path, point: str) -> None:
    config = load(f"output={tmp_path}", trials=2, heartbeat_s=1)
    assert config.sweep is not None
    study = open_study(config, config.sweep)
    trial = study._storage.create_new_trial(study._study_id)
    if point == "before it was queued again":
        study._storage.set_trial_state_values(trial, TrialState.FAIL)
    study, _ = worked(tmp_path, 2, heartbeat_s=1)
    finished = progress(study).finished
    assert [trial.state for trial in finished.values()] == [TrialState.COMPLETE] * 2
    assert len(finished) == 2
    assert 0 in finished


def test_several_tries_of_a_trial_are_one_of_those_that_it_is_compared_with() -> None:
    study = optuna.create_study()

    def add(first: int, value: float, state: TrialState) -> FrozenTrial:
        again = {} if first == len(study.trials) else {"failed_trial": first}
        came = {"value": value} if state == TrialState.COMPLETE else {}
        reports = {"intermediate_values": {1: value}, "system_attrs": again}
        study.add_trial(create_trial(state=state, **came, **reports))
        return study.trials[-1]

    for first, value in enumerate([0.1, 0.2, 0.9]):
        add(first, value, TrialState.COMPLETE)
    pruner = Lagging("median", 3)
    assert not pruner.prune(study, add(3, 0.5, TrialState.RUNNING))
    for _ in range(4):  # the best one was killed again and again
        add(2, 0.9, TrialState.FAIL)
    assert not pruner.prune(study, add(8, 0.5, TrialState.RUNNING))
    # A first try of its own is none of the others: with it two of four would be ahead, and no majority.
    study = optuna.create_study()
    for first, value in enumerate([0.9, 0.9, 0.1]):
        add(first, value, TrialState.COMPLETE)
    add(3, 0.5, TrialState.FAIL)
    assert pruner.prune(study, add(3, 0.5, TrialState.RUNNING))


def test_costs_are_added_up_over_a_long_training_in_one_pass() -> None:
    costs = {"teacher_tokens": 1.0, "seconds/rollout": 0.0}
    costs |= {"seconds/teacher": 0.0, "seconds/update": 0.0}
    reads = 0

    class Row(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            nonlocal reads
            reads += 1
            return super().__getitem__(key)

    rows = [Row(costs, step=float(step)) for step in range(1, 501)]
    config = load(stop_when_beyond=[{"metric": "teacher_tokens", "at_most": 499}])
    assert config.sweep is not None
    assert beyond(rows, config.sweep, config).startswith("teacher_tokens is 500 at step 500")
    assert reads < 20 * len(rows)
