"""The space of a sweep, what counts as a trial, and when a trial is given up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment, with_values
from opdlab.errors import ConfigError, DataError
from opdlab.sweeps import report
from opdlab.sweeps.goals import Limit
from opdlab.sweeps.importance import importance, of_one_objective
from opdlab.sweeps.outcome import Outcome, intermediate
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.space import FloatRange, IntRange, chosen_values, identity, tries
from opdlab.sweeps.study import make_pruner, make_sampler, progress, suggest
from opdlab.sweeps.view import sweep_view
from opdlab.sweeps.worker import Watch, trial_config
from opdlab.tracking import mlflow_store
from opdlab.tracking.mlflow_page import VIEW, save_view

METHODS = {"type": "choice", "values": {"opd": {"type": "opd"}, "lgr": {"type": "lgr"}}}
CONDITIONAL = {
    "method": METHODS,
    "method.top_k": {"type": "int", "low": 2, "high": 8, "when": {"method": "lgr"}},
    "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
}


def parsed(space: dict[str, Any], **settings: Any) -> Sweep:
    return Sweep.model_validate({"space": space, "trials": 4} | settings)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(
        "name: search\n"
        "student: {path: embedded:student}\n"
        "teacher: {path: embedded:teacher}\n"
        "prompts: {type: problems, sources: [{type: routes}]}\n"
        "rollout: {type: cached, max_new_tokens: 24}\n"
        "method: {type: lgr}\n"
        "training: {steps: 10}\n"
        "evaluation: {benchmarks: [{type: routes, limit: 4}], samples: 2, every: 5}\n"
        "sweep:\n"
        "  trials: 4\n"
        "  seeds: [0, 1]\n"
        "  pruner: median\n"
        "  startup_trials: 2\n"
        "  space:\n"
        "    method.top_k: {type: int, low: 2, high: 8}\n"
    )
    return path


@pytest.fixture
def experiment(file: Path) -> Experiment:
    return load_experiment(file)


def space(name: str, **dimension: Any) -> str:
    return f"sweep.space={json.dumps({name: dimension})}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.space.method.top_k.low=1"], "method.top_k must be at least 2, not 1"),
        (["sweep.space.method.top_k.low=9"], "low (9) is above high (8)"),
        (["sweep.space.method.top_k.log=yes"], "must be true or false"),
        ([space("method.top_k", type="int", low=2, high=2**53 + 1)],
         "high must be at most 9007199254740992"),
        ([space("training.learning_rate", type="float", low=0.0, high=1.0, step=1e-30)],
         "step (1e-30) is so small that neighbouring values are equal"),
        ([space("training.learning_rate", type="float", low=-1e308, high=1e308)],
         "from low (-1e+308) to high (1e+308) is too far"),
        ([space("seed", type="int", low=0, high=9)], "seed is the same in all trials"),
        ([space("method.type", type="choice", values=["opd"])], "choose the whole method"),
        ([space("method.topk", type="int", low=2, high=3)], "Did you mean method.top_k?"),
        ([space("training.learning_rate", type="float", low=0.1, high=1.0), "sweep.sampler=grid"],
         "has no end of values"),
        (["sweep.sampler=grid", "sweep.trials=8"], "a grid of 7 points"),
        ([space("method.top_k", type="choice", values={"a": 2, "b": 3, "c": 2})],
         "method.top_k: c stands for the same as a"),
        ([space("method", type="choice", values={"a": {"type": "opd"},
                                                 "b": {"type": "opd", "top_k": None}})],
         "method: b stands for the same as a"),
        (["sweep.seeds=[1, 1]"], "each may be given once"),
        (["runs=[{name: a}]"], "a sweep varies one run"),
        (["evaluation.every=0", "sweep.seeds=[0]"], "set evaluation.every or more seeds"),
        ([space("rollout.max_new_tokens", type="int", low=8, high=9)],
         "evaluation.max_new_tokens is missing"),
        (["sweep.objectives=[{metric: a}, {metric: b}]"], "no trial can be pruned"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_with_the_reason(file: Path, overrides: list[str], message: str):
    with pytest.raises(ConfigError) as error:
        load_experiment(file, overrides)
    assert message in str(error.value)


def test_a_fault_of_a_range_is_found_in_the_line_of_its_key(file: Path):
    file.write_text(file.read_text().replace("low: 2", "low: 1"))
    with pytest.raises(ConfigError) as error:
        load_experiment(file)
    assert str(error.value).endswith(
        "search.yaml:15: sweep.space: method.top_k must be at least 2, not 1"
    )


def test_a_conditional_key_exists_only_where_its_condition_holds():
    sweep = parsed(CONDITIONAL, sampler="random")
    study = optuna.create_study(sampler=make_sampler(sweep, 0))
    seen = [suggest(sweep, study.ask()) for _ in range(40)]
    assert {chosen["method"] for chosen in seen} == {"opd", "lgr"}
    for chosen in seen:
        assert ("method.top_k" in chosen) == (chosen["method"] == "lgr")


def test_a_value_is_tried_with_what_it_depends_on_and_with_all_ends_of_others():
    space = parsed(CONDITIONAL).space
    found = list(tries(space, "method.top_k", 8))
    assert {chosen["method"] for chosen in found} == {"lgr"}
    assert {chosen["method.top_k"] for chosen in found} == {8}
    assert {chosen["training.learning_rate"] for chosen in found} == {1e-4, 1e-2}
    found = list(tries(space, "training.learning_rate", 1e-4))
    assert all(("method.top_k" in c) == (c["method"] == "lgr") for c in found)
    assert len({json.dumps(chosen) for chosen in found}) == len(found) == 3


def test_a_named_choice_replaces_a_section_before_keys_inside_it(experiment: Experiment):
    space = parsed(CONDITIONAL).space
    chosen = {"method": "lgr", "method.top_k": 5, "training.learning_rate": 0.002}
    varied = with_values(experiment, chosen_values(space, chosen))
    assert varied.method.group == 5
    assert varied.training.learning_rate == 0.002
    assert with_values(experiment, chosen_values(space, {"method": "opd"})).method.group == 0


def test_a_condition_must_name_an_earlier_key_and_a_value_it_has():
    later = {"a": {"type": "int", "low": 1, "high": 2, "when": {"b": 1}}}
    with pytest.raises(ValueError, match="must come before it"):
        parsed({**later, "b": {"type": "int", "low": 1, "high": 2}})
    with pytest.raises(ValueError, match="never 'grpo'"):
        parsed({"m": METHODS, "a": {"type": "int", "low": 1, "high": 2, "when": {"m": "grpo"}}})


def test_huge_ranges_are_counted_and_not_listed():
    huge = {"a": {"type": "int", "low": 0, "high": 10**15, "step": 5}}
    later = {"type": "int", "low": 1, "high": 2, "when": {"a": 10**15}}
    assert parsed({**huge, "b": later}).space["b"].when == {"a": 10**15}
    for never in (7, 10**15 + 5, 2.5, "a", True):
        with pytest.raises(ValueError, match=r"never .*, but from 0 to 1e\+15 in steps of 5"):
            parsed({**huge, "b": {**later, "when": {"a": never}}})
    with pytest.raises(ValueError, match="a grid of 200,000,000,000,001 points is more than"):
        parsed(huge, sampler="grid", trials=4)


def test_steps_of_any_size_are_told_apart_and_written_as_a_person_would():
    small = FloatRange(type="float", low=0, high=3e-14, step=1e-14)
    assert small.listed() == [0.0, 1e-14, 2e-14, 3e-14]
    tenths = FloatRange(type="float", low=0.1, high=0.75, step=0.1)
    assert tenths.listed() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert tenths.last == 0.7
    far = FloatRange(type="float", low=1e9, high=1e9 + 1, step=0.1)
    assert len({identity({"x": far}, {"x": value}) for value in far.listed()}) == 11
    assert identity({"x": tenths}, {"x": 0.1 + 2 * 0.1}) == identity({"x": tenths}, {"x": 0.3})
    assert IntRange(type="int", low=1, high=10, step=4).ends() == [1, 9]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid", "cmaes"])
def test_every_sampler_repeats_itself_whatever_worker_asks(sampler: str):
    space = {
        "x": {"type": "int", "low": 0, "high": 5},
        "y": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.5},
    }
    sweep = parsed(space, sampler=sampler, startup_trials=3)

    def run() -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize")
        for number in range(6):
            study.sampler = make_sampler(sweep, number)
            trial = study.ask()
            chosen = suggest(sweep, trial)
            study.tell(trial, chosen["x"] + chosen["y"])
        return [trial.params for trial in study.trials]

    assert run() == run()
    assert len({json.dumps(params) for params in run()}) > 1


def test_a_grid_visits_every_point_once():
    space = {"x": {"type": "int", "low": 0, "high": 2}, "y": {"type": "choice", "values": [1, 7]}}
    sweep = parsed(space, sampler="grid", trials=6)
    study = optuna.create_study()
    for number in range(6):
        study.sampler = make_sampler(sweep, number)
        study.optimize(lambda trial: float(len(suggest(sweep, trial))), n_trials=1)
    points = {tuple(trial.params.values()) for trial in study.trials}
    assert points == {(x, y) for x in range(3) for y in (1, 7)}


def test_a_trial_that_was_tried_again_counts_once():
    study = optuna.create_study()
    settings: dict[str, Any] = {
        "params": {"x": 1},
        "distributions": {"x": IntDistribution(0, 9)},
    }
    again = {"failed_trial": 0, "retry_history": [0]}
    study.add_trial(create_trial(state=TrialState.FAIL, **settings))
    study.add_trial(create_trial(state=TrialState.FAIL, **settings))
    study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=again, **settings))
    state = progress(study)
    assert (state.begun, state.waiting, sorted(state.finished)) == (2, 1, [1])
    twice = {"failed_trial": 0, "retry_history": [0, 2]}
    study.add_trial(
        create_trial(state=TrialState.COMPLETE, value=3.0, system_attrs=twice, **settings)
    )
    study.tell(study.ask(), state=TrialState.FAIL)  # the waiting one
    state = progress(study)
    assert (state.begun, state.waiting, sorted(state.finished)) == (2, 0, [0, 1])
    assert state.finished[0].value == 3.0


def write_run(folder: Path, rows: list[dict[str, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def watching(experiment: Experiment, folder: Path, others: list[float]) -> Watch:
    """A trial whose predecessors scored `others` at step 5."""
    assert experiment.sweep is not None
    study = optuna.create_study(direction="maximize", pruner=make_pruner(experiment.sweep))
    for score in others:
        study.add_trial(create_trial(value=score, intermediate_values={5: score}))
    trial = trial_config(experiment, experiment.sweep, {"method.top_k": 3})
    return Watch(study.ask(), folder, trial, experiment.sweep)


def test_a_trial_below_the_median_of_the_others_is_given_up(experiment: Experiment, tmp_path: Path):
    write_run(tmp_path / "seed-0", [{"step": 4}, {"step": 5, "routes/mean_at_2": 0.2}])
    assert watching(experiment, tmp_path, [0.1, 0.15, 0.6]).look() == ""
    reason = watching(experiment, tmp_path, [0.5, 0.6, 0.1]).look()
    assert reason == "seed-0: 0.200 at step 5 lags behind the other trials"


def test_an_alarm_names_metric_step_and_limit(experiment: Experiment, tmp_path: Path):
    assert experiment.sweep is not None
    limit = Limit(metric="repetition_rate", at_most=0.3)
    sweep = experiment.sweep.model_copy(update={"stop_when_beyond": [limit]})
    watch = watching(experiment, tmp_path, [])
    watch.sweep = sweep
    write_run(tmp_path / "seed-0", [{"step": 7, "repetition_rate": 0.3}])
    assert watch.look() == ""
    write_run(tmp_path / "seed-0", [{"step": 8, "repetition_rate": 0.31}])
    assert (
        watch.look() == "seed-0: repetition_rate is 0.31 at step 8, not repetition_rate at most 0.3"
    )


def test_only_evaluations_of_all_benchmarks_count(experiment: Experiment):
    rows = [{"step": 1, "loss": 2.0}, {"step": 5, "routes/mean_at_2": 0.25}]
    assert intermediate(rows, experiment) == [(5, 0.25)]


def test_a_trial_is_its_experiment_with_a_run_a_seed(experiment: Experiment):
    assert experiment.sweep is not None
    trial = trial_config(experiment, experiment.sweep, {"method.top_k": 3})
    assert trial.sweep is None
    assert trial.method.group == 3
    assert [run.set for run in trial.runs] == [{"seed": 0}, {"seed": 1}]
    assert trial.evaluation.references == []


def test_an_outcome_means_over_seeds_and_names_what_is_missing(tmp_path: Path):
    outcome = Outcome(
        "complete",
        "",
        [
            {"a": 1.0, "b": 2.0, "f/t0000-0001": 1.0, "f/t10000-19999": 1.0},
            {"a": 3.0, "f/t10000-19999": 1.0, "c": 1.0},
        ],
    )
    outcome.write(tmp_path)
    assert Outcome.read(tmp_path) == outcome
    assert outcome.means() == {"a": 2.0}
    with pytest.raises(DataError, match="no metric 'b'; they have: a, b, c"):
        outcome.mean("b")


def test_limits_and_ranges_check_themselves():
    assert Limit(metric="m", at_least=2.0).excess(1.5) == 0.5
    with pytest.raises(ValueError, match="at_most or at_least"):
        Limit(metric="m")
    with pytest.raises(ValueError, match="above 0 on a logarithmic scale"):
        IntRange(type="int", low=0, high=3, log=True)


def finished(values: list[list[float]], beyond: tuple[int, ...] = ()) -> optuna.Study:
    """A study of trials that came out so; those `beyond` break a constraint."""
    study = optuna.create_study(directions=["maximize", "minimize"][: len(values[0])])
    for number, each in enumerate(values):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        trial.set_constraint("repetition_rate at most 0.2", 1.0 if number in beyond else -0.1)
        study.tell(trial, each)
    return study


SCORE_AND_COST = [{"metric": "mean_at_k"}, {"metric": "seconds", "direction": "minimize"}]
X = {"training.learning_rate": {"type": "float", "low": 0, "high": 1}}


def test_no_key_matters_where_all_trials_came_out_alike_or_it_varies_alone():
    assert importance(finished([[0.5]] * 12)) == {}
    assert importance(finished([[number / 12] for number in range(12)])) == {}
    assert importance(study_of(12, lambda trial: 0 * sum(two(trial)))) == {}
    assert set(importance(study_of(12, lambda trial: sum(two(trial))), draws=5)) == {"x", "y"}


def two(trial: optuna.Trial) -> tuple[float, float]:
    return trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)


def study_of(trials: int, outcome: Callable[[optuna.Trial], float]) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(outcome, n_trials=trials)
    return study


def test_importance_finds_the_key_that_decides_and_says_how_sure_that_is():
    def quarrel(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
        # Not monotonic, as most settings are: its best lies in the middle.
        return x**2 + 0.1 * y

    few, many = (importance(study_of(trials, quarrel), draws=40) for trials in (12, 50))
    assert list(many) == ["x", "y"]
    assert many["x"].low > 0.7
    assert many["y"].high < 0.3
    assert many["x"].low <= many["x"].share <= many["x"].high
    width = {
        name: found["x"].high - found["x"].low for name, found in (("few", few), ("many", many))
    }
    assert width["few"] > width["many"]


def test_a_key_that_some_trials_lack_is_judged_by_those_that_have_it():
    def conditional(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("method", ["opd", "lgr"]) == "opd":
            return 0.5
        return trial.suggest_float("weight", 0, 1) ** 2 + 0.01 * trial.suggest_float("cap", 0, 1)

    shares = importance(study_of(40, conditional), draws=5)
    # All trials of `opd` have equal parameters, and count once.
    assert shares["method"].trials == shares["weight"].trials + 1
    assert 5 < shares["weight"].trials < 35
    assert shares["weight"].share > 0.9


def test_a_pareto_front_is_shown_whole_without_trials_beyond_a_limit():
    # The scores of 0 to 9 fall, and their costs rise; 10 scores least and costs least.
    values = [[1 - number / 20, 10.0 + number] for number in range(10)]
    study = finished([*values, [0.1, 1.0], [0.99, 0.5]], beyond=(11,))
    front = report.pareto_front(study)
    assert front == {0, 10}
    sweep = parsed(X, objectives=SCORE_AND_COST)
    trials = report.ranked(progress(study), sweep, front)
    rows = list(report.trials_table(trials, sweep, front).columns[0].cells)
    assert rows == ["● 0", "● 10", *map(str, range(1, 7))]
    assert report.pareto_front(finished([[0.5], [0.4]])) == set(), "one objective has a best trial"


def test_in_optunas_plots_dark_is_best_of_each_objective(tmp_path: Path):
    def two(trial: optuna.Trial) -> list[float]:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        return [x + y, 1 + x]

    study = optuna.create_study(directions=["maximize", "minimize"])
    study.optimize(two, n_trials=12)
    study.tell(study.ask(), state=TrialState.FAIL)
    sweep = parsed(X, objectives=SCORE_AND_COST)
    shares = {
        metric: importance(of_one_objective(study, index), draws=5)
        for index, metric in enumerate(("mean_at_k", "seconds"))
    }
    drawn = {path.stem: path for path in report.plots(study, sweep, shares, tmp_path / "plots")}
    assert "pareto_front" in drawn
    assert "param_importances-seconds" in drawn
    # The scale that these share has its dark end at the highest value unless it is reversed.
    assert '"reversescale":false' in drawn["contour-mean_at_k"].read_text()
    assert '"reversescale":true' in drawn["contour-seconds"].read_text()
    assert "Best Value" in drawn["optimization_history-mean_at_k"].read_text()
    unknown = report.plots(study, sweep, {"mean_at_k": {}, "seconds": {}}, tmp_path / "plots")
    assert not any(path.stem.startswith("param_importances") for path in unknown)


def test_a_view_of_many_keys_fits_into_what_mlflow_keeps(tmp_path: Path):
    space = {f"training.schedule_of_number_{n}": X["training.learning_rate"] for n in range(150)}
    limits = [{"metric": "repetition_rate", "at_most": 0.2}]
    view = sweep_view(parsed(space, objectives=SCORE_AND_COST, constraints=limits), "0" * 32)
    client = mlflow_store.open_client(mlflow_store.store_uri(tmp_path, None))
    save_view(client, "0", "key", view)
    assert json.loads(client.get_experiment("0").tags[VIEW + "key"]) == view


def test_a_view_has_axes_only_for_keys_that_every_trial_has():
    lines, *_, points = sweep_view(parsed(CONDITIONAL), "parent")["compareRunCharts"]
    assert lines["selectedParams"] == ["method", "training.learning_rate"]
    assert points["xaxis"]["key"] == "training.learning_rate"
