"""MLflow's page: served on the store of an output folder, and the link to runs side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from opdlab.terminal import console
from opdlab.tracking import open_client, store_uri

PORT = 5000


def compare_link(
    experiment: str, run_ids: list[str], page: str = f"http://127.0.0.1:{PORT}"
) -> str:
    """Link to MLflow's comparison of runs; by default as `opdlab ui` serves it."""
    query = f"runs={json.dumps(run_ids)}&experiments={json.dumps([experiment])}".replace(" ", "")
    query = query.replace(chr(34), "%22") + "&workflowType=machine_learning"
    return f"{page.rstrip('/')}/#/compare-runs?{query}"


def show_link(output: str, uri: str | None, experiment: str, run_ids: list[str]) -> None:
    """Print where runs are seen side by side: on the server that has them, or on one to be started."""
    if uri is not None and uri.startswith(("http://", "https://")):
        console.print("In MLflow:")
        console.print(compare_link(experiment, run_ids, uri), soft_wrap=True)
    else:
        console.print(f"In MLflow: [bold]opdlab ui --output {output}[/], then open")
        console.print(compare_link(experiment, run_ids), soft_wrap=True)


def serve(output: str, port: int = PORT, uri: str | None = None) -> None:
    """Run the MLflow page on the store of an output folder until Ctrl-C."""
    store = store_uri(Path(output), uri)
    client = open_client(store)
    experiments = client.search_experiments()
    ids = [e.experiment_id for e in experiments if e.name != "Default"] or ["0"]
    link = f"http://127.0.0.1:{port}/#/experiments/{ids[0]}/runs?workflowType=machine_learning"
    console.print(f"MLflow on {store}\n  [bold]{link}[/]\nCtrl-C ends it.")
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    subprocess.run(command, env=environment, check=True)
