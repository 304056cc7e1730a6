"""A training as it stands now, read from its folder while another process goes on with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from opdlab.errors import DataError
from opdlab.files import METRICS, PARTS, holder, natural, read_live, read_metrics

DEPTH = 4
"""Folders below an output folder in which a training may lie: that of a trial of a sweep."""
RECENT = 20
"""Steps whose usual length says how long the rest will take."""
SHOWN = {
    "loss": "loss",
    "reverse_kl": "reverse KL",
    "reward": "reward",
    "accuracy": "right answers",
    "entropy": "entropy",
    "fidelity": "fidelity",
    "response_length": "response length",
    "truncated_share": "cut at the limit",
    "gradient_norm": "gradient norm",
    "tokens_per_second": "tokens/s",
}


@dataclass(frozen=True)
class Watched:
    """One training.

    Attributes:
        folder: of the run.
        rows: its metrics, one mapping a step.
        live: what it said last, see `opdlab.training.onlookers`; empty where it said nothing.
        steps: that it is to take; None where that is not known.
        by: who works there, in words; empty where nobody does.
        done: whether it has a trained model and nothing is left to do.
    """

    folder: Path
    rows: Sequence[Mapping[str, float]]
    live: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    by: str = ""
    done: bool = False

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def phase(self) -> str:
        """What it does, in a word."""
        if self.by and not self.done:
            return "beginning" if not self.rows else str(self.live.get("phase", "training"))
        return "ended" if self.done else "stopped"

    @property
    def seconds_left(self) -> float | None:
        """Of training, as far as the last steps tell; None where it does not train."""
        times = [row["time"] for row in self.rows[-RECENT:] if "time" in row]
        if self.steps is None or len(times) < 2 or self.phase != "training":
            return None
        each = median(after - before for before, after in pairwise(times))
        # Evaluations between steps, and pauses before a resume, are no steps: the median passes over them.
        return max(0.0, each * (self.steps - self.step))

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """What is worth a curve, by label: steps and figures, NaN where a step's is no number."""
        scores = dict.fromkeys(name for row in self.rows for name in row if "/mean_at_" in name)
        labels = SHOWN | {name: name for name in scores if not name.endswith(("_low", "_high"))}
        found = {
            label: [(row["step"], row[name]) for row in self.rows if name in row]
            for name, label in labels.items()
        }
        return {k: curve for k, curve in found.items() if any(math.isfinite(v) for _, v in curve)}

    @property
    def parts(self) -> dict[str, float]:
        """Shares of the last steps' time, by what it went to."""
        recent = self.rows[-RECENT:]
        spent = {
            part.partition("/")[2]: sum(row.get(part, 0.0) for row in recent) for part in PARTS
        }
        whole = sum(spent.values())
        return {name: value / whole for name, value in spent.items()} if whole else {}


def newest(output: Path) -> Path:
    """The folder of the execution or the sweep below an output folder that was written to last.

    Raises:
        DataError: there is none.
    """
    found = [
        path
        for depth in range(1, DEPTH)
        for path in output.glob(f"{'*/' * depth}{METRICS}")
        if not path.parent.name.startswith(".")
    ]
    if not found:
        raise DataError(
            f"no training below {output}: begin one with `opdlab train`, or name its folder"
        )
    run = max(found, key=lambda path: path.stat().st_mtime).parent
    return output / run.relative_to(output).parts[0]


def runs_of(folder: Path) -> list[Path]:
    """The trainings in the folder of a run, of an execution or of a sweep, in order.

    Raises:
        DataError: there is none.
    """
    if (folder / METRICS).is_file():
        return [folder]
    found = {p.parent for depth in range(1, DEPTH) for p in folder.glob(f"{'*/' * depth}{METRICS}")}
    if not found:
        raise DataError(f"{folder} holds no training that has begun: there is no {METRICS} in it")
    return sorted(found, key=natural)


def watched(folder: Path) -> Watched:
    """A run as it stands now.

    Raises:
        DataError: what it wrote is damaged; the message names the file.
    """
    live = read_live(folder)
    model, by = (folder / "model").is_dir(), holder(folder)
    # Who works in the execution's folder may be at another run of it by now.
    done = model and (live.get("phase", "ended") == "ended" or not by)
    rows = [row for row in read_metrics(folder) if "step" in row]
    return Watched(folder, rows, live, _steps(folder, live), by, done)


def _steps(folder: Path, live: Mapping[str, Any]) -> int | None:
    if "steps" in live:
        return int(live["steps"])
    for name in ("config.yaml", "pretraining.yaml"):
        if (folder / name).is_file():
            told = yaml.safe_load((folder / name).read_text()) or {}
            steps = (told.get("training") or told).get("steps")
            return steps if isinstance(steps, int) else None
    return None
