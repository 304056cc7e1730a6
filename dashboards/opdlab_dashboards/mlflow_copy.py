"""What an MLflow store holds, copied into the layout of a folder of runs: all else reads but one thing."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab.errors import DataError, TrackingError
from opdlab.store import ASKED, Asked, SampleSet, file_name, unquoted
from opdlab.tracking import METRICS, PARTS, open_client
from opdlab_dashboards.curves import CURVES
from opdlab_dashboards.measured import CONFIG, MANIFEST, ORIGIN, REFERENCES, SAMPLES

if TYPE_CHECKING:
    from mlflow import MlflowClient

WANTED = {"response_tokens", "leaves", *PARTS, *CURVES}
PAGE = 200


def copy(
    uri: str,
    place: Path,
    on_run: Callable[[str], None] = lambda name: None,
    below: Sequence[str] = (),
) -> None:
    """Copy samples, configuration, manifest and curves of every run that has samples.

    Args:
        on_run: called with the name of each run that was copied.
        below: only runs of these names, such as `quickstart-001` or `quickstart-001/lgr`, and those under
            them, with the references beside them.

    Raises:
        TrackingError: the store does not answer, or an artifact cannot be read.
        DataError: none of its runs has samples.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_client(uri)
    runs = {run.info.run_id: run for run in _runs(client)}
    with_samples = 0
    for run_id, run in runs.items():
        if below and not _is_below(_names(run_id, runs), below):
            continue
        paths = {item.path for item in _artifacts(client, run_id)}
        if SAMPLES in paths:
            _copy_run(client, run, paths, _folder(place, run_id, runs), uri)
            with_samples += 1
            on_run(run.info.run_name)
    if not with_samples:
        named = f"named {', '.join(below)} " if below else ""
        raise DataError(
            f"no run {named}in the MLflow store {uri} has samples: "
            "`opdlab train` or `opdlab eval` something with tracking.uri set to it first"
        )


def _copy_run(client: MlflowClient, run: Any, paths: set[str], folder: Path, uri: str) -> None:
    for name in sorted({SAMPLES, CONFIG, MANIFEST} & paths):
        _download(client, run, name, folder)
    _put_right(folder / SAMPLES)
    _write_metrics(client, run, folder)
    ended = (run.info.end_time or run.info.start_time) / 1000
    origin = {"when": ended, "place": f"{uri} run {run.info.run_id}"}
    (folder / ORIGIN).write_text(json.dumps(origin))
    if (folder / CONFIG).exists() and not (folder.parent / CONFIG).exists():
        # What `opdlab train` keeps beside its runs: references are recognised by it.
        shutil.copy(folder / CONFIG, folder.parent / CONFIG)


def _runs(client: MlflowClient) -> Iterator[Any]:
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(ids, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _artifacts(client: MlflowClient, run_id: str) -> list[Any]:
    from mlflow.exceptions import MlflowException

    try:
        return client.list_artifacts(run_id)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"the artifacts of run {run_id} cannot be listed: {error}") from error


def _names(run_id: str, runs: dict[str, Any]) -> list[str]:
    """Names of a run's parents, the first one first, and its own."""
    names: list[str] = []
    ancestor: str | None = run_id
    while ancestor in runs:
        run = runs[ancestor]
        names.insert(0, run.info.run_name.removeprefix("eval "))
        ancestor = run.data.tags.get("mlflow.parentRunId")
    return names


def _is_below(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a run is one of those wanted, under one, or a reference beside one."""
    for one in wanted:
        parts = one.strip("/").split("/")
        beside = names[-1] in REFERENCES and parts[:-1] == names[:-1]
        if names[: len(parts)] == parts or (len(parts) > 1 and beside):
            return True
    return False


def _folder(place: Path, run_id: str, runs: dict[str, Any]) -> Path:
    """One for each run, below those of its parents; a name that is taken gets the run's id."""
    folder = place.joinpath(*map(file_name, _names(run_id, runs)))
    if (folder / SAMPLES).exists():
        folder = folder.with_name(f"{folder.name}-{run_id[:6]}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _download(client: MlflowClient, run: Any, name: str, folder: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.file_utils import local_file_uri_to_path

    try:
        if run.info.artifact_uri.startswith("file:"):
            # The client's own copy of a local folder fails on names with a per cent sign.
            place = Path(local_file_uri_to_path(run.info.artifact_uri)) / name
            (shutil.copytree if place.is_dir() else shutil.copy)(place, folder / name)
        else:
            client.download_artifacts(run.info.run_id, name, str(folder))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{name} of run {run.info.run_id} cannot be read: {error}") from error


def _put_right(samples: Path) -> None:
    """Put sample sets where the store looks for them: a server turns `math%2Fshort` into `math/short`."""
    for path in sorted(samples.rglob(ASKED)):
        try:
            asked = Asked(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # reading it will say so
        depth = len(Path(asked.benchmark).parts)
        names = path.parent.relative_to(samples).parts[:-1]
        if len(names) > depth:
            checkpoint = "/".join(names[:-depth])
            right = SampleSet(samples, unquoted(checkpoint), asked).path
            right.parent.mkdir(parents=True, exist_ok=True)
            path.parent.rename(right)


def _write_metrics(client: MlflowClient, run: Any, folder: Path) -> None:
    """`metrics.jsonl` as training writes it, of the metrics that pages show."""
    rows: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        if name in WANTED or name.startswith("fidelity/"):
            for metric in client.get_metric_history(run.info.run_id, name):
                row = rows.setdefault(metric.step, {"step": metric.step})
                row[name] = metric.value
    lines = [json.dumps(rows[step]) for step in sorted(rows)]
    if lines:
        (folder / METRICS).write_text("\n".join(lines) + "\n")
