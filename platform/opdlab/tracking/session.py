"""Runs in MLflow, and on disk first: what was measured survives a server that goes away.

Every metric is a line of `metrics.jsonl` in the run's folder before it is sent. What could not be sent
is listed in `unsent.json`, and `sync` sends it later.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import psutil

from opdlab import credentials
from opdlab.console import END, YELLOW, console
from opdlab.errors import DataError, TrackingError
from opdlab.files import METRICS, end_line, forget_metrics, natural, read_metrics, write_whole
from opdlab.tracking import mlflow_extras
from opdlab.tracking.mlflow_run import (
    INSTEAD,
    TAG_LIMIT,
    AwayError,
    MlflowRun,
    is_gone,
    replacement,
)
from opdlab.tracking.mlflow_store import answering
from opdlab.tracking.row_sender import RowSender
from opdlab.tracking.unsent import KINDS, UNSENT, empty, keep, read_unsent, send_unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETRY_AFTER_S = 60  # between attempts to reach a server that went away
PARENT = "mlflow.parentRunId"
"""Tag by which MLflow's page shows a run below another."""
PARAM_LIMIT = 6000  # characters; longer ones are refused by the server


def process_tags() -> dict[str, str]:
    """Who is writing a run: enough to tell later whether that process still lives."""
    process = psutil.Process()
    return {
        "opdlab.host": socket.gethostname(),
        "opdlab.machine": machine(),
        "opdlab.pid": str(process.pid),
        "opdlab.pid_started": f"{process.create_time():.2f}",
    }


def machine() -> str:
    """Where an id of a process means something: this machine and this container; two may share a name."""
    found = []
    with suppress(OSError):
        found.append(Path("/etc/machine-id").read_text().strip())
    with suppress(OSError):
        found.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(found)


def reap(client: MlflowClient, experiment: str) -> list[str]:
    """Mark as killed the runs of an experiment whose process on this machine is gone.

    Returns:
        Ids of the runs that were marked.
    """
    with answering(str(client.tracking_uri)):
        unended = [
            run
            for status in ("RUNNING", "SCHEDULED")
            for run in client.search_runs([experiment], f"attributes.status = '{status}'")
        ]
        dead = [run.info.run_id for run in unended if _is_dead(run.data.tags)]
        for run_id in dead:
            client.set_tag(run_id, "opdlab.ended", "the process died")
            client.set_terminated(run_id, "KILLED")
        return dead


def _is_dead(tags: Mapping[str, str]) -> bool:
    if tags.get("opdlab.host") != socket.gethostname():
        return False
    if tags.get("opdlab.machine") != machine():
        return False
    try:
        started = psutil.Process(int(tags["opdlab.pid"])).create_time()
    except psutil.NoSuchProcess:
        return True
    # Process ids are used again: the same id with another start is another process.
    return abs(started - float(tags["opdlab.pid_started"])) > 1


def start_run(
    client: MlflowClient, experiment: str, name: str, parent: str | None, tags: dict[str, str]
) -> str:
    """Create a run that knows which process writes it."""
    nested = {PARENT: parent} if parent else {}
    with answering(str(client.tracking_uri)):
        run = client.create_run(
            experiment, run_name=name, tags={**process_tags(), **nested, **tags}
        )
        return run.info.run_id


def run_for(
    client: MlflowClient,
    experiment: str,
    name: str,
    parent: str | None,
    tags: dict[str, str],
    known: str | None,
) -> str:
    """The run that is known already, or one in its place where there is none, or it was deleted."""
    if known is None:
        return start_run(client, experiment, name, parent, tags)
    with answering(str(client.tracking_uri)):
        if not is_gone(client, known):
            _place_below(client, known, parent)
            return known
        if (found := replacement(client, experiment, known)) is not None:
            _place_below(client, found, parent)
            return found
    run = start_run(client, experiment, name, parent, {**tags, INSTEAD: known})
    console.print(f"{YELLOW}the run {name} was deleted in MLflow: {run} takes its place{END}")
    return run


def _place_below(client: MlflowClient, run_id: str, parent: str | None) -> None:
    """Put a run below its parent, which may be another since the first one was deleted."""
    if parent is None or parent == run_id:  # a trial of one seed is its own run
        return
    if client.get_run(run_id).data.tags.get(PARENT) != parent:
        client.set_tag(run_id, PARENT, parent)


