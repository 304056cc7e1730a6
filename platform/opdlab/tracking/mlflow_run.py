"""One run in MLflow as a recipient: away, refusing one thing, or deleted and replaced."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from opdlab import credentials
from opdlab.console import END, YELLOW, console
from opdlab.errors import TrackingError
from opdlab.tracking.mlflow_names import quoted
from opdlab.tracking.mlflow_store import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000
"""Metrics that MLflow takes at once."""
PARAMS = 100
"""Parameters, likewise."""
TAG_LIMIT = 8000  # characters of a tag; longer ones are cut by MLflow
INSTEAD = "opdlab.instead_of"
"""Tag of a run that took the place of one that was deleted."""
_MAY_PASS = (401, 403, 408, 429)
"""Statuses by which a server refuses everything for now."""

Row = Mapping[str, float]
Again = Callable[[], None]


class AwayError(Exception):
    """The store does not answer, or lets nobody in; what was sent may not have arrived."""


@final
class MlflowRun:
    """A run to which things are sent one at a time, from several threads.

    Attributes:
        about: name, experiment and tags, by which another takes its place where it is deleted.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        folder: Path,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.client, self.run_id, self.folder = client, run_id, folder
        self.about = dict(about or {})
        self.lock = threading.RLock()
        self.again: Again = lambda: None
        self.told: set[str] = set()

    def look(self) -> bool:
        """Learn what the run is called; whether it was deleted and another took its place.

        Raises:
            AwayError: the store does not answer.
        """
        before = self.run_id
        self._send("what it is", self._learn)
        return self.run_id != before

    def _learn(self) -> None:
        run = self.client.get_run(self.run_id)
        if not self.about:
            experiment = self.client.get_experiment(run.info.experiment_id).name
            own = {
                key: v for key, v in run.data.tags.items() if not key.startswith("mlflow.log-model")
            }
            self.about = {"name": run.info.run_name, "experiment": experiment, "tags": own}
        if run.info.lifecycle_stage != "active":
            self._replace()

    def metrics(self, rows: Sequence[Row]) -> None:
        """Values by name, each row with `step` and `time`; raises AwayError, as all that follow."""
        entities = [entity for row in rows for entity in _entities(row)]
        for start in range(0, len(entities), BATCH):
            self._halving("metric", "metrics", entities[start : start + BATCH])

    def params(self, params: Mapping[str, str]) -> None:
        """Parameters, which MLflow lets nobody change."""
        from mlflow.entities import Param

        entities = [Param(quoted(key), value) for key, value in params.items()]
        for start in range(0, len(entities), PARAMS):
            self._halving("parameter", "params", entities[start : start + PARAMS])

    def tags(self, tags: Mapping[str, str]) -> None:
        """Tags, of which a later one replaces an earlier."""
        for key, value in tags.items():
            self._send(
                f"tag {key}", lambda k=key, v=value: self.client.set_tag(self.run_id, quoted(k), v)
            )

    def artifact(self, path: Path, place: str | None) -> None:
        """A file, or a folder with what is in it."""
        if not path.exists():
            self._tell(f"{path} is no longer there, so MLflow does not get it")
            return
        send = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        self._send(f"artifact {path.name}", lambda: send(self.run_id, str(path), place))

    def other(self, what: str, send: Callable[[], object]) -> None:
        """What has no method here; `what` names it where MLflow refuses it."""
        self._send(what, send)

    def begin(self) -> None:
        """Mark it as running."""
        self._send("its status", lambda: self.client.update_run(self.run_id, "RUNNING"))

    def end(self, status: str) -> None:
        """End it as FINISHED, FAILED or KILLED."""
        self._send("its status", lambda: self.client.set_terminated(self.run_id, status))

    def _halving(self, what: str, kind: str, entities: list[Any]) -> None:
        """Send many at once; where MLflow refuses one of them, all others."""

        def send(some: list[Any]) -> None:
            given: dict[str, Any] = {kind: some}
            self.client.log_batch(self.run_id, **given)

        def either(some: list[Any]) -> None:
            if len(some) == 1:
                self._send(f"{what} {some[0].key}", lambda: send(some))
            elif some and not self._send(None, lambda: send(some)):
                either(some[: len(some) // 2])
                either(some[len(some) // 2 :])

        either(entities)

    def _send(self, what: str | None, call: Callable[[], object]) -> bool:
        """Whether a call was obeyed; what MLflow refused is told, where it has a name."""
        from mlflow.exceptions import MlflowException

        with self.lock:
            try:
                call()
            except (MlflowException, OSError) as error:
                if not _is_refusal(error):
                    raise AwayError(_words(error)) from error
                try:
                    if is_gone(self.client, self.run_id):
                        self._replace()
                        call()
                        return True
                except (MlflowException, OSError, TrackingError) as second:
                    raise AwayError(_words(second)) from second
                if what is not None:
                    self._tell(f"MLflow refuses {what} ({_words(error)}); {self.folder} keeps it")
                return False
            return True

    def _replace(self) -> None:
        """Begin another run in place of this one, and send it what this one had got."""
        name = self.about.get("name", self.folder.name)
        experiment = experiment_id(
            self.client, self.about.get("experiment", "opdlab"), self.folder.parent
        )
        tags = {**self.about.get("tags", {}), INSTEAD: self.run_id}
        instead = replacement(self.client, experiment, self.run_id)
        if instead is None:
            run = self.client.create_run(experiment, run_name=name, tags=tags)
            instead = run.info.run_id
        self._tell(f"the run {name} was deleted in MLflow: {instead} takes its place")
        self.run_id = instead
        self.again()

    def _tell(self, message: str) -> None:
        """Once."""
        if message not in self.told:
            self.told.add(message)
            console.print(f"{YELLOW}{message}{END}", soft_wrap=True)


def is_gone(client: MlflowClient, run_id: str) -> bool:
    """Whether a run was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage != "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True


def replacement(client: MlflowClient, experiment: str, run_id: str) -> str | None:
    """The run that another command, such as `sync`, began in place of a deleted one; None for none."""
    found = client.search_runs([experiment], f"tags.`{INSTEAD}` = '{run_id}'", max_results=1)
    return found[0].info.run_id if found else None


def _entities(row: Row) -> Iterator[Any]:
    from mlflow.entities import Metric

    stamp, step = int(row.get("time", 0.0) * 1000), int(row["step"])
    for name, value in row.items():
        if name not in ("step", "time"):
            # MLflow would store infinity as the largest float, which spoils a chart.
            shown = value if math.isfinite(value) else math.nan
            yield Metric(quoted(name), shown, stamp, step)


def _is_refusal(error: Exception) -> bool:
    """Whether a store that answers will not have this, now or later."""
    from mlflow.exceptions import MlflowException

    status = error.get_http_status_code() if isinstance(error, MlflowException) else 500
    return 400 <= status < 500 and status not in _MAY_PASS


def _words(error: Exception) -> str:
    lines = credentials.hide(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
