"""Looks at a trial from outside while it runs, and says when it is to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import optuna

from opdlab.configuration import Experiment
from opdlab.evaluation import comparison
from opdlab.files import read_metrics
from opdlab.sweeps.goals import COSTS
from opdlab.sweeps.outcome import costs, intermediate, mean_over_benchmarks
from opdlab.sweeps.settings import Sweep


@final
@dataclass
class Watch:
    """Reads what a trial has recorded, reports it to Optuna, and says when the trial is to end."""

    trial: optuna.Trial
    folder: Path
    experiment: Experiment
    sweep: Sweep
    reported: int = 0

    def look(self) -> str:
        """Why the trial should stop now; empty where it may go on."""
        steps = self.experiment.training.steps
        earlier: list[float] = []
        for index, run in enumerate(self.experiment.runs):
            rows = read_metrics(self.folder / run.name)
            if reason := beyond(rows, self.sweep, self.experiment):
                return f"{run.name}: {reason}"
            for step, score in intermediate(rows, self.experiment):
                if self._report(index * steps + step, [*earlier, score]):
                    return f"{run.name}: {score:.3f} at step {step} lags behind the other trials"
            if not (self.folder / run.name / "finished").exists():
                return ""
            score = final_score(self.folder / run.name)
            if score is None:
                return ""
            earlier.append(score)
            last = index + 1 == len(self.experiment.runs)
            if not last and self._report((index + 1) * steps, earlier):
                return f"after {run.name}: {earlier[-1]:.3f} lags behind the other trials"
        return ""

    def _report(self, step: int, scores: Sequence[float]) -> bool:
        """Report the mean over seeds so far; True where the pruner gives the trial up."""
        if len(self.sweep.objectives) > 1 or step <= self.reported:
            return False
        self.trial.report(sum(scores) / len(scores), step)
        self.reported = step
        return self.trial.should_prune()


def final_score(folder: Path) -> float | None:
    """mean@k over the benchmarks of a finished run; None where its answers were withdrawn since."""
    return comparison.summaries(comparison.read_run(folder))[-1].mean.value


def broken(folder: Path, experiment: Experiment, sweep: Sweep) -> str:
    """Which limit a run of a trial was the first to break at one of its steps; empty for none."""
    for run in experiment.runs:
        if reason := beyond(read_metrics(folder / run.name), sweep, experiment):
            return f"{run.name}: {reason}"
    return ""


def beyond(rows: Sequence[Mapping[str, float]], sweep: Sweep, experiment: Experiment) -> str:
    """Which limit a training step was the first to break; empty for none."""
    if not sweep.stop_when_beyond:
        return ""
    spent = {limit.metric: 0.0 for limit in sweep.stop_when_beyond if limit.metric in COSTS}
    for row in rows:
        for name in spent:
            spent[name] += costs([row])[name]
        for limit in sweep.stop_when_beyond:
            known = _of_a_step(limit.metric, row, experiment)
            value = spent.get(limit.metric, known)
            if value is not None and limit.excess(value) > 0:
                return f"{limit.metric} is {value:.4g} at step {row['step']:.0f}, not {limit}"
    return ""


def _of_a_step(metric: str, row: Mapping[str, float], experiment: Experiment) -> float | None:
    """A metric of one step; None where it was not measured there."""
    if metric in ("mean_at_k", "pass_at_k"):
        kind = "mean" if metric == "mean_at_k" else "pass"
        return mean_over_benchmarks(row, kind, experiment)
    return row.get(metric)
