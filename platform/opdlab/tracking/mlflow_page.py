"""MLflow's page: served on the store of an output folder, and the link to runs side by side."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab import credentials
from opdlab.console import BOLD, END, console, dies_with_parent, linked
from opdlab.errors import TrackingError
from opdlab.tracking.mlflow_store import answering, open_client, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

PORT = 5000
APP = "opdlab"
"""Entry point of MLflow's page as it is served here."""
END_S = 10.0
"""For a server to end by itself."""
HERE = f"http://127.0.0.1:{PORT}"
VIEW = "mlflow.sharedViewState."
"""Tags of an experiment in which MLflow's page keeps views that its "Share" button made links to."""


def save_view(client: MlflowClient, experiment: str, key: str, view: Mapping[str, Any]) -> None:
    """Keep a view of an experiment's runs (filter, columns, charts) that `view_link` leads to."""
    with answering(str(client.tracking_uri)):
        client.set_experiment_tag(experiment, VIEW + key, json.dumps(view, separators=(",", ":")))


def view_link(experiment: str, key: str, page: str = HERE) -> str:
    """Link to a view that was saved, as charts."""
    query = f"viewStateShareKey={key}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"{page.rstrip('/')}/#/experiments/{experiment}/runs?{query}"


def compare_link(experiment: str, run_ids: list[str], page: str = HERE) -> str:
    """Link to MLflow's comparison of runs; by default as `opdlab ui` serves it."""
    query = f"runs={json.dumps(run_ids)}&experiments={json.dumps([experiment])}".replace(" ", "")
    query = query.replace(chr(34), "%22") + "&workflowType=machine_learning"
    return f"{page.rstrip('/')}/#/compare-runs?{query}"


def show_link(
    output: str, uri: str | None, experiment: str, run_ids: list[str], view: str = ""
) -> None:
    """Print where runs are seen together: on the server that has them, or on one to be started.

    Args:
        view: key of a view that was saved; its link stands first.
    """
    if uri is not None and uri.startswith(("http://", "https://")):
        page = uri
        console.print("In MLflow:")
    else:
        page = HERE
        console.print(f"In MLflow: {BOLD}opdlab ui --output {output}{END}, then open")
    if view:
        console.print("parameters against results:")
        console.print(linked(view_link(experiment, view, page)), soft_wrap=True)
        console.print("all parameters and metrics side by side:")
    console.print(linked(compare_link(experiment, run_ids, page)), soft_wrap=True)


def serve(output: str, port: int = PORT, uri: str | None = None) -> None:
    """Run the MLflow page on the store of an output folder until Ctrl-C.

    Raises:
        TrackingError: the store cannot be used, the port is taken, or the server ended.
    """
    _require_free(port)
    store = store_uri(Path(output), uri)
    client = open_client(store)
    experiments = client.search_experiments()
    ids = [e.experiment_id for e in experiments if e.name != "Default"] or ["0"]
    link = f"http://127.0.0.1:{port}/#/experiments/{ids[0]}/runs?workflowType=machine_learning"
    console.print(f"MLflow on {store}\n  {BOLD}{link}{END}\nCtrl-C ends it.")
    # A database's password would stand in the list of processes were the store an argument.
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": credentials.whole(store),
    }
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # An installation that was made before it has none.
    if entry_points(group="mlflow.app", name=APP):
        command += ["--app-name", APP]
    # In a session of its own: a signal at the terminal would reach its processes in any order.
    arrange = dies_with_parent(signal.SIGTERM)
    with subprocess.Popen(
        command, env=environment, start_new_session=True, preexec_fn=arrange
    ) as server:
        try:
            code = server.wait()
        finally:
            _end(server)
    raise TrackingError(f"the server of MLflow's page ended with exit code {code}: see above")


def _require_free(port: int) -> None:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise TrackingError(
            f"port {port} of this machine cannot be used ({why}): name another with --port"
        ) from error


def _end(server: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it began."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(END_S)
