"""Sweeps that could not mean what they say are refused before any trial, with the line and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from opdlab.errors import ConfigError
from opdlab.loader import load_experiment
from opdlab.sweeps.metrics import almost
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.study import SweepError, open_study
from opdlab.sweeps.trial import ended_early
from opdlab.sweeps.watch import beyond
from opdlab.tracking import METRICS

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
        ({"objectives": [{"metric": "seconds"}, {"metric": "seconds"}]}, "stands there twice"),
        (
            {"space": {"method.top_k": {"type": "choice", "values": [2, 2]}}},
            "values: 2 stands there twice",
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


@pytest.mark.parametrize(
    "storage", ["postgresql+psycopg://x@127.0.0.1:1/y", "postgres://x/y", "foo"]
)
def test_a_database_out_of_reach_is_told_with_the_remedy(storage: str, tmp_path: Path) -> None:
    config = load_experiment("quickstart", [*sweep(storage=storage), f"output={tmp_path}"])
    assert config.sweep is not None
    with pytest.raises(SweepError, match=r"correct sweep\.storage"):
        open_study(config, config.sweep)


def test_a_limit_broken_at_any_step_counts() -> None:
    limits = [{"metric": "entropy", "at_least": 0.02}]
    settings = Sweep.model_validate(
        {"trials": 1, "space": {"method.top_k": RANGE}, "stop_when_beyond": limits}
    )
    rows = [{"step": step, "entropy": entropy} for step, entropy in enumerate([0.5, 0.01, 0.4], 1)]
    assert beyond(rows, settings) == "entropy is 0.01 at step 2, not entropy at least 0.02"
    assert beyond(rows[:1], settings) == ""


def test_a_run_with_fewer_steps_than_asked_for_ended_early(tmp_path: Path) -> None:
    config = load_experiment("quickstart", ["training.steps=3"])
    lines = ['{"step": 1, "loss": 0}', '{"step": 2, "loss": 0}', '{"step": 3, "loss": 0}']
    (tmp_path / METRICS).write_text("\n".join(lines[:2]) + "\n")
    assert ended_early(tmp_path, config) == (
        "an alarm ended it at step 2 of 3 (training.hacking.stop)"
    )
    (tmp_path / METRICS).write_text("\n".join(lines) + "\n")
    assert ended_early(tmp_path, config) == ""