def abandon(client: MlflowClient, runs: Iterable[str]) -> None:
    """End runs that were never begun; of a store that does not answer no more is asked."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, OSError):
        for run_id in runs:
            client.set_tag(run_id, "opdlab.ended", "never begun")
            client.set_terminated(run_id, "KILLED")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values of a nested configuration."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)[:PARAM_LIMIT]


@final
class Tracker:
    """One run in MLflow with its copy on disk."""

    def __init__(self, client: MlflowClient, run_id: str, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.silent_until = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.unsent: dict[str, Any] = empty()
        try:
            self.unsent |= read_unsent(folder) or {}
            self.unsent["artifacts"] = [[str(folder / p), at] for p, at in self.unsent["artifacts"]]
        except DataError as error:
            # What is damaged is lost for MLflow alone; rows of training are sent from `metrics.jsonl`.
            console.print(f"{YELLOW}{error}{END}")
        self.run = MlflowRun(client, run_id, folder)
        self.got: dict[str, Any] = empty()
        self.logged_step = -1
        self.rows = RowSender(self.run.metrics, self._fell_silent)
        self._go_on()

    @property
    def run_id(self) -> str:
        """Of the run in MLflow, which is another where it was deleted there."""
        return self.run.run_id

    def _go_on(self) -> None:
        """Take up a run that was cut short: send the rows that were written but never arrived."""
        end_line(self.folder / METRICS)
        rows = read_metrics(self.folder)
        if rows:
            self.logged_step = int(max(row["step"] for row in rows))
        self._attempt(lambda: self._look(rows), lambda: None)
        self.run.again = self._everything_again

    def _look(self, rows: list[dict[str, float]]) -> None:
        self.run.look()
        if rows:
            history = self.client.get_metric_history(self.run_id, "loss")
            arrived = {metric.step for metric in history}
            self.run.metrics([row for row in rows if row["step"] not in arrived])

    def _everything_again(self) -> None:
        """Send a run that took the place of a deleted one what that had got."""
        self.run.metrics(read_metrics(self.folder) + self.got["rows"])
        self.run.params(self.got["params"])
        self.run.tags(self.got["tags"])
        for path, place in self.got["artifacts"]:
            self.run.artifact(Path(path), place)

    def begin(self) -> None:
        """Mark the run as running, by this process."""
        self._attempt(self.run.begin, lambda: None)
        self.tags(process_tags())

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of a step; they are sent soon, many steps at once.

        NaN and infinity are kept, as Python's JSON writes them; MLflow shows both as NaN. A step
        that is already on disk (a resumed run repeats the steps since its checkpoint, with the same values
        unless it forgot them) is not sent twice.
        """
        if step <= self.logged_step:
            return
        row = {name: float(v) for name, v in metrics.items()}
        row |= {"step": step, "time": round(time.time(), 3)}
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.logged_step = step
        # The machine's load is no result of the run: it goes to MLflow alone.
        self.rows.put(row | mlflow_extras.load())

    def forget(self, after: int) -> None:
        """Drop the records of the steps after one, which are trained again with other values."""
        forget_metrics(self.folder, after)
        self.logged_step = min(self.logged_step, after)

    def artifact(self, path: Path, place: str | None = None) -> None:
        """Send a file, or a folder with what is in it."""
        entry = [str(path), place]
        self._told("artifacts", [entry], lambda: self.run.artifact(path, place))

    def table(self, columns: dict[str, list[Any]], name: str) -> None:
        """Keep a table of samples on disk and send it as one the MLflow page can show."""
        path = self.folder / "tables" / name
        path.parent.mkdir(exist_ok=True)
        content = {"columns": list(columns), "data": _rows(columns)}
        # A page reads it, which knows no NaN.
        write_whole(path, json.dumps(content, allow_nan=False))
        self.artifact(path, "tables")
        names = sorted((table.name for table in path.parent.glob("*.json")), key=natural)
        self.tags({"mlflow.loggedArtifacts": listed(names)})

    def describe(self, text: str) -> None:
        """Set the description that MLflow's page shows above a run."""
        if text.strip():
            self.tags({mlflow_extras.NOTE: text.strip()})

    def inputs(self, sets: Sequence[mlflow_extras.DataSet]) -> None:
        """Name data sets as inputs of the run; a store that is away does not get them."""
        self._other(
            "the data sets", lambda: mlflow_extras.log_inputs(self.client, self.run_id, sets)
        )

    def traces(self, traces: Sequence[Mapping[str, Any]]) -> None:
        """Send some answers as traces; a store that is away does not get them."""
        self._other(
            "traces of answers", lambda: mlflow_extras.log_traces(self.client, self.run_id, traces)
        )

    def register(self, name: str, place: str, about: str) -> None:
        """Make the model in the run's artifacts a version of a registered model."""

        def send() -> None:
            version = mlflow_extras.register(self.client, self.run_id, name, place, about)
            console.print(f"registered in MLflow: {name}, version {version}")

        self._other(f"a version of {name}", send)

    def _other(self, what: str, send: Callable[[], object]) -> None:
        self._attempt(lambda: self.run.other(what, send), lambda: self._missing(what))

    def _missing(self, what: str) -> None:
        console.print(
            f"{YELLOW}MLflow has not got {what} of {self.folder.name}; everything is in {self.folder}{END}"
        )

    def params(self, config: Mapping[str, Any]) -> None:
        """Record a configuration as flat, searchable parameters."""
        params = dict(flatten(config))
        self._told("params", params, lambda: self.run.params(params))

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._told("tags", tags, lambda: self.run.tags(tags))

    def set(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record results of the run as a whole, or what replaces those of a step, in MLflow alone."""
        row = {name: float(v) for name, v in values.items()}
        at = max(self.logged_step, 0) if step is None else step
        row |= {"step": at, "time": round(time.time(), 3)}
        self._told("rows", [row], lambda: self.run.metrics([row]))

    def _told(self, kind: str, what: Any, send: Callable[[], object]) -> None:
        """Send what a later run would need as well, were this one deleted."""
        _add(self.got[kind], what)
        self._attempt(send, lambda: _add(self.unsent[kind], what))

    def close(self, status: str) -> None:
        """Wait for what is on its way and end the run as FINISHED, FAILED or KILLED."""
        self.unsent["rows"] += self.rows.close()
        ended = not self._is_unsent() and self._attempt(lambda: self.run.end(status), lambda: None)
        if ended and not (self.folder / UNSENT).exists():
            return
        where = {"run_id": self.run_id, "uri": self.client.tracking_uri, "status": status}
        keep(self.folder, self.unsent | where | {"about": self.run.about})
        try:
            send_unsent(self.folder, self.client)
        except TrackingError:
            console.print(
                f"{YELLOW}MLflow at {credentials.cut(self.client.tracking_uri)} did not take everything. "
                f"Nothing is lost: it is kept in {self.folder}; `opdlab sync --output OUTPUT` sends it."
            )

    def _is_unsent(self) -> bool:
        return any(self.unsent[kind] for kind in KINDS)

    def _attempt(self, send: Callable[[], object], keep: Callable[[], object]) -> bool:
        """Send to the server, or `keep` for later when it is away: training is worth more than its record.

        After a failure nothing is sent for a while, so that an absent server costs next to no time.
        """
        from mlflow.exceptions import MlflowException

        if time.monotonic() < self.silent_until:
            keep()
            return False
        try:
            send()
        except (AwayError, MlflowException, OSError) as error:
            keep()
            self._fell_silent(error)
            return False
        return True

    def _fell_silent(self, error: Exception) -> None:
        if self.silent_until == 0:
            console.print(
                f"{YELLOW}MLflow does not answer ({error}); the run continues and keeps its records in "
                f"{self.folder}.",
                soft_wrap=True,
            )
        self.silent_until = time.monotonic() + RETRY_AFTER_S


def _add(kept: Any, what: Any) -> None:
    """To a list or a mapping; of artifacts of one place the last counts."""
    if isinstance(kept, dict):
        kept.update(what)
    else:
        kept += [one for one in what if one not in kept]


def listed(names: Sequence[str]) -> str:
    """The tag by which MLflow's page shows tables: as many of the last ones as it has room for."""
    entries: list[dict[str, str]] = []
    for name in reversed(names):
        longer = [{"path": f"tables/{name}", "type": "table"}, *entries]
        if len(json.dumps(longer)) > TAG_LIMIT:
            break
        entries = longer
    return json.dumps(entries)


def _rows(columns: dict[str, list[Any]]) -> list[list[Any]]:
    return [list(row) for row in zip(*columns.values(), strict=True)]
