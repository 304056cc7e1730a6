"""What is written and said at the end of a sweep: who is best, what matters, why trials failed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment
from opdlab.sweeps import report
from opdlab.sweeps.importance import groups, importance, importance_figure
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.study import SweepError, progress
from opdlab.tracking import mlflow_store, session as tracking
from opdlab.tracking.session import Tracker

Direction = Literal["maximize", "minimize"]
RATE = "training.learning_rate"
SPACE = {RATE: {"type": "float", "low": 1e-4, "high": 1e-2}}
SCORE_AND_COST = [{"metric": "mean_at_k"}, {"metric": "seconds", "direction": "minimize"}]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    path = tmp_path / "search.yaml"
    path.write_text(
        "name: search\n"
        f"output: {tmp_path}\n"
        "student: {path: embedded:student}\n"
        "teacher: {path: embedded:teacher}\n"
        "prompts: {type: problems, sources: [{type: routes}]}\n"
        "rollout: {type: cached, max_new_tokens: 24}\n"
        "method: {type: lgr}\n"
        "training: {steps: 10}\n"
        "evaluation: {benchmarks: [{type: routes, limit: 4}], samples: 2}\n"
    )
    (tmp_path / "search-sweep").mkdir()
    return load_experiment(path)


def finished(
    values: list[list[float]], excesses: list[dict[str, float]] | None = None
) -> optuna.Study:
    """A study of trials that came out so, each beyond its limits by so much."""
    directions: list[Direction] = ["maximize", "minimize"]
    study = optuna.create_study(directions=directions[: len(values[0])])
    for number, each in enumerate(values):
        trial = study.ask({RATE: FloatDistribution(1e-4, 1e-2)})
        trial.set_user_attr("folder", f"trial-{number:04d}")
        for limit, excess in (excesses[number] if excesses else {}).items():
            trial.set_constraint(limit, excess)
        study.tell(trial, each)
    return study


def written(
    experiment: Experiment, study: optuna.Study, capsys: pytest.CaptureFixture[str], **settings: Any
) -> tuple[str, dict[str, float]]:
    """What the report says, in one line, and the metrics that it records."""
    sweep = Sweep.model_validate({"space": SPACE, "trials": 1, **settings})
    output = Path(experiment.output)
    client = mlflow_store.open_client(mlflow_store.store_uri(output, None))
    mlflow_experiment = mlflow_store.experiment_id(client, "opdlab", output)
    run = tracking.start_run(client, mlflow_experiment, "search-sweep", None, {})
    record = Tracker(client, run, output / "search-sweep")
    record.begin()
    try:
        report.write(experiment, sweep, study, record, mlflow_experiment)
    finally:
        record.close("FINISHED")
    return " ".join(capsys.readouterr().out.split()), client.get_run(run).data.metrics


def test_of_several_objectives_the_best_trial_is_on_the_front_and_each_of_it_has_a_file(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
):
    # 0 ties with 2 in the first objective and costs more; 1 is beaten by 2 in both.
    study = finished([[0.5, 9.0], [0.4, 8.0], [0.5, 5.0], [0.1, 1.0]])
    folder = Path(experiment.output) / "search-sweep"
    (folder / "front").mkdir()
    (folder / "front" / "trial-0000.yaml").write_text("of an earlier report")
    text, metrics = written(experiment, study, capsys, objectives=SCORE_AND_COST)
    assert metrics["best/mean_at_k"] == 0.5
    assert metrics["best/seconds"] == 5.0
    rates = [trial.params[RATE] for trial in study.trials]
    assert load_experiment(folder / "best.yaml").training.learning_rate == rates[2]
    front = sorted(path.name for path in (folder / "front").iterdir())
    assert front == ["trial-0002.yaml", "trial-0003.yaml"]
    other = load_experiment(folder / "front" / "trial-0003.yaml")
    assert (other.name, other.training.learning_rate) == ("search-trial-0003", rates[3])
    assert "search-sweep/front" in text.replace(" ", "")
    trials = report.ranked(
        progress(study),
        Sweep.model_validate({"space": SPACE, "trials": 4, "objectives": SCORE_AND_COST}),
        report.pareto_front(study),
    )
    assert [trial.number for trial in trials] == [2, 3, 0, 1]


def test_where_no_trial_kept_the_limits_none_is_called_best(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
):
    repetition, entropy = "repetition_rate at most 0.2", "entropy at least 1"
    study = finished(
        [[0.5], [0.4], [0.3]],
        [
            {repetition: 0.25, entropy: 0.5},
            {repetition: 0.125, entropy: 0.5},
            {repetition: 0.5, entropy: -0.1},
        ],
    )
    best = Path(experiment.output) / "search-sweep" / "best.yaml"
    best.write_text("of an earlier report")
    text, metrics = written(experiment, study, capsys)
    assert "No trial kept all limits, so there is no best one" in text
    assert " 0 beyond a limit " in text
    assert f"{repetition}: missed by 0.125 in trial 1, the nearest" in text
    assert f"{entropy}: kept by 1 of 3 trials" in text
    assert "opdlab train" not in text
    assert "Best of" not in text
    assert not best.exists()
    assert not [name for name in metrics if name.startswith("best/")]
    sweep = Sweep.model_validate({"space": SPACE, "trials": 3})
    assert "best" not in report.standing(study, sweep, progress(study))


def test_keys_of_one_name_are_told_apart_in_the_table():
    choice = {"type": "choice", "values": [1, 2]}
    space = {"rollout.tau": choice, "method.tau": choice, RATE: SPACE[RATE]}
    sweep = Sweep.model_validate({"space": space, "trials": 1})
    table = report.trials_table(finished([[0.5]]).trials, sweep, ())
    names = [str(column.header) for column in table.columns]
    assert names[2:] == ["rollout.tau", "method.tau", "learning_rate"]


METHOD_SPACE = {
    "method": {"type": "choice", "values": {"opd": {"type": "opd"}, "lgr": {"type": "lgr"}}},
    RATE: SPACE[RATE],
    "method.top_k": {"type": "int", "low": 2, "high": 8, "when": {"method": "lgr"}},
    "method.reward_weight": {"type": "float", "low": 0.1, "high": 1, "when": {"method": "lgr"}},
}


def of_methods(opd: int, lgr: int) -> optuna.Study:
    """A study of so many trials of each method; what each key does differs."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1), direction="maximize")
    for number in range(opd + lgr):
        study.enqueue_trial({"method": "opd" if number < opd else "lgr"})
        trial = study.ask()
        method = trial.suggest_categorical("method", ["opd", "lgr"])
        trial.set_user_attr("folder", f"trial-{number:04d}")
        value = trial.suggest_float(RATE, 1e-4, 1e-2)
        if method == "lgr":
            value += trial.suggest_int("method.top_k", 2, 8)
            value += 0.1 * trial.suggest_float("method.reward_weight", 0.1, 1)
        study.tell(trial, value)
    return study


