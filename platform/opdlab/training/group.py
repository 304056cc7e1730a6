"""The folder of an experiment's runs, and which of them are done."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from filelock import FileLock

from opdlab.configuration import Experiment, loader
from opdlab.console import END, YELLOW, console
from opdlab.errors import ConfigError, ResumeError
from opdlab.evaluation import unanswered
from opdlab.files import is_there, natural, read_json, write_whole
from opdlab.identity import PACES, new_id
from opdlab.tracking import make_output

STATE = "experiment.json"
CONFIG = "config.yaml"
REFERENCES = "references"
"""Folder of a sweep's, beside those of its trials."""


@final
@dataclass(frozen=True)
class Group:
    """`runs/quickstart-001`: one execution of an experiment, with a folder for each of its runs."""

    folder: Path

    def state(self) -> dict[str, Any]:
        """Ids in MLflow and the status of each run, by name."""
        return {"id": None, **state_of(self.folder)}

    @property
    def id(self) -> str:
        """Of this execution, given when it is first asked for."""
        known = self.state()["id"]
        if known is None:
            known = new_id()
            self.update(id=known)
        return known

    def label(self, run: str, output: str) -> str:
        """Where a run was begun, below the output folder, for people to find it."""
        place = self.folder / run
        return str(place.relative_to(output) if place.is_relative_to(output) else place)

    def update(self, run: str | None = None, **values: Any) -> None:
        """Change the state of a run, or of the whole (`run=None`), on disk at once.

        Runs that are trained side by side do so together.
        """
        with FileLock(self.folder / f".{STATE}.lock"):
            state = self.state()
            place = state if run is None else state["runs"].setdefault(run, {})
            place.update(values)
            write_whole(self.folder / STATE, json.dumps(state, indent=2) + "\n")

    def run(self, name: str) -> dict[str, Any]:
        """State of one run; empty before it began."""
        return self.state()["runs"].get(name, {})

    def finished(self, name: str) -> bool:
        """Whether a run has ended, and none of its answers was refused or withdrawn, if only later."""
        ended = self.run(name).get("status") == "finished"
        return ended and not unanswered(self.folder / name)


def state_of(folder: Path) -> dict[str, Any]:
    """What a folder's execution, or a sweep's trial, noted: ids in MLflow, and each run's status.

    Raises:
        DataError: the record is damaged.
    """
    path = folder / STATE
    if not is_there(path):
        return {"parent": None, "runs": {}}
    return read_json(path, "parent", "runs")


def groups(output: Path, name: str) -> list[Path]:
    """Folders of an experiment's executions, oldest first."""
    numbered = re.compile(re.escape(name) + r"-\d{3,}$")
    found = (path for path in output.glob(f"{name}-*") if numbered.match(path.name))
    return sorted(found, key=natural)


def next_folder(output: Path, name: str) -> Path:
    """Where the next execution of an experiment goes."""
    last = groups(output, name)
    number = int(last[-1].name.rpartition("-")[2]) + 1 if last else 1
    return output / f"{name}-{number:03d}"


def open_group(config: Experiment) -> Group:
    """A new folder for an execution."""
    output = Path(config.output)
    make_output(output)
    with FileLock(output / ".opdlab.lock"):
        folder = next_folder(output, config.name)
        folder.mkdir()
    loader.save_resolved(config, folder / CONFIG)
    return Group(folder)


def last_group(config: Experiment) -> Group:
    """The newest execution with this configuration, to go on with.

    Raises:
        ResumeError: there is none, or all were begun with other configurations.
    """
    output = Path(config.output)
    found = groups(output, config.name)
    if not found:
        raise ResumeError(f"{output} holds no run of {config.name!r}; train without --resume first")
    for folder in reversed(found):
        # One of another version, or cut short at its beginning, hides no older one.
        try:
            if not _differing(folder, config):
                return Group(folder)
        except ConfigError as error:
            console.print(f"{YELLOW}left out{END} {folder}: {error}", soft_wrap=True)
    newest = found[-1]
    raise ResumeError(
        f"{newest} already exists with a different configuration; these differ: "
        f"{', '.join(_differing(newest, config))}. "
        "Give the same file and overrides, or start a new run without --resume"
    )


def _differing(folder: Path, config: Experiment) -> list[str]:
    """Keys in which an execution's configuration is another one.

    Where it lies may have changed, and on how many devices and with how much memory it trains.
    """
    before = loader.load_experiment(folder / CONFIG).model_dump(mode="json")
    return sorted(differences(before, config.model_dump(mode="json")) - {"output", *PACES})


def differences(before: Any, now: Any, path: str = "") -> set[str]:
    """Dotted keys in which two configurations, as plain values, differ; items of a list share its key."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        return {found for one, other in pairs for found in differences(one, other, path)}
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            found
            for key in before.keys() | now.keys()
            for found in differences(
                before.get(key), now.get(key), f"{path}.{key}" if path else key
            )
        }
    return set() if before == now else {path}
