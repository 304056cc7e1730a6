"""What MLflow did not take while a run was recorded: kept in the run's folder, and sent by `sync`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab import credentials
from opdlab.console import console
from opdlab.errors import DataError, TrackingError
from opdlab.files import is_there, natural, read_json, read_metrics, write_whole
from opdlab.tracking.mlflow_run import AwayError, MlflowRun
from opdlab.tracking.mlflow_store import SQLITE, file_of, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient

UNSENT = "unsent.json"
KINDS = ("rows", "artifacts", "params", "tags")


def empty() -> dict[str, Any]:
    """The list of a run that has nothing to send."""
    return {"rows": [], "artifacts": [], "params": {}, "tags": {}}


def read_unsent(folder: Path) -> dict[str, Any] | None:
    """What a run could not send; None where there is nothing.

    Raises:
        DataError: the list is damaged.
    """
    path = folder / UNSENT
    remedy = "delete it, and MLflow lacks some of this run's records; those on disk are whole"
    return read_json(path, *KINDS, "run_id", "uri", remedy=remedy) if is_there(path) else None


def keep(folder: Path, unsent: Mapping[str, Any]) -> None:
    """Write the list, with what lies in the folder, or above it, named from there: both may be moved."""
    artifacts = [[_from(folder, Path(path)), place] for path, place in unsent["artifacts"]]
    uri = credentials.cut(unsent["uri"])
    file = file_of(uri)
    if file is not None and folder.absolute().is_relative_to(file.absolute().parent):
        uri = SQLITE + os.path.relpath(file, folder)
    write_whole(folder / UNSENT, json.dumps({**unsent, "artifacts": artifacts, "uri": uri}))


def _from(folder: Path, path: Path) -> str:
    inside = path.absolute().is_relative_to(folder.absolute())
    return os.path.relpath(path, folder) if inside else str(path.absolute())


def address(folder: Path, uri: str) -> str:
    """The store that a list names."""
    file = file_of(uri)
    return uri if file is None else SQLITE + os.path.abspath(folder / file)


def send_unsent(folder: Path, client: MlflowClient | None = None) -> int:
    """Send what a run could not send.

    Returns:
        Rows and artifacts sent; 0 where there was nothing.

    Raises:
        DataError: the list is damaged.
        TrackingError: the store cannot be used; the message says why.
    """
    unsent = read_unsent(folder)
    if unsent is None:
        return 0
    client = client or _client(address(folder, unsent["uri"]))
    try:
        run = MlflowRun(client, unsent["run_id"], folder, unsent.get("about"))
        run.again = lambda: _everything(run)
        run.metrics(unsent["rows"])
        run.params(unsent["params"])
        run.tags(unsent["tags"])
        for artifact, place in unsent["artifacts"]:
            run.artifact(folder / artifact, place)
        run.end(unsent.get("status", "KILLED"))
    except AwayError as error:
        raise TrackingError(
            f"the MLflow store {credentials.cut(str(client.tracking_uri))} does not answer ({error})"
        ) from error
    (folder / UNSENT).unlink(missing_ok=True)  # another sync may have been quicker
    return len(unsent["rows"]) + len(unsent["artifacts"])


def _client(uri: str) -> MlflowClient:
    file = file_of(uri)
    if file is not None and not file.parent.is_dir():
        # A store that was moved must not come to life again at its old place.
        raise TrackingError(f"the MLflow store {uri} is gone, with its folder: put it back")
    return open_client(uri)


def _everything(run: MlflowRun) -> None:
    """What a run that was deleted had got before, as far as its folder tells."""
    run.metrics(read_metrics(run.folder))
    for name in ("manifest.json", "config.yaml", "samples", "tables"):
        if (run.folder / name).exists():
            place = name if (run.folder / name).is_dir() else None
            run.artifact(run.folder / name, place)


def _unsent_below(output: Path) -> Iterator[Path]:
    """Folders with a list, those that links lead to as well, each once."""
    seen = set()
    for path, names, files in os.walk(output, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            names.clear()
        elif UNSENT in files:
            yield Path(path)
        seen.add(real)


def sync(output: str) -> None:
    """Send what the runs below a folder could not send to their MLflow server.

    Raises:
        TrackingError: the store of some cannot be used, and why; those of others have got theirs.
        DataError: there is no such folder, or the list of some runs is damaged; the others' are sent.
    """
    if not Path(output).is_dir():
        raise DataError(
            f"{output} is not a folder: name the one that experiments write to by --output"
        )
    folders = sorted(_unsent_below(Path(output)), key=natural)
    faults: list[str] = []
    away: dict[str, tuple[TrackingError, list[Path]]] = {}
    for folder in folders:
        uri = ""
        try:
            unsent = read_unsent(folder)
            uri = "" if unsent is None else address(folder, unsent["uri"])
            if uri in away:
                away[uri][1].append(folder)
                continue
            console.print(f"{folder}: sent {send_unsent(folder)} records", soft_wrap=True)
        except DataError as error:
            faults.append(str(error))
        except TrackingError as error:
            away[uri] = error, [folder]
    if not folders:
        console.print(f"nothing to send below {output}")
    for error, (first, *more) in away.values():
        others = f" and {len(more)} more" if more else ""
        faults.append(
            f"{first}{others}: {error}. Everything is kept; sync again when that is mended"
        )
    if away:
        raise TrackingError("; ".join(faults))
    if faults:
        raise DataError("; ".join(faults))