FEW = 6  # draws, for tests that look at no interval: a hundred take ten seconds


def cells(study: optuna.Study) -> list[tuple[str, ...]]:
    sweep = Sweep.model_validate({"space": METHOD_SPACE, "trials": 40})
    table = report.importance_table(
        {"mean_at_k": importance(study, FEW)}, groups(study), report.conditions(sweep)
    )
    return list(zip(*(column.cells for column in table.columns), strict=True))


def test_no_importance_is_claimed_from_fewer_than_ten_trials():
    *_, few = cells(of_methods(opd=20, lgr=9))
    assert few[1:] == ("method = lgr", "9", "too few: 9 trials")
    assert importance(of_methods(opd=0, lgr=9), FEW) == {}
    assert "method.top_k" in importance(of_methods(opd=20, lgr=10), FEW)


def test_importance_tells_which_shares_belong_together_and_of_how_many_trials():
    study = of_methods(opd=20, lgr=12)
    rows = cells(study)
    assert [row[:3] for row in rows] == [
        ("method", "all", "32"),
        (RATE, "all", "32"),
        ("method.top_k", "method = lgr", "12"),
        ("method.reward_weight", "method = lgr", "12"),
    ]
    assert re.fullmatch(r"\d+ % \[\d+, \d+\]", rows[0][3])
    shares = importance(study, FEW)
    sweep = Sweep.model_validate({"space": METHOD_SPACE, "trials": 40})
    figure = importance_figure(shares, "mean_at_k", report.conditions(sweep))
    assert "method.top_k<br>of trials with method = lgr" in figure.data[0].y


def test_a_report_says_that_trials_are_too_few_to_tell_what_matters(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
):
    text, _ = written(experiment, of_methods(opd=5, lgr=0), capsys, space=METHOD_SPACE)
    assert "too few: 5 trials, of at least 10" in text


def failing(reasons: list[str]) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    for reason in reasons:
        trial = study.ask({RATE: FloatDistribution(1e-4, 1e-2)})
        if reason:
            trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
    return study


def test_a_sweep_without_a_complete_trial_prints_each_reason_and_fails(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
):
    log = "its process ended with code 1: see trial-{:04d}/log.txt"
    study = failing(
        ["ModelError: no [model]", "ModelError: no [model]", "", *map(log.format, (3, 4))]
    )
    study.tell(study.ask(), state=TrialState.PRUNED)
    with pytest.raises(SweepError, match="no trial was completed"):
        written(experiment, study, capsys)
    text = " ".join(capsys.readouterr().out.split())
    assert "trial 0, 1 fail: ModelError: no [model] " in text
    assert "trial 2 fail: no reason was left: see " in text
    assert "trial-0002/log.txt" in text
    assert "trial 3, 4 fail: its process ended with code 1: see trial-0003/log.txt" in text
    assert "trial 5 pruned" in text


def test_failures_are_told_beside_complete_trials(capsys: pytest.CaptureFixture[str]):
    study = failing(["ModelError: no model"])
    study.tell(study.ask(), state=TrialState.PRUNED)
    study.tell(study.ask(), 0.5)
    report.say_failures(progress(study), Path("folder"))
    assert capsys.readouterr().out == "trial 0 fail: ModelError: no model\n"
