"""What a trial came to: the metrics of its runs, and how it ended, as files that outlive processes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from opdlab import comparison
from opdlab.config import Experiment
from opdlab.errors import DataError
from opdlab.evaluation import headline
from opdlab.tracking import PARTS, is_bin, read_metrics

OUTCOME = "outcome.json"
STOP = "stop.json"
CHOSEN = "chosen.json"


@final
@dataclass(frozen=True)
class Outcome:
    """How the process of a trial ended.

    Attributes:
        state: `complete`; `pruned`, by the pruner or an alarm; `failed`, with an error.
        reason: why it did not complete.
        seeds: metrics of each seed that was finished, in order.
    """

    state: Literal["complete", "pruned", "failed"]
    reason: str = ""
    seeds: list[dict[str, float]] = field(default_factory=list)

    def mean(self, metric: str) -> float:
        """Mean of a metric over the seeds.

        Raises:
            DataError: a seed has no such metric.
        """
        known = sorted({name for seed in self.seeds for name in seed})
        if not self.seeds or any(metric not in seed for seed in self.seeds):
            listed = ", ".join(known) or "none"
            raise DataError(
                f"the runs of this trial have no metric {metric!r}; they have: {listed}"
            )
        return sum(seed[metric] for seed in self.seeds) / len(self.seeds)

    def means(self) -> dict[str, float]:
        """Means of the metrics that every seed has, without those of bins of positions."""
        common = set.intersection(*({*seed} for seed in self.seeds)) if self.seeds else set()
        return {name: self.mean(name) for name in sorted(common) if not is_bin(name)}

    def write(self, folder: Path) -> None:
        """Keep it in the folder of the trial, whole or not at all."""
        partial = folder / f"{OUTCOME}.partial"
        partial.write_text(json.dumps(asdict(self), indent=1) + "\n")
        partial.replace(folder / OUTCOME)

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What an earlier process left; None where there is nothing."""
        path = folder / OUTCOME
        return cls(**json.loads(path.read_text())) if path.exists() else None


def run_metrics(folder: Path, config: Experiment) -> dict[str, float]:
    """Everything a finished run can be judged by.

    Raises:
        DataError: samples that could not be graded; such a run must not count as a bad one.
    """
    rows = read_metrics(folder)
    samples = comparison.read_run(folder)
    overall = comparison.summaries(samples)[-1]
    mean, solved = overall.mean.value, overall.pass_at[overall.k].value
    if mean is None or solved is None:
        raise DataError(
            f"{folder}: some answers could not be graded, so the trial has no score; "
            "see the verdicts in its samples"
        )
    micro_batches = config.training.accumulate
    return {
        **{name: value for name, value in rows[-1].items() if name not in ("step", "time")},
        **headline(samples),
        "mean_at_k": mean,
        "pass_at_k": solved,
        "teacher_tokens": micro_batches * sum(r["response_tokens"] + r["leaves"] for r in rows),
        "seconds": micro_batches * sum(r[part] for r in rows for part in PARTS),
    }


def intermediate(
    rows: Sequence[Mapping[str, float]], config: Experiment
) -> list[tuple[int, float]]:
    """Step and mean@k over the benchmarks, of each evaluation in the midst of a run."""
    name = f"/mean_at_{config.evaluation.samples}"
    found = []
    for row in rows:
        scores = [value for metric, value in row.items() if metric.endswith(name)]
        if len(scores) == len(config.evaluation.benchmarks):
            found.append((int(row["step"]), sum(scores) / len(scores)))
    return found


def read_stop(folder: Path) -> str:
    """Why the worker asked the trial to stop; empty where it did not."""
    path = folder / STOP
    return json.loads(path.read_text())["reason"] if path.exists() else ""


def write_stop(folder: Path, reason: str) -> None:
    """Tell a trial's process why it is about to be stopped."""
    (folder / STOP).write_text(json.dumps({"reason": reason}) + "\n")


def write_chosen(folder: Path, chosen: Mapping[str, Any]) -> None:
    """Keep what the sampler chose for a trial, the names of whole sections among it."""
    (folder / CHOSEN).write_text(json.dumps(dict(chosen)) + "\n")


def read_chosen(folder: Path) -> dict[str, Any]:
    """What the sampler chose for a trial."""
    return json.loads((folder / CHOSEN).read_text())


def state_of(folder: Path) -> dict[str, Any]:
    """The ids in MLflow that a trial's process noted."""
    path = folder / "experiment.json"
    return json.loads(path.read_text()) if path.exists() else {}
