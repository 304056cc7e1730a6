"""What was measured, as it lies below a folder: runs, references and models, with what is known of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from opdlab import store
from opdlab.errors import DataError
from opdlab.natural_order import natural
from opdlab.tracking import PARTS, read_metrics

SAMPLES, CONFIG, MANIFEST = "samples", "config.yaml", "manifest.json"
ORIGIN = "origin.json"
"""Of a copy from MLflow: when it was measured, and which run it is."""
NOT_LEARNING = (
    "name",
    "description",
    "seed",
    "output",
    "tracking",
    "runs",
    "sweep",
    "evaluation",
    "kind",
)
"""Keys of an experiment that do not change what is learned, but for luck."""
SKIPPED = {"model", "checkpoints", "tables", "mlartifacts"}
REFERENCES = ("student", "teacher")


@dataclass(frozen=True, eq=False)
class Measured:
    """One model that was evaluated: a run of an experiment, its student or teacher, or any other.

    Attributes:
        folder: where `samples` lies.
        name: the folder's path below the source.
        role: `student` (before training), `teacher`, `run`, or `model` for `opdlab eval`.
        config: the experiment, resolved; empty for a model.
        manifest: what a run was made with; empty for what was not trained.
        metrics: one mapping a training step.
        when: time of the evaluation, in seconds since 1970.
        place: where a person finds the samples: the folder, or the run in MLflow.
    """

    folder: Path
    name: str
    role: str
    config: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    when: float = 0.0
    place: str = ""

    @cached_property
    def sets(self) -> list[store.SampleSet]:
        """The samples of the end of a run, by benchmark; those in the midst of training are left out."""
        found = store.sample_sets(self.folder / SAMPLES)
        finals = [one for one in found if "@" not in one.checkpoint]
        names = {one.checkpoint for one in finals}
        if len(names) != 1:
            listed = ", ".join(sorted(names)) or "none of a finished run"
            raise DataError(f"{self.folder} holds samples of {listed}; one checkpoint is needed")
        return finals

    @property
    def seed(self) -> int:
        """Of training; of the sampling where nothing was trained."""
        if self.role == "run":
            return int(self.config.get("seed", 0))
        return self.sets[0].asked.seed

    @property
    def method(self) -> str:
        """Type of the training method; empty where nothing was trained."""
        return str(self.config.get("method", {}).get("type", "")) if self.role == "run" else ""

    @property
    def source(self) -> str:
        """The model: where a reference or a model was loaded from, or what a run's student was."""
        key = "teacher" if self.role == "teacher" else "student"
        if self.role == "model":
            return str(self.sets[0].asked.software.get("model", self.name))
        return str(self.config.get(key, {}).get("path", self.name))

    @property
    def public(self) -> bool:
        """Whether it is a model that was not trained here, neither student nor teacher of an experiment."""
        parts = Path(self.source).parts
        trained_here = len(parts) > 2 and parts[-1] == "model"
        return self.role == "model" and not trained_here

    @property
    def identity(self) -> str:
        """Equal for runs that differ in their seed alone, and for the same model measured again."""
        if self.role == "run":
            learned = {k: v for k, v in self.config.items() if k not in NOT_LEARNING}
            return "run " + _hash(learned)
        if self.role == "model":
            return f"model {self.name.rpartition('-')[2]}"
        weights = self.manifest.get(self.role, {}).get("weights_sha256")
        return f"model {weights[:8] if weights else _hash(self.config.get(self.role))}"

    @property
    def teacher_tokens(self) -> float | None:
        """Tokens that the teacher read in training, candidates included; None where nothing was trained."""
        rows = [row for row in self.metrics if "response_tokens" in row]
        return self._scaled(sum(r["response_tokens"] + r["leaves"] for r in rows)) if rows else None

    @property
    def seconds(self) -> float | None:
        """Seconds of training: rollouts, teacher and updates."""
        rows = [row for row in self.metrics if all(part in row for part in PARTS)]
        return self._scaled(sum(r[part] for r in rows for part in PARTS)) if rows else None

    def _scaled(self, total: float) -> float:
        """Metrics are means over the micro-batches of a step."""
        return total * self.config.get("training", {}).get("accumulate", 1)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def find(source: Path) -> list[Measured]:
    """All that was measured below a folder, in order of time.

    Raises:
        DataError: there is no such folder, or nothing in it was measured.
    """
    if not source.is_dir():
        raise DataError(f"{source} is neither a folder of runs nor the address of an MLflow store")
    found = [_read(folder, source) for folder in sorted(_folders(source), key=natural)]
    if not found:
        raise DataError(
            f"nothing below {source} was measured: `opdlab train` or `opdlab eval` something first, or "
            "name the folder that holds its runs"
        )
    return sorted(found, key=lambda one: one.when)


def _folders(source: Path) -> Iterator[Path]:
    for path, names, _ in os.walk(source):
        if SAMPLES in names and any((Path(path) / SAMPLES).glob(f"*/*/*/{store.ASKED}")):
            yield Path(path)
            names.remove(SAMPLES)
        names[:] = [name for name in names if name not in SKIPPED]


def _read(folder: Path, source: Path) -> Measured:
    name = str(folder.relative_to(source)) if folder != source else folder.resolve().name
    asked = (folder / SAMPLES).glob(f"*/*/*/{store.ASKED}")
    facts: dict[str, Any] = {"when": max(path.stat().st_mtime for path in asked)}
    # As it was given: a page that is published need not tell where its maker lives.
    facts["place"] = str(folder / SAMPLES)
    if (folder / ORIGIN).exists():
        facts |= read_json(folder / ORIGIN)
    if (folder / MANIFEST).exists():
        facts |= {"config": _yaml(folder / CONFIG), "manifest": read_json(folder / MANIFEST)}
        return Measured(folder, name, "run", metrics=read_metrics(folder), **facts)
    if folder.name in REFERENCES and (folder.parent / CONFIG).exists():
        facts |= {"config": _yaml(folder.parent / CONFIG), "manifest": _manifest_beside(folder)}
        return Measured(folder, name, folder.name, **facts)
    return Measured(folder, name, "model", **facts)


def _manifest_beside(reference: Path) -> dict[str, Any]:
    """What a run of the same experiment says of its models; of a sweep the runs lie in its trials."""
    group = reference.parent
    runs = sorted(group.glob(f"*/{MANIFEST}")) or sorted(group.parent.glob(f"trial-*/*/{MANIFEST}"))
    return read_json(runs[0]) if runs else {}


def read_json(path: Path) -> dict[str, Any]:
    """Raises DataError where there is no sound file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error})") from error


def _yaml(path: Path) -> dict[str, Any]:
    try:
        return yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path} is damaged or unreadable ({error})") from error
