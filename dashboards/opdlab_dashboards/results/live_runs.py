"""A training as it stands now, read from its folder while another process goes on with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import time
from typing import Any

import yaml

from opdlab.console import duration
from opdlab.errors import DataError
from opdlab.files import (
    LIVE,
    METRICS,
    OWNER,
    PARTS,
    held_here,
    holder,
    natural,
    read_live,
    read_metrics,
)

STUDY, FOUND = "study.json", "sweep.json"
"""In the folder of a sweep; the second when it has ended."""
DEPTH = 4
"""Folders below an output folder in which a training may lie: that of a trial of a sweep."""
SILENT_S = 600.0
"""Without a step, after which it is said: whoever works on another machine may have been killed there."""
BETWEEN_S = 300.0
"""Between two trials of a sweep, at most, while nobody works in the folder of a trial."""
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
        done: whether it has a trained model, and its evaluation is over.
        last: when it wrote anything, in seconds since 1970.
    """

    folder: Path
    rows: Sequence[Mapping[str, float]]
    live: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    by: str = ""
    done: bool = False
    last: float = math.inf

    @property
    def silent(self) -> float:
        """Seconds since it wrote anything."""
        return max(0.0, time() - self.last)

    @property
    def step(self) -> int:
        """Steps taken; of the last the figures are written after its evaluation."""
        recorded = int(self.rows[-1]["step"]) if self.rows else 0
        return max(recorded, int(self.live.get("step", 0))) if self.by else recorded

    @property
    def phase(self) -> str:
        """What it does, in a word."""
        if self.by and not self.done:
            return "beginning" if not self.step else str(self.live.get("phase", "training"))
        return "ended" if self.done else "stopped"

    @property
    def told(self) -> str:
        """What it does, with how long the rest of its steps will take, or how long it has been silent."""
        left = self.seconds_left
        if self.phase in ("beginning", "training") and self.silent > SILENT_S:
            return f"{self.phase}, no sign of it for {duration(self.silent)}"
        if self.phase == "evaluating":
            return f"evaluating for {duration(self.silent)}"
        return self.phase if left is None else f"{self.phase}, {duration(left)} left"

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


@dataclass(frozen=True)
class Scene:
    """All trainings in the folder of a run, of an execution or of a sweep.

    Attributes:
        place: the folder.
        runs: in the order in which they began.
        faults: of those that cannot be read, in words.
        by: who works in the folder itself, in words; empty where nobody does.
    """

    place: Path
    runs: Sequence[Watched]
    faults: Sequence[str] = ()
    by: str = ""

    @property
    def current(self) -> Watched | None:
        """The one that was written to last."""
        return max(self.runs, key=lambda run: run.last, default=None)

    @property
    def going_on(self) -> bool:
        """Whether somebody works there, or is about to begin the next trial."""
        if self.by or any(run.by for run in self.runs):
            return True
        last = max((run.last for run in self.runs), default=-math.inf)
        if not (self.place / STUDY).is_file() or time() - last > BETWEEN_S:
            return False
        # One that was continued has what was found before.
        return _written(self.place / FOUND) < last


def newest(output: Path) -> Path:
    """The execution or the sweep below an output folder in which a process of this machine works, else the
    one that was written to last.

    Raises:
        DataError: there is none.
    """
    signs: dict[Path, float] = {}
    held: set[Path] = set()
    for name in (OWNER, LIVE, METRICS):
        for depth in range(1, DEPTH):
            for path in output.glob(f"{'*/' * depth}{name}"):
                top = output / path.relative_to(output).parts[0]
                # What another machine left may be of a process that was killed there.
                if name == OWNER and held_here(path.parent):
                    held.add(top)
                if name != OWNER or holder(path.parent):
                    signs[top] = max(signs.get(top, -math.inf), _written(path))
    found = [top for top in signs if not (top / "pretraining.yaml").exists()]
    if not found:
        raise DataError(
            f"no training below {output}: begin one with `opdlab train`, or name its folder"
        )
    return max(found, key=lambda top: (top in held, signs[top]))


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written to, or goes."""
    try:
        told = path.stat()
    except OSError:
        return 0, 0
    return told.st_mtime_ns, told.st_size


class Reader:
    """Reads metrics of runs again only where they changed, for who looks often."""

    def __init__(self) -> None:
        # Of each folder the newest reading alone: a run is looked at many times while it grows.
        self.read: dict[Path, tuple[tuple[int, int], Sequence[Mapping[str, float]]]] = {}

    def rows(self, folder: Path) -> Sequence[Mapping[str, float]]:
        """A run's metrics, one mapping a step."""
        stamp = _stamp(folder / METRICS)
        if folder not in self.read or self.read[folder][0] != stamp:
            self.read[folder] = stamp, read_metrics(folder)
        return self.read[folder][1]


def _written(path: Path) -> float:
    """When a file was written, in seconds since 1970; minus infinity where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return -math.inf


def scene(place: Path, reader: Reader | None = None) -> Scene:
    """A folder as it stands now; runs that cannot be read are named and left out.

    Args:
        reader: of who looks again and again; None to read everything.

    Raises:
        DataError: no training in it has begun, nobody is about to begin one, or none can be read.
    """
    reader = reader or Reader()
    if (place / METRICS).is_file():
        return Scene(place, [watched(place, reader)], by=holder(place))
    found = {p.parent for depth in range(1, DEPTH) for p in place.glob(f"{'*/' * depth}{METRICS}")}
    runs: list[Watched] = []
    faults: list[str] = []
    for folder in sorted(found, key=natural):
        try:
            runs.append(watched(folder, reader))
        except DataError as error:
            faults.append(str(error))
    by = holder(place)
    if not runs and not by:
        why = "; ".join(faults) or f"there is no {METRICS} in it"
        raise DataError(f"{place} holds no training that has begun: {why}")
    begun = [(run.rows[0].get("time", 0.0) if run.rows else math.inf, run) for run in runs]
    in_order = [run for _, run in sorted(begun, key=lambda pair: pair[0])]
    return Scene(place, in_order, faults, by)


def watched(folder: Path, reader: Reader | None = None) -> Watched:
    """A run as it stands now.

    Args:
        reader: of who looks again and again; None to read everything.

    Raises:
        DataError: what it wrote is damaged; the message names the file.
    """
    live, by = read_live(folder), holder(folder)
    done = (folder / "model").is_dir() and live.get("phase", "ended") == "ended"
    rows = (reader or Reader()).rows(folder)
    begun = max(_written(folder / OWNER), _written(folder.parent / OWNER)) if by else -math.inf
    said = max(_written(folder / LIVE), _written(folder / METRICS))
    if said < begun:
        # By a process before this one, which has taken no step yet.
        live = {k: v for k, v in live.items() if k != "step"} | {"phase": "beginning"}
    return Watched(folder, rows, live, _steps(folder, live), by, done, max(begun, said))


def _steps(folder: Path, live: Mapping[str, Any]) -> int | None:
    """How many a run is to take; None where its configuration does not say so."""
    with suppress(yaml.YAMLError, OSError, ValueError, AttributeError, TypeError):
        told = live.get("steps") or yaml.safe_load((folder / "config.yaml").read_text())
        return int(told if isinstance(told, int) else told["training"]["steps"])
    return None
