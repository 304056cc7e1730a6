"""What MLflow's page shows beside metrics: data sets, versions of models, traces, a machine's load."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
"""Tag of a run's description."""
DIGEST = 36
"""Characters that MLflow takes of a data set's digest."""
MEGABYTE = 2**20
URI, ASYNC = "MLFLOW_TRACKING_URI", "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"
"""Variables that MLflow reads, and hands to every process that is begun."""


@dataclass(frozen=True)
class DataSet:
    """Prompts or problems that a run has read.

    Attributes:
        context: what for: `training` or `evaluation`.
        count: how many; None where they are made up without end.
    """

    name: str
    digest: str
    context: str
    source: str
    count: int | None


def log_inputs(client: MlflowClient, run_id: str, sets: Sequence[DataSet]) -> None:
    """Name data sets as inputs of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = []
    for one in sets:
        profile = {} if one.count is None else {"num_rows": one.count}
        source = json.dumps({"name": one.source})
        made = Dataset(one.name, one.digest[:DIGEST], "local", source, None, json.dumps(profile))
        found.append(DatasetInput(made, [InputTag("mlflow.data.context", one.context)]))
    client.log_inputs(run_id, found)


def register(client: MlflowClient, run_id: str, name: str, place: str, about: str) -> str:
    """Make the model in a run's artifacts a version of a registered model; returns its number.

    A run that is resumed after that keeps its version.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            # Another run of the experiment has just made it.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    # A name may hold a quote, which ends a condition.
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name:
            return str(version.version)
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    made = client.create_model_version(name, source, run_id, description=about)
    return str(made.version)


def log_traces(client: MlflowClient, run_id: str, traces: Sequence[Mapping[str, Any]]) -> None:
    """Keep some answers as traces of a run.

    Args:
        traces: each with a `name`, `inputs`, `outputs`, `attributes` and the `seconds` that it took.
    """
    import mlflow

    with _sending_to(str(client.tracking_uri)), warnings.catch_warnings():
        # Of modules that MLflow imports for its first trace.
        warnings.simplefilter("ignore")
        experiment = client.get_run(run_id).info.experiment_id
        end = time.time_ns()
        for one in map(_whole, traces):
            span = mlflow.start_span_no_context(
                one["name"],
                span_type="LLM",
                inputs=one["inputs"],
                attributes=one["attributes"],
                metadata={"mlflow.sourceRun": run_id},
                experiment_id=experiment,
                start_time_ns=end - int(1e9 * one["seconds"]),
            )
            span.end(outputs=one["outputs"], end_time_ns=end)


@contextmanager
def _sending_to(uri: str) -> Iterator[None]:
    """Let MLflow send traces to a store; the store of the user's own code stays as it was."""
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    before = {name: os.environ.get(name) for name in (URI, ASYNC)}
    # Its threads take longer than the few traces do.
    os.environ[ASYNC] = "false"
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _whole(value: Any) -> Any:
    """Without halves of characters, which a server's answer may hold and no store takes."""
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def load() -> dict[str, float]:
    """What the machine does, by the names under which MLflow shows it on a page of its own."""
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        **dict(_devices()),
    }


def _devices() -> Iterator[tuple[str, float]]:
    """Memory of the devices of CUDA that this process uses; nothing is begun for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield f"system/gpu_{number}_memory_usage_megabytes", (total - free) / MEGABYTE
        yield f"system/gpu_{number}_memory_usage_percentage", 100 * (1 - free / total)
