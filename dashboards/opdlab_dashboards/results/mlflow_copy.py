"""What an MLflow store holds, copied into a folder for each run, so that all else reads but one thing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab.errors import DataError, TrackingError
from opdlab.files import METRICS, PARTS, write_whole
from opdlab.identity import EXECUTION
from opdlab.tracking import open_client, unquoted
from opdlab_dashboards.results.curves import CURVES
from opdlab_dashboards.results.measured import SAMPLES

if TYPE_CHECKING:
    from mlflow import MlflowClient

WANTED = {"teacher_tokens", *PARTS, *CURVES}
PAGE = 200


def copy(
    uri: str,
    place: Path,
    on_run: Callable[[str], None] = lambda name: None,
    below: Sequence[str] = (),
) -> None:
    """Copy samples, manifest and curves of every run that has samples.

    Args:
        on_run: called with the name of each run that was copied.
        below: only runs of these names, such as `quickstart-001` or `quickstart-001/lgr`, or ids, and those
            under them, with the references beside them.

    Raises:
        TrackingError: the store does not answer, or an artifact cannot be read.
        DataError: none of its runs has samples, or a name stands for several executions.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = open_client(uri)
    runs = {run.info.run_id: run for run in _runs(client)}
    with_samples = 0
    paths_below = [_one(name.strip("/"), runs) for name in below]
    for run_id, run in runs.items():
        if below and not _is_below(_ancestors(run_id, runs), paths_below, runs):
            continue
        paths = {item.path for item in _artifacts(client, run_id)}
        if SAMPLES in paths:
            folder = place / run_id
            folder.mkdir()
            _copy_run(client, run, paths, folder)
            with_samples += 1
            on_run(run.info.run_name)
    if not with_samples:
        named = f"named {', '.join(below)} " if below else ""
        raise DataError(
            f"no run {named}in the MLflow store {uri} has samples: "
            "`opdlab train` or `opdlab eval` something with tracking.uri set to it first"
        )


def _copy_run(client: MlflowClient, run: Any, paths: set[str], folder: Path) -> None:
    for name in sorted({SAMPLES, EXECUTION} & paths):
        _download(client, run, name, folder)
    _write_metrics(client, run, folder)


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


def _ancestors(run_id: str, runs: Mapping[str, Any]) -> tuple[str, ...]:
    """Ids of a run's parents, the first one first, and its own."""
    ids: list[str] = []
    ancestor: str | None = run_id
    while ancestor is not None and ancestor in runs and ancestor not in ids:
        ids.insert(0, ancestor)
        ancestor = runs[ancestor].data.tags.get("mlflow.parentRunId")
    return tuple(ids)


def _name(run: Any) -> str:
    return run.info.run_name.removeprefix("eval ")


def _one(wanted: str, runs: Mapping[str, Any]) -> tuple[str, ...]:
    """The ancestors and the id of the run that a name, or an id, stands for; empty where there is none.

    Raises:
        DataError: several executions have that name.
    """
    if wanted in runs:
        return _ancestors(wanted, runs)
    parts = wanted.split("/")
    paths = {_ancestors(run_id, runs) for run_id in runs}
    found = sorted(path for path in paths if [_name(runs[one]) for one in path] == parts)
    if len(found) > 1:
        listed = ", ".join(f"{path[-1]} (by {_by(runs[path[-1]])})" for path in found)
        raise DataError(
            f"{len(found)} executions are named {wanted!r}: name one by its run's id instead: {listed}"
        )
    return found[0] if found else ()


def _by(run: Any) -> str:
    tags = run.data.tags
    return f"{tags.get('mlflow.user', 'unknown')} on {tags.get('opdlab.host', 'unknown')}"


def _is_below(
    path: tuple[str, ...], wanted: Sequence[tuple[str, ...]], runs: Mapping[str, Any]
) -> bool:
    """Whether a run is one of those wanted, under one, or a reference beside one."""
    for one in filter(None, wanted):
        is_reference = runs[path[-1]].data.tags.get("opdlab.role") == "reference"
        beside = len(one) > 1 and is_reference and path[:-1] == one[:-1]
        if path[: len(one)] == one or beside:
            return True
    return False


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


def _write_metrics(client: MlflowClient, run: Any, folder: Path) -> None:
    """`metrics.jsonl` as training writes it, of the metrics that pages show."""
    rows: dict[int, dict[str, float]] = {}
    for kept in run.data.metrics:
        name = unquoted(kept)
        if name in WANTED or name.startswith("fidelity/"):
            for metric in client.get_metric_history(run.info.run_id, kept):
                row = rows.setdefault(metric.step, {"step": metric.step})
                row[name] = metric.value
    lines = [json.dumps(rows[step]) for step in sorted(rows)]
    if lines:
        write_whole(folder / METRICS, "\n".join(lines) + "\n")
