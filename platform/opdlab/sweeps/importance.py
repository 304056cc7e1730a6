"""How much of what came out each searched key explains, and how far that can be trusted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

# Trees of the forest that the shares come from, and of those that only tell how much they vary.
_TREES, _TREES_OF_A_DRAW = 64, 16

FEWEST = 10
"""Trials that a share takes; of fewer the interval of a bootstrap is too narrow to be believed."""


@dataclass(frozen=True)
class Share:
    """Share that a key has in what all keys explain of the variation between trials; 95 % interval.

    Attributes:
        trials: complete ones that have the key, from which this was found.
    """

    share: float
    low: float
    high: float
    trials: int


def of_one_objective(study: optuna.Study, index: int) -> optuna.Study:
    """The finished trials as if one of their objectives had been the only one.

    Optuna's plots know what is better only then: dark is best, and the history has its line of the best.
    """
    trials = [trial for trial in study.get_trials() if trial.state.is_finished()]
    for trial in trials:
        done = trial.state == TrialState.COMPLETE
        trial.values = [trial.values[index]] if done else None
    return _study(trials, study.directions[index])


@dataclass(frozen=True)
class Group:
    """Keys that the same complete trials have: their shares compare with each other."""

    keys: list[str]
    trials: list[FrozenTrial]


def groups(study: optuna.Study) -> list[Group]:
    """The keys by the trials that have them; conditional keys stand apart."""
    complete = (trial for trial in study.trials if trial.state == TrialState.COMPLETE)
    # Equal parameters came out equal: counted twice, they would make the interval too narrow.
    trials = list({_point(trial): trial for trial in complete}.values())
    owners: dict[tuple[int, ...], list[str]] = {}
    for key in dict.fromkeys(key for trial in trials for key in trial.params):
        having = tuple(n for n, trial in enumerate(trials) if key in trial.params)
        owners.setdefault(having, []).append(key)
    return [Group(keys, [trials[n] for n in having]) for having, keys in owners.items()]


def _point(trial: FrozenTrial) -> frozenset[tuple[str, str]]:
    """Equal for equal parameters; a number with a step may be rounded differently."""
    found: dict[str, Any] = {}
    for name, value in trial.params.items():
        kind = trial.distributions[name]
        found[name] = value
        if isinstance(kind, FloatDistribution) and kind.step is not None:
            found[name] = round((value - kind.low) / kind.step)
    return frozenset((name, repr(value)) for name, value in found.items())


def importance(study: optuna.Study, draws: int = 100) -> dict[str, Share]:
    """Shares of a study of one objective, by group, the largest first; empty where that is unknown.

    By functional ANOVA on a random forest (Hutter, Hoos, Leyton-Brown, ICML 2014), which looks at all
    trials. PED-ANOVA, Optuna's default, asks where the best tenth of the trials lies, which is three of
    thirty, and where a sampler looked most often that says more about the sampler. The interval is that of
    a bootstrap over trials. A key that some trials lack is judged by those which have it; one that varies
    alone, or that fewer than `FEWEST` trials have, has no share.

    Args:
        draws: of the bootstrap.
    """
    found: dict[str, Share] = {}
    for group in groups(study):
        if len(group.trials) >= FEWEST:
            found |= _of_group(group, draws)
    return found


def _of_group(group: Group, count: int) -> dict[str, Share]:
    some = group.trials
    shares = _shares(some, _TREES, seed=0)
    picks = np.random.default_rng(0).integers(len(some), size=(count, len(some)))
    draws = [
        _shares([some[n] for n in pick], _TREES_OF_A_DRAW, seed)
        for seed, pick in enumerate(picks)
        if shares
    ]
    found: dict[str, Share] = {}
    for key in sorted(shares, key=lambda key: -shares[key]):
        of_draws = [draw[key] for draw in draws if key in draw]
        if key in group.keys and of_draws:
            low, high = np.quantile(of_draws, [0.025, 0.975])
            found[key] = Share(shares[key], float(low), float(high), len(some))
    return found


def _shares(trials: Sequence[FrozenTrial], trees: int, seed: int) -> dict[str, float]:
    values = {key: {trial.params.get(key) for trial in trials} for key in trials[0].params}
    if len({trial.value for trial in trials}) < 2 or sum(len(v) > 1 for v in values.values()) < 2:
        # Of no variation every key would be given an equal share, and a key alone all of it.
        return {}
    study = _study(trials, StudyDirection.MINIMIZE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = get_param_importances(
                study, evaluator=FanovaImportanceEvaluator(n_trees=trees, seed=seed)
            )
    except (ValueError, RuntimeError):
        # A key that never varied.
        return {}
    return {key: float(share) for key, share in shares.items()}


def _study(trials: Sequence[FrozenTrial], direction: StudyDirection) -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    return study


def importance_figure(
    shares: Mapping[str, Share], metric: str, conditions: Mapping[str, str]
) -> Any:
    """Shares as bars with their intervals, group by group, the largest on top.

    Args:
        conditions: which trials a key exists in, such as `method = lgr`; none for all.
    """
    import plotly.graph_objects as go

    keys = list(shares)[::-1]
    of = [shares[key] for key in keys]
    bars = go.Bar(
        x=[one.share for one in of],
        y=[
            f"{key}<br>of trials with {conditions[key]}" if conditions.get(key) else key
            for key in keys
        ],
        orientation="h",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, one.high - one.share) for one in of],
            "arrayminus": [max(0.0, one.share - one.low) for one in of],
        },
        customdata=[[one.low, one.high, one.trials] for one in of],
        hovertemplate="%{y}: %{x:.0%} [%{customdata[0]:.0%}, %{customdata[1]:.0%}]"
        "<br>%{customdata[2]} trials<extra></extra>",
    )
    title = f"What explains {metric}, by functional ANOVA, with 95 % intervals"
    figure = go.Figure(bars, layout={"title": title})
    figure.update_xaxes(
        title="share of the explained variation between trials", tickformat=".0%", range=[0, 1.02]
    )
    return figure
