"""Sweeps that could not mean what they say are refused before any trial, with the line and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdlab.configuration.loader import load_experiment
from opdlab.errors import (
    ConfigError,
    DamagedError,
    ModelError,
    NonFiniteError,
    OpdlabError,
    ResumeError,
    StorageError,
)
from opdlab.files.metrics_file import METRICS
from opdlab.sweeps.metrics import almost
from opdlab.sweeps.study import SweepError, make_sampler, open_study
from opdlab.sweeps.trial import _ended_by, ended_early
from opdlab.sweeps.watch import beyond

RANGE = {"type": "int", "low": 2, "high": 8}
METHOD = {"type": "choice", "values": {"lgr": {"type": "lgr", "support": "full"}}}
NUMBERS = {
    "method.reward_weight": {"type": "float", "low": 0.1, "high": 1.0},
    "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2},
}


def sweep(**values: object) -> list[str]:
    """Command-line words for a small sweep."""
    settings = {"trials": 4, "space": {"method.top_k": RANGE}, **values}
    return ["runs=[]", "method={type: lgr, support: full}", f"sweep={settings!r}"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"space": {"method.top_k": RANGE, "method": METHOD}},
            "method would replace what method.top_k has set; write method.top_k after it",
        ),
        (
            {"stop_when_beyond": [{"metric": "entropi", "at_least": 0.1}]},
            "stop_when_beyond.0.metric: a run has no metric entropi. Did you mean entropy?",
        ),
        ({"objectives": [{"metric": "mean_at_9"}]}, "Did you mean mean_at_k?"),
        (
            {"constraints": [{"metric": "repetition", "at_most": 0.1}]},
            "Did you mean repetition_rate?",
        ),
        ({"objectives": [{"metric": "routes/mean_at_9"}]}, "Did you mean routes/mean_at_8?"),
        ({"objectives": [{"metric": "seconds"}, {"metric": "seconds"}]}, "is given twice"),
        (
            {"space": {"method.top_k": {"type": "choice", "values": [2, 2]}}},
            "values: 2 is given twice",
        ),
        (
            {"space": {"method.top_k": {"type": "interger", "low": 2, "high": 8}}},
            "must be one of choice, float, int, not 'interger'",
        ),
        ({"space": {"method.top_k": {"low": 2}}}, "choose one of choice, float, int"),
        ({"sampler": "cmaes"}, "cmaes needs two keys or more"),
        ({"sampler": "cmaes", "space": {"method": METHOD, **NUMBERS}}, "method is a choice"),
        (
            {
                "sampler": "cmaes",
                "space": NUMBERS,
                "objectives": [{"metric": "mean_at_k"}, {"metric": "seconds"}],
            },
            "cmaes seeks one objective",
        ),
    ],
)
def test_a_sweep_that_cannot_mean_what_it_says_is_refused(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment("quickstart", sweep(**values))
    assert message in str(caught.value)


def test_what_can_be_searched_is_let_pass() -> None:
    judged = [{"metric": "mean_at_k"}, {"metric": "routes/pass_at_4"}, {"metric": "seconds"}]
    config = load_experiment("quickstart", sweep(objectives=judged))
    assert config.sweep is not None
    ways = [objective.direction for objective in config.sweep.objectives]
    assert ways == ["maximize", "maximize", "minimize"]
    asked = [{"metric": "seconds", "direction": "maximize"}]
    slow = load_experiment("quickstart", sweep(objectives=asked)).sweep
    assert slow is not None
    assert slow.objectives[0].direction == "maximize"
    load_experiment("quickstart", sweep(sampler="cmaes", space=NUMBERS))
    # A method of another package has metrics that nobody knows here.
    assert almost("inflation_guard", ["entropy", "reward"]) == ""


@pytest.mark.parametrize("storage", ["postgres://x/y", "foo", "mysql://x/y", "sqlite://"])
def test_a_database_that_workers_cannot_share_is_refused(storage: str) -> None:
    with pytest.raises(ConfigError, match="is not a database that workers can share"):
        load_experiment("quickstart", sweep(storage=storage))


def test_a_database_out_of_reach_is_told_with_the_remedy(tmp_path: Path) -> None:
    storage = "postgresql+psycopg://x@127.0.0.1:1/y"
    config = load_experiment("quickstart", [*sweep(storage=storage), f"output={tmp_path}"])
    assert config.sweep is not None
    with pytest.raises(SweepError, match=r"correct sweep\.storage"):
        open_study(config, config.sweep)


def test_a_limit_broken_at_any_step_counts() -> None:
    limits = [{"metric": "entropy", "at_least": 0.02}]
    config = load_experiment("quickstart", sweep(stop_when_beyond=limits))
    assert config.sweep is not None
    rows = [{"step": step, "entropy": entropy} for step, entropy in enumerate([0.5, 0.01, 0.4], 1)]
    assert (
        beyond(rows, config.sweep, config) == "entropy is 0.01 at step 2, not entropy at least 0.02"
    )
    assert beyond(rows[:1], config.sweep, config) == ""


def test_a_run_with_fewer_steps_than_asked_for_ended_early(tmp_path: Path) -> None:
    config = load_experiment("quickstart", ["training.steps=3"])
    lines = ['{"step": 1, "loss": 0}', '{"step": 2, "loss": 0}', '{"step": 3, "loss": 0}']
    (tmp_path / METRICS).write_text("\n".join(lines[:2]) + "\n")
    assert ended_early(tmp_path, config) == (
        "an alarm ended it at step 2 of 3 (training.hacking.stop)"
    )
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n")
    assert ended_early(tmp_path, config) == ""


def told(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment("quickstart", list(overrides))
    return [fault.removeprefix("command line: ") for fault in str(caught.value).splitlines()]


def test_every_fault_of_a_sweep_is_told_at_once() -> None:
    space = {
        "training.learning_rate": {"type": "float", "low": 9.0, "high": 8.0},
        "method.top_k": {"type": "int", "low": 1, "high": 8},
        "method.topk": RANGE,
        "seed": RANGE,
    }
    found = told(
        *sweep(
            space=space,
            trials=0,
            seeds=[1, 1],
            sampler="grids",
            objectives=[{"metric": "mean_at_9"}],
            constraints=[{"metric": "loss"}],
            pruner="median",
        ),
        "training.warmup_steps=400",
        "evaluation.every=-1",
    )
    assert sorted(fault.partition(";")[0] for fault in found) == sorted(
        [
            "evaluation.every must be at least 0, not -1",
            "sweep.space.training.learning_rate.low (9) is above high (8)",
            "sweep.trials must be at least 1, not 0",
            "sweep.constraints.0: give at_most or at_least",
            "sweep.sampler must be one of tpe, gp, random, grid, cmaes, not 'grids'. Did you mean grid?",
            "training.warmup_steps (400) must be below training.steps (400)",
            "sweep.seeds: each may be given once",
            "sweep.space: seed is the same in all trials and cannot vary",
            "sweep.objectives.0.metric: a run has no metric mean_at_9. Did you mean mean_at_k?",
            "sweep.space: method.top_k must be at least 2, not 1",
            "sweep.space: unknown key method.topk: lgr has no such option. Did you mean method.top_k?",
        ]
    )


def test_no_fault_is_invented_by_what_another_takes_away() -> None:
    grid = {"sampler": "grid", "trials": 7, "space": {"method.top_k": RANGE, "seed": {"low": 1}}}
    assert told(*sweep(**grid)) == [
        "missing key sweep.space.seed.type; choose one of choice, float, int"
    ]
    assert told(*sweep(seeds=[0, 0], pruner="median")) == ["sweep.seeds: each may be given once"]
    (fault,) = told("evaluation.benchmarks=[{type: maths}]", *sweep())
    assert fault.startswith("evaluation.benchmarks.0.type must be one of")


@pytest.mark.parametrize(
    "space",
    [
        {
            "training.steps": {"type": "int", "low": 10, "high": 100},
            "training.warmup_steps": {"type": "int", "low": 0, "high": 20},
        },
        {
            "training.warmup_steps": {"type": "int", "low": 0, "high": 20},
            "training.steps": {"type": "int", "low": 10, "high": 100},
        },
        {"training.warmup_steps": {"type": "int", "low": 0, "high": 500}},
        {
            "method": {
                "type": "choice",
                "values": {
                    "full": {"type": "opd", "support": "full"},
                    "sampled": {"type": "opd", "support": "sampled"},
                },
            },
            "training.epochs": {"type": "int", "low": 1, "high": 9},
        },
    ],
)
def test_a_space_that_holds_good_combinations_is_let_pass(space: dict[str, object]) -> None:
    load_experiment("quickstart", sweep(space=space))


def test_values_that_no_combination_makes_good_are_refused() -> None:
    late = {"type": "int", "low": 400, "high": 500}
    assert told(*sweep(space={"training.warmup_steps": late})) == [
        "sweep.space: training.warmup_steps (400) must be below training.steps (400)",
        "sweep.space: training.warmup_steps (500) must be below training.steps (400)",
    ]
    choices = {"type": "choice", "values": [0, 400]}
    assert told(*sweep(space={"training.warmup_steps": choices})) == [
        "sweep.space: training.warmup_steps (400) must be below training.steps (400)"
    ]
    template = {"type": "choice", "values": ["auto", "none"]}
    (fault,) = told(*sweep(space={"prompts.template": template}))
    assert fault.startswith("sweep.space: prompts.template: trials would be measured in different")
    (fault,) = told(*sweep(space={"training.devices": {"type": "int", "low": 1, "high": 2}}))
    assert "training.devices: workers have devices as the experiment's own trials need" in fault
    (fault,) = told(*sweep(), "training.nodes=2")
    assert "training.nodes: a trial of a sweep trains on one machine" in fault
    (fault,) = told(*sweep(), "sweep.space={training.mask.last: {type: choice, values: [null, 3]}}")
    assert "give each a name, such as `values: {none: null" in fault
    (fault,) = told(*sweep(stop_when_beyond=[{"metric": "mean_at_k", "at_least": 0.1}]))
    assert "is measured only at the end" in fault
    (fault,) = told(*sweep(seeds=[-1]))
    assert fault == "sweep.seeds.0 must be at least 0, not -1"


def test_the_seed_of_the_experiment_decides_what_is_drawn_and_trained() -> None:
    config = load_experiment("quickstart", [*sweep(), "seed=4100000001"])
    assert config.sweep is not None
    assert (config.sweep.sampler_seed, config.sweep.seeds) == (4100000001, [4100000001])
    make_sampler(config.sweep, 3)
    own = load_experiment("quickstart", [*sweep(seeds=[1, 2], sampler_seed=5), "seed=7"])
    assert own.sweep is not None
    assert (own.sweep.sampler_seed, own.sweep.seeds) == (5, [1, 2])


def test_a_changed_setting_is_named_by_its_key(tmp_path: Path) -> None:
    begun = load_experiment("quickstart", [*sweep(), f"output={tmp_path}"])
    assert begun.sweep is not None
    open_study(begun, begun.sweep)
    changes = ["sweep.space.method.top_k.high=9", "training.learning_rate=0.5"]
    changed = load_experiment("quickstart", [*sweep(), f"output={tmp_path}", *changes])
    assert changed.sweep is not None
    keys = r"values of: sweep\.space\.method\.top_k\.high, training\.learning_rate\. "
    with pytest.raises(SweepError, match=keys):
        open_study(changed, changed.sweep)


@pytest.mark.parametrize("kind", [DamagedError, ResumeError, StorageError])
def test_what_lies_on_the_disk_ends_no_trial(tmp_path: Path, kind: type[OpdlabError]) -> None:
    with pytest.raises(kind):
        _ended_by(kind("x is damaged"), "seed-3", tmp_path, [])
    assert _ended_by(ModelError("no"), "seed-3", tmp_path, []).state == "failed"
    assert _ended_by(NonFiniteError("row 0"), "seed-3", tmp_path, []).state == "pruned"
