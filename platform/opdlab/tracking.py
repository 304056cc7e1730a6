"""Runs in MLflow, and on disk first: what was measured survives a server that goes away.

Every metric is a line of `metrics.jsonl` in the run's folder before it is sent. What could not be sent
is listed in `unsent.json`, and `sync` sends it later.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import psutil

from opdlab.errors import DataError, StorageError, TrackingError
from opdlab.natural_order import natural
from opdlab.terminal import END, YELLOW, console
from opdlab.whole_files import read_json, write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = "mlflow.db"
METRICS = "metrics.jsonl"
UNSENT = "unsent.json"
PARTS = ("seconds/rollout", "seconds/teacher", "seconds/update")
"""Metrics that add up to the seconds of a step of training."""
RETRY_AFTER_S = 60  # between attempts to reach a server that went away
PARAM_LIMIT = 6000  # characters; longer ones are refused by the server


def store_uri(output: Path, uri: str | None) -> str:
    """Tracking URI: the one given, or an SQLite file in the output folder."""
    return uri or f"sqlite:///{(output / STORE).absolute()}"


def open_client(uri: str) -> MlflowClient:
    """A client on a store that answers.

    Raises:
        TrackingError: a server does not answer, or an SQLite file cannot be opened.
        StorageError: the SQLite file's folder cannot be made.
    """
    # A training step must not wait minutes for a server that went away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif uri.startswith("sqlite:///"):
        make_output(Path(uri.removeprefix("sqlite:///")).parent)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"the MLflow store {uri} cannot be used: {error}") from error
    return client


def make_output(folder: Path) -> None:
    """Make the folder of runs.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"output: {folder} cannot be made a folder ({error.strerror}); name another one"
        ) from error


def import_store(uri: str) -> None:
    """Import what a store's address needs without opening it, for processes forked from this one."""
    if uri.startswith(("http://", "https://")):
        return
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    from sqlalchemy.orm import configure_mappers

    configure_mappers()


def _check_server(uri: str) -> None:
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise TrackingError(
            f"no MLflow server answers at {uri} ({type(error).__name__}). Start one with `opdlab ui`, "
            "correct tracking.uri, or leave it out to record in a local SQLite file"
        ) from error


def experiment_id(client: MlflowClient, name: str, output: Path) -> str:
    """Id of an experiment, made where it does not exist."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    local = not str(client.tracking_uri).startswith("http")
    place = (output / "mlartifacts").absolute().as_uri() if local else None
    try:
        return client.create_experiment(name, artifact_location=place)
    except MlflowException:
        # Workers that begin together all find none; the first to make it makes it for all.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


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
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    dead = [run.info.run_id for run in running if _is_dead(run.data.tags)]
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
    nested = {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(experiment, run_name=name, tags={**process_tags(), **nested, **tags})
    return run.info.run_id


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
        self.run_id = run_id
        self.folder = folder
        self.pending: list[tuple[dict[str, float], Any]] = []
        self.silent_until = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.unsent: dict[str, Any] = {"rows": [], "artifacts": [], "params": {}, "tags": {}}
        try:
            self.unsent = read_unsent(folder) or self.unsent
        except DataError as error:
            # What is damaged is lost for MLflow alone; rows of training are sent from `metrics.jsonl`.
            console.print(f"{YELLOW}{error}{END}")
        self.unsent |= {"run_id": run_id, "uri": client.tracking_uri}
        self.logged_step = -1
        self._go_on()

    def _go_on(self) -> None:
        """Take up a run that was cut short: send the rows that were written but never arrived."""
        _end_line(self.folder / METRICS)
        rows = read_metrics(self.folder)
        if not rows:
            return
        self.logged_step = int(max(row["step"] for row in rows))
        self._attempt(lambda: self._fill_gaps(rows), lambda: None)

    def _fill_gaps(self, rows: list[dict[str, float]]) -> None:
        history = self.client.get_metric_history(self.run_id, "loss")
        arrived = {metric.step for metric in history}
        for row in rows:
            if row["step"] not in arrived:
                self.client.log_batch(self.run_id, _entities(row))

    def begin(self) -> None:
        """Mark the run as running, by this process."""
        self._attempt(lambda: self.client.update_run(self.run_id, "RUNNING"), lambda: None)
        self.tags(process_tags())

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of a step, in one asynchronous call.

        NaN and infinity are kept, as Python's JSON writes them; MLflow shows both as NaN. A step
        that is already on disk (a resumed run repeats the steps since its checkpoint, with the same values)
        is not sent twice.
        """
        if step <= self.logged_step:
            return
        row = {name: float(v) for name, v in metrics.items()}
        row |= {"step": step, "time": round(time.time(), 3)}
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.logged_step = step
        self._attempt(lambda: self._log(row), lambda: self.unsent["rows"].append(row))

    def _log(self, row: dict[str, float]) -> None:
        operation = self.client.log_batch(self.run_id, _entities(row), synchronous=False)
        self.pending.append((row, operation))

    def artifact(self, path: Path, place: str | None = None) -> None:
        """Send a file, or a folder with what is in it."""
        entry = [str(path), place]
        self._attempt(
            lambda: _send_artifact(self.client, self.run_id, path, place),
            lambda: self.unsent["artifacts"].append(entry),
        )

    def table(self, columns: dict[str, list[Any]], name: str) -> None:
        """Keep a table of samples on disk and send it as one the MLflow page can show."""
        path = self.folder / "tables" / name
        path.parent.mkdir(exist_ok=True)
        content = {"columns": list(columns), "data": _rows(columns)}
        # A page reads it, which knows no NaN.
        write_whole(path, json.dumps(content, allow_nan=False))
        self.artifact(path, "tables")
        names = sorted((table.name for table in path.parent.glob("*.json")), key=natural)
        listed = [{"path": f"tables/{each}", "type": "table"} for each in names]
        self.tags({"mlflow.loggedArtifacts": json.dumps(listed)})

    def params(self, config: Mapping[str, Any]) -> None:
        """Record a configuration as flat, searchable parameters."""
        from mlflow.entities import Param

        params = dict(flatten(config))
        entities = [Param(key, value) for key, value in params.items()]
        self._attempt(
            lambda: self.client.log_batch(self.run_id, params=entities),
            lambda: self.unsent["params"].update(params),
        )

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._attempt(
            lambda: [self.client.set_tag(self.run_id, *tag) for tag in tags.items()],
            lambda: self.unsent["tags"].update(tags),
        )

    def set(self, values: Mapping[str, float]) -> None:
        """Record results of the run as a whole."""
        row = {name: float(v) for name, v in values.items()}
        row |= {"step": max(self.logged_step, 0), "time": round(time.time(), 3)}
        self._attempt(
            lambda: self.client.log_batch(self.run_id, _entities(row)),
            lambda: self.unsent["rows"].append(row),
        )

    def close(self, status: str) -> None:
        """Wait for what is on its way and end the run as FINISHED, FAILED or KILLED."""
        from mlflow.exceptions import MlflowException

        for row, operation in self.pending:
            try:
                operation.wait()
            except (MlflowException, OSError):
                self.unsent["rows"].append(row)
        self.pending.clear()
        self.unsent["status"] = status
        if not self._is_unsent() and self._attempt(
            lambda: self.client.set_terminated(self.run_id, status), lambda: None
        ):
            return
        write_whole(self.folder / UNSENT, json.dumps(self.unsent))
        if send_unsent(self.folder, self.client) is None:
            console.print(
                f"{YELLOW}MLflow at {self.client.tracking_uri} did not take everything. Nothing is "
                f"lost: it is kept in {self.folder}; `opdlab sync --output OUTPUT` sends it."
            )

    def _is_unsent(self) -> bool:
        return any(self.unsent[kind] for kind in ("rows", "artifacts", "params", "tags"))

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
        except (MlflowException, OSError) as error:
            keep()
            if self.silent_until == 0:
                console.print(
                    f"{YELLOW}MLflow does not answer ({type(error).__name__}); the run goes on and "
                    f"keeps its records in {self.folder}."
                )
            self.silent_until = time.monotonic() + RETRY_AFTER_S
            return False
        return True


