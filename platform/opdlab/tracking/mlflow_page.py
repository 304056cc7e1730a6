"""MLflow's page: served on the store of an output folder, and the link to runs side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab import credentials
from opdlab.console import BOLD, END, console
from opdlab.tracking.mlflow_store import answering, open_client, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

PORT = 5000
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
        console.print("what was varied against what came out:")
        console.print(view_link(experiment, view, page), soft_wrap=True)
        console.print("all parameters and metrics side by side:")
    console.print(compare_link(experiment, run_ids, page), soft_wrap=True)


def serve(output: str, port: int = PORT, uri: str | None = None) -> None:
    """Run the MLflow page on the store of an output folder until Ctrl-C."""
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
    subprocess.run(command, env=environment, check=True)
