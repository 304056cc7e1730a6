"""`opdlab diagnose`: look at students and their teacher, find, and write a page."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from opdlab import tracking
from opdlab.configuration import Experiment, Model
from opdlab.console import BOLD, END, Result, Stopped, StopRequest, console, quieten
from opdlab.diagnosis import page, report
from opdlab.diagnosis.findings import find
from opdlab.diagnosis.observe import WINDOW
from opdlab.diagnosis.sources import what_to_look_at
from opdlab.diagnosis.work import SEED, Settings, Work
from opdlab.files import claimed, write_whole
from opdlab.modelling import models
from opdlab.tracking import Tracker, mlflow_store


@dataclass(frozen=True)
class Diagnosis(Result):
    """How a teacher's supervision decays along students' answers.

    Attributes:
        found: all measurements, as `findings` holds them.
        findings: their JSON file.
    """

    found: Mapping[str, Any]
    findings: Path

    @property
    def page(self) -> Path:
        """The page with all figures."""
        return self.findings.with_suffix(".html")

    def rows(self) -> list[Mapping[str, Any]]:
        """One for each model: what the findings say of it, with its name as `model`."""
        return [{"model": name, **one} for name, one in self.found["models"].items()]

    def shown(self) -> Iterator[RenderableType]:
        yield from report.tables(self.found)
        yield f"page: {self.page}\nfindings: {self.findings}"


def diagnose(
    asked: str | Experiment,
    overrides: list[str],
    students: Sequence[str],
    teacher: str | None,
    settings: Settings,
) -> Diagnosis:
    """Measure, and write page and findings.

    Args:
        asked: an experiment or its name, or the folder of a run: then its student before and after
            training, and the copies kept in between.
        overrides: `key.path=value`.
        students: models or folders of runs to take instead, in the order of their training.
        teacher: a model to take instead of the experiment's.
        settings: problems, samples, cuts, bins and the least fidelity.

    Returns:
        The findings, and the path of the file that holds them.

    Raises:
        Stopped: a signal came; run the same command again to continue.
    """
    quieten()
    config, sources = what_to_look_at(asked, overrides, students, teacher)
    models.use_threads(config.training.threads)
    work = Work.begin(config, settings)
    console.print(
        f"{BOLD}{config.name}{END}: {len(work.bench.asked)} answers a model -> {work.folder}"
    )
    with claimed(work.folder):
        return measured(work, sources)


def measured(work: Work, sources: Sequence[tuple[str, Model]]) -> Diagnosis:
    """Look at the models, and record what is found; see `diagnose`."""
    config, settings = work.config, work.settings
    client, experiment = mlflow_store.open_experiment(
        Path(config.output), config.tracking.uri, config.tracking.experiment
    )
    tracking.reap(client, experiment)
    tags = {"opdlab.role": "diagnosis"}
    run = tracking.start_run(client, experiment, f"diagnose {config.name}", None, tags)
    tracker, status = Tracker(client, run, work.folder), "FAILED"
    try:
        with StopRequest() as stop:
            observed = work.look(sources, stop.check)
        found = find(observed, work.problems, settings.bins, settings.least, SEED)
        found |= {"experiment": config.name, "teacher": config.teacher.path}
        found |= {"window": WINDOW, "top_k": work.bench.top_k}
        findings = work.folder / f"{stem(sources)}.json"
        keep(found, findings, tracker)
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    return Diagnosis(found, findings)


def stem(sources: Sequence[tuple[str, Model]]) -> str:
    """What page and findings are called: after the last student, and by a hash of all of them."""
    students = [(name, one.path, one.revision) for name, one in sources]
    digest = hashlib.sha256(json.dumps(students).encode()).hexdigest()[:8]
    last = re.sub(r"[^\w.-]+", "-", students[-1][0]).strip("-")
    return f"diagnosis-{last}-{digest}"


def keep(found: dict[str, Any], findings: Path, tracker: Tracker) -> None:
    """Write the findings as JSON and as a page, and send both to MLflow."""
    shown = findings.with_suffix(".html")
    write_whole(findings, json.dumps(clean(found), indent=1) + "\n")
    write_whole(shown, page.html(found))
    for path in (findings, shown):
        tracker.artifact(path)
    tracker.set(report.metrics(found))


def clean(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