def _end_line(path: Path) -> None:
    """End a line that a crash cut short, so that it does not swallow the next one."""
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        with path.open("a") as file:
            file.write("\n")


def _rows(columns: dict[str, list[Any]]) -> list[list[Any]]:
    return [list(row) for row in zip(*columns.values(), strict=True)]


def _entities(row: Mapping[str, float]) -> list[Any]:
    from mlflow.entities import Metric

    stamp, step = int(row["time"] * 1000), int(row["step"])
    return [
        # MLflow would store infinity as the largest float, which spoils a chart.
        Metric(name, value if math.isfinite(value) else math.nan, stamp, step)
        for name, value in row.items()
        if name not in ("step", "time")
    ]


def _send_artifact(client: MlflowClient, run_id: str, path: Path, place: str | None) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), place)
    else:
        client.log_artifact(run_id, str(path), place)


def read_unsent(folder: Path) -> dict[str, Any] | None:
    """What a run could not send; None where there is nothing.

    Raises:
        DataError: the list is damaged.
    """
    path, keys = folder / UNSENT, ("rows", "artifacts", "params", "tags", "run_id", "uri")
    remedy = "delete it, and MLflow lacks some of this run's records; those on disk are whole"
    return read_json(path, *keys, remedy=remedy) if path.exists() else None


def send_unsent(folder: Path, client: MlflowClient | None = None) -> int | None:
    """Send what a run could not send.

    Returns:
        Rows and artifacts sent; 0 where there was nothing; None when the server still does not answer.
    """
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    path, unsent = folder / UNSENT, read_unsent(folder)
    if unsent is None:
        return 0
    try:
        client = client or open_client(unsent["uri"])
        for row in unsent["rows"]:
            client.log_batch(unsent["run_id"], _entities(row))
        params = [Param(key, value) for key, value in unsent["params"].items()]
        client.log_batch(unsent["run_id"], params=params)
        for key, value in unsent["tags"].items():
            client.set_tag(unsent["run_id"], key, value)
        for artifact, place in unsent["artifacts"]:
            _send_artifact(client, unsent["run_id"], Path(artifact), place)
        client.set_terminated(unsent["run_id"], unsent["status"])
    except (MlflowException, OSError):
        return None
    path.unlink()
    return len(unsent["rows"]) + len(unsent["artifacts"])


def sync(output: str) -> None:
    """Send what the runs below a folder could not send to their MLflow server.

    Raises:
        TrackingError: the server still does not answer.
        DataError: the list of some runs is damaged; what the others have is sent.
    """
    folders = sorted(path.parent for path in Path(output).rglob(UNSENT))
    damaged = []
    for folder in folders:
        try:
            sent = send_unsent(folder)
        except DataError as error:
            damaged.append(str(error))
            continue
        if sent is None:
            raise TrackingError(
                f"{folder}: its MLflow server still does not answer; try again later"
            )
        console.print(f"{folder}: sent {sent} records")
    if not folders:
        console.print(f"nothing to send below {output}")
    if damaged:
        raise DataError("; ".join(damaged))


def is_bin(name: str) -> bool:
    """Whether a metric is that of a bin of positions, such as `fidelity/t0000-0015`."""
    return re.search(r"/t\d+-\d+$", name) is not None


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run, one mapping a step; a line that is none, cut short by a crash, is dropped."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int | float):
                rows.append(row)
    return rows
