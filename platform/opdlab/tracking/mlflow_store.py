"""MLflow's stores: opened, made where there is none, and found again where their folder was moved."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from opdlab import credentials
from opdlab.console import END, YELLOW, console
from opdlab.errors import StorageError, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

STORE = "mlflow.db"
ARTIFACTS = "mlartifacts"
"""Folder beside an SQLite store; its experiments keep their files there wherever both are moved to."""
BESIDE = "opdlab.artifacts_beside_store"
"""Tag of such an experiment."""
SQLITE = "sqlite:///"
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def store_uri(output: Path, uri: str | None) -> str:
    """Tracking URI: the one given, or an SQLite file in the output folder."""
    return uri or sqlite_uri(output / STORE)


def sqlite_uri(file: Path) -> str:
    """The address of an SQLite file.

    Raises:
        StorageError: no address can hold the file's path.
    """
    if "?" in str(file.absolute()):
        # What follows would be options, and the database would lie at the path before it.
        raise StorageError(
            f"output: {file.parent.absolute()} has a question mark in its name, which an address of a "
            "database cannot hold: name another folder"
        )
    return f"{SQLITE}{file.absolute()}"


def file_of(uri: str) -> Path | None:
    """The file of an SQLite store; None for a server or another database."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def is_server(uri: str) -> bool:
    """Whether an address is that of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def open_client(uri: str) -> MlflowClient:
    """A client on a store that answers.

    Raises:
        TrackingError: a server does not answer, or a database cannot be used.
        StorageError: the SQLite file's folder cannot be made.
    """
    # A training step must not wait minutes for a server that went away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # What it tells, with a traceback, is raised as well, and told in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = credentials.cut(uri)
    file = file_of(uri)
    if is_server(uri):
        _take_login(uri)
        _check_server(uri)
    elif file is not None:
        make_output(file.parent)
    from mlflow import MlflowClient

    with answering(uri):
        if file is not None:
            from opdlab.tracking.mlflow_empty import make_store

            make_store(file, home_of(file), BESIDE)
            _bring_home(file)
        client = MlflowClient(uri if is_server(uri) else credentials.whole(uri))
        client.search_experiments(max_results=1)
        return client


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Say in words where a store does not do what is asked; raises TrackingError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
        uri = credentials.cut(uri)
        raise TrackingError(_unusable(uri, file_of(uri), error)) from None


def _unusable(uri: str, file: Path | None, error: Exception) -> str:
    lines = credentials.hide(str(error.__cause__ or error)).strip().splitlines()
    # SQLAlchemy may begin with advice to programmers.
    cause = next((line for line in lines if "Error)" in line), [*lines, type(error).__name__][0])
    what = "server" if is_server(uri) else "database"
    remedy = f"Start the {what}, or correct tracking.uri"
    if file is not None:
        remedy = (
            f"If the file is damaged, move it away (mv {file} {file}.damaged): the next command makes a "
            "new one, and the folders of runs keep all that was measured"
        )
    if "disk" in cause or "File too large" in cause:
        remedy = "Free space there, and run the same command again"
    if "readonly" in cause.replace("-", "") or isinstance(error, PermissionError):
        remedy = "Make it and its folder writable, or name another output"
    return f"the MLflow store {uri} cannot be used: {cause}. {remedy}"


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
    if is_server(uri):
        return
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    from sqlalchemy.orm import configure_mappers

    configure_mappers()


def _take_login(uri: str) -> None:
    """Give MLflow the name and password of this server; those of another one go."""
    own, names = credentials.login(uri), (USER, PASSWORD)
    if own is None and tuple(os.environ.get(name) for name in names) in credentials.logins():
        for name in names:
            del os.environ[name]
    elif own is not None:
        os.environ.update(zip(names, own, strict=True))


def _check_server(uri: str) -> None:
    import requests

    name = os.environ.get(USER)
    login = (name, os.environ.get(PASSWORD, "")) if name else None
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5, auth=login)
        answer.raise_for_status()
    except requests.RequestException as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise TrackingError(
                f"the MLflow server at {uri} refuses this name and password: set {USER} and "
                f"{PASSWORD}"
            ) from None
        raise TrackingError(
            f"no MLflow server answers at {uri} ({type(error).__name__}). Start one with `opdlab ui`, "
            "correct tracking.uri, or leave it out to record in a local SQLite file"
        ) from None


def _bring_home(file: Path) -> None:
    """Point a store that was moved or copied at the files beside it, so that none goes to the old place."""
    home = home_of(file)
    with closing(sqlite3.connect(file, timeout=30)) as store:
        moved = store.execute(
            "SELECT experiment_id, artifact_location FROM experiments JOIN experiment_tags "
            "USING (experiment_id) WHERE key = ? AND artifact_location <> ?",
            (BESIDE, home),
        ).fetchall()
        if not moved:
            return
        with store:
            for experiment, old in moved:
                store.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (home, experiment),
                )
                store.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (home, len(old) + 1, experiment, len(old), old),
                )


def home_of(file: Path) -> str:
    """Where the files of an SQLite store's experiments lie, as a URI."""
    return (file.parent.resolve() / ARTIFACTS).as_uri()


def open_experiment(output: Path, uri: str | None, name: str) -> tuple[MlflowClient, str]:
    """A client on the store of an output folder, and the id of an experiment there.

    Args:
        uri: of the store; None for the folder's own.

    Raises:
        TrackingError, StorageError: as `open_client` and `experiment_id`.
    """
    client = open_client(store_uri(output, uri))
    return client, experiment_id(client, name, output)


def experiment_id(client: MlflowClient, name: str, output: Path) -> str:
    """Id of an experiment, made where it does not exist; another one's where it was deleted.

    Raises:
        TrackingError: MLflow refuses the name.
    """
    with answering(str(client.tracking_uri)):
        return _experiment_id(client, name, output)


def _experiment_id(client: MlflowClient, name: str, output: Path) -> str:
    from mlflow.exceptions import MlflowException

    for number in range(1, 100):
        wanted = name if number == 1 else f"{name} ({number})"
        found = client.get_experiment_by_name(wanted)
        if found is None:
            with suppress(MlflowException):
                # Workers that begin together all find none; the first to make it makes it for all.
                return _create(client, wanted, output)
            found = client.get_experiment_by_name(wanted)
            if found is None:
                return _create(client, wanted, output)
        if found.lifecycle_stage == "active":
            if number > 1:
                console.print(
                    f"{YELLOW}the MLflow experiment {name!r} was deleted: {wanted!r} takes its place{END}"
                )
            return found.experiment_id
    raise TrackingError(f"tracking.experiment: {name!r} was deleted many times; name another one")


def _create(client: MlflowClient, name: str, output: Path) -> str:
    uri = str(client.tracking_uri)
    file = file_of(uri)
    if file is not None:
        return client.create_experiment(name, home_of(file), tags={BESIDE: "yes"})
    place = None if is_server(uri) else (output / ARTIFACTS).absolute().as_uri()
    return client.create_experiment(name, artifact_location=place)
