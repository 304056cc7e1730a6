"""When a trial lags so far behind the others that it is given up.

Optuna's own pruners do not fit: its median takes the best value so far, so that a trial which collapses is
never ended; its halving asks several questions at the first report, of which one in eight trials survives;
and both take less for better where the sweep's objective is to be minimised, while what is reported here is
mean@k, of which more is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, final

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState


@final
class Lagging(BasePruner):
    """Ends a trial that more than half of the others are ahead of, where it reports.

    Several tries of one trial, of which the first ones were killed, are one.

    The others are all trials that got as far, and those that were ended before: these count as behind, so
    that half of all trials come to the end and not half of a half. The first `startup` trials are never
    ended, nor is any before that many others can be compared with.

    Args:
        when: `median` asks at every report, `halving` at the first one and at each doubling of its step.
    """

    def __init__(self, when: Literal["median", "halving"], startup: int) -> None:
        self.when, self.startup = when, startup

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or first_number(trial) < self.startup:
            return False
        if self.when == "halving" and not _doubles(sorted(trial.intermediate_values)):
            return False
        values = [
            value
            for first, tries in by_first_number(study.get_trials(deepcopy=False)).items()
            if first != first_number(trial) and (value := _reached(tries, step)) is not None
        ]
        if len(values) < self.startup:
            return False
        mine = _known(trial.intermediate_values[step])
        ahead = sum(value > mine for value in values)
        return ahead > len(values) / 2 or mine == -math.inf


def first_number(trial: FrozenTrial) -> int:
    """Number of the trial that this one tries again, or its own."""
    return trial.system_attrs.get("failed_trial", trial.number)


def by_first_number(trials: Iterable[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """The tries of each trial, in their order."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(first_number(trial), []).append(trial)
    return found


def _doubles(steps: Sequence[int]) -> bool:
    """Whether the last step is the first one, or the first at or beyond a doubling of it."""
    if len(steps) == 1:
        return True
    return math.floor(math.log2(steps[-1] / steps[0])) > math.floor(math.log2(steps[-2] / steps[0]))


def _reached(tries: Sequence[FrozenTrial], step: int) -> float | None:
    """What a trial had reached at a step in the last of its tries that got there."""
    found = [value for one in tries if (value := _at(one, step)) is not None]
    return found[-1] if found else None


def _at(trial: FrozenTrial, step: int) -> float | None:
    """What a trial had reached at a step; least of all where it was ended before, None where unknown."""
    if step in trial.intermediate_values:
        return _known(trial.intermediate_values[step])
    ended = trial.state == TrialState.PRUNED and (trial.last_step or 0) < step
    return -math.inf if ended else None


def _known(value: float) -> float:
    return -math.inf if math.isnan(value) else value
