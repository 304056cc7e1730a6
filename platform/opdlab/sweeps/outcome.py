"""What a trial came to: the metrics of its runs, and how it ended, as files that outlive processes."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, final

from opdlab import credentials, secret_options
from opdlab.configuration import Experiment
from opdlab.errors import DataError, UngradedError
from opdlab.evaluation import comparison, headline
from opdlab.files import (
    PARTS,
    TRIAL,
    damaged,
    is_bin,
    is_there,
    read_json,
    read_metrics,
    read_record,
    write_whole,
)
from opdlab.identity import Execution
from opdlab.records import Verdict

OUTCOME = "outcome.json"
STOP = "stop.json"
CHOSEN = TRIAL


@final
@dataclass(frozen=True)
class Outcome:
    """How the process of a trial ended.

    Attributes:
        state: `complete`; `pruned`, by the pruner or an alarm; `failed`, with an error.
        reason: why it did not complete.
        seeds: metrics of each seed that was finished, in order.
        trial: the `Part` that it is of, in words; written with it.
    """

    state: Literal["complete", "pruned", "failed"]
    reason: str = ""
    seeds: list[dict[str, float]] = field(default_factory=list)
    trial: str = ""

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

    def number(self, metric: str) -> float:
        """Mean of a metric that trials are compared by.

        Raises:
            DataError: a seed has no such metric, or it is NaN, which is neither more nor less than another.
        """
        mean = self.mean(metric)
        if math.isnan(mean):
            raise DataError(
                f"the metric {metric!r} of this trial is NaN: the last measurement had nothing to "
                "measure, as with answers that are only an EOS"
            )
        return mean

    def means(self) -> dict[str, float]:
        """Means of the metrics that every seed has, without those of bins of positions."""
        common = set.intersection(*({*seed} for seed in self.seeds)) if self.seeds else set()
        return {name: self.mean(name) for name in sorted(common) if not is_bin(name)}

    def write(self, folder: Path) -> None:
        """Keep it in the folder of the trial, whole or not at all."""
        told = {**asdict(self), "reason": credentials.hide(secret_options.hide(self.reason))}
        told["trial"] = _trial_of(folder)
        write_whole(folder / OUTCOME, json.dumps(told, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What an earlier process left; None where there is nothing.

        Raises:
            DataError: it is damaged, or another trial's.
        """
        path, remedy = folder / OUTCOME, "delete it, and it is made again"
        if not is_there(path):
            return None
        found = read_record(path, cls, remedy)
        if found.trial not in ("", own := _trial_of(folder)):
            raise damaged(path, f"it is of {found.trial}, not of {own}", remedy)
        return found


def _trial_of(folder: Path) -> str:
    """What trial a folder is of; empty where it does not say."""
    return str(Part.read(folder)) if is_there(folder / CHOSEN) else ""


def run_metrics(folder: Path, config: Experiment) -> dict[str, float]:
    """Everything a finished run can be judged by.

    Raises:
        UngradedError: samples without a verdict; such a run must not count as a bad one.
    """
    rows = read_metrics(folder, Execution.read(folder).id)
    samples = comparison.read_run(folder)
    overall = comparison.summaries(samples)[-1]
    mean, solved = overall.mean.value, overall.pass_at[overall.k].value
    if mean is None or solved is None:
        counted = Counter(sample.status for sample in samples)
        lacking = ", ".join(f"{counted[s]} {s}" for s in Verdict.FAULTS if counted[s])
        raise UngradedError(
            f"some answers have no verdict ({lacking}), so the trial has no score; `opdlab samples` shows "
            "why"
        )
    # An evaluation in the midst may have left bounds where the last one has scores.
    measured = tuple(f"{one.benchmark}/" for one in samples)
    trained = {k: v for k, v in last_known(rows).items() if not k.startswith(measured)}
    return {
        **trained,
        **headline(samples),
        "mean_at_k": mean,
        "pass_at_k": solved,
        **costs(rows),
    }


def last_known(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last value of each metric; some, such as `accuracy`, are not measured at every step."""
    found = {name: value for row in rows for name, value in row.items()}
    return {name: value for name, value in found.items() if name not in ("step", "time")}


def costs(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Tokens that the teacher has scored and seconds of training, up to the last of these steps."""
    return {
        "teacher_tokens": sum(r["teacher_tokens"] for r in rows),
        "seconds": sum(r[part] for r in rows for part in PARTS),
    }


def intermediate(
    rows: Sequence[Mapping[str, float]], config: Experiment
) -> list[tuple[int, float]]:
    """Step and mean@k over the benchmarks, of each evaluation in the midst of a run."""
    found = []
    for row in rows:
        score = mean_over_benchmarks(row, "mean", config)
        if score is not None:
            found.append((int(row["step"]), score))
    return found


def mean_over_benchmarks(
    row: Mapping[str, float], kind: Literal["mean", "pass"], config: Experiment
) -> float | None:
    """mean@k or pass@k of an evaluation in the midst of a run; None where a step has none."""
    settings = config.evaluation
    names = [f"{one.benchmark}/{kind}_at_{settings.samples}" for one in settings.benchmarks]
    scores = [row[name] for name in names if name in row]
    return sum(scores) / len(scores) if scores and len(scores) == len(names) else None


def read_stop(folder: Path) -> str:
    """Why the worker asked this process to stop; empty where it did not.

    What an earlier worker left for an earlier process says nothing about a signal that comes to this one.
    """
    path = folder / STOP
    found = read_json(path, "reason", "process") if is_there(path) else {}
    return found["reason"] if found.get("process") == os.getpid() else ""


def write_stop(folder: Path, reason: str, process: int | None = None) -> None:
    """Tell a trial's process why it is about to be stopped.

    Args:
        process: its id; without one the file is for nobody.
    """
    write_whole(folder / STOP, json.dumps({"reason": reason, "process": process}) + "\n")


@final
@dataclass(frozen=True)
class Part:
    """Which trial of which study a folder belongs to.

    Attributes:
        study: its id.
        number: of the trial, its first try's.
        parameters: what the sampler chose, the names of whole sections among it.
    """

    study: str
    number: int
    parameters: Mapping[str, Any]

    def claim(self, folder: Path) -> None:
        """Take a folder for this trial, or go on in it.

        Raises:
            DataError: it belongs to another one.
        """
        if is_there(folder / CHOSEN) and (other := Part.read(folder)) != self:
            raise DataError(
                f"{folder} belongs to {other}, not to {self}: move it away, or give the storage "
                f"that it was started with"
            )
        write_whole(folder / CHOSEN, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Part:
        """Raises DataError where there is no sound record."""
        remedy = "move the folder of the sweep away, or restore the file from a copy"
        return read_record(folder / CHOSEN, cls, remedy)

    def __str__(self) -> str:
        return f"trial {self.number} of study {self.study} with {json.dumps(dict(self.parameters))}"
