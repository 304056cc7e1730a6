"""Settings that every test needs."""

import gc
import os
import signal
import sys

# Tensors are small here: on a busy machine, threads that wait for each other cost five times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import shape_checks
import torch
from hypothesis import settings

# A record's fields are checked against each other, too.
CHECKED = [
    "opdlab.modelling.attention_hook",
    "opdlab.bench",
    "opdlab.sampling.decode_step",
    "opdlab.sampling.decoder",
    "opdlab.sampling.decoding",
    "opdlab.sampling.growing_cache",
    "opdlab.modelling.head",
    "opdlab.scoring.leaf_attention",
    "opdlab.scoring.length_groups",
    "opdlab.sampling.llama_step",
    "opdlab.methods",
    "opdlab.scoring.naive",
    "opdlab.sampling.recording",
    "opdlab.records",
    "opdlab.sampling.draws",
    "opdlab.scoring.shared_prompts",
    "opdlab.scoring.teacher",
    "opdlab.training.measures",
    "opdlab.training.module",
    "opdlab.scoring.tree",
    "opdlab.modelling.vocabulary_loss",
]
shape_checks.install(CHECKED)

# Examples are the same in every run, and a slow machine is no failure.
settings.register_profile("opdlab", deadline=None, derandomize=True)
settings.load_profile("opdlab")

# A test run in the background inherits that Ctrl-C is ignored, and hands that on to what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported stays: each collection, as before each training, would look at all of it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def shapes() -> None:
    shape_checks.begin_test()


@pytest.fixture(autouse=True)
def environment_kept() -> Iterator[None]:
    """What a test, or the code under it, changes in the environment ends with it."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def signals_kept() -> Iterator[None]:
    """Commands take signals over, and would keep them after they ran in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def process_groups_end() -> Iterator[None]:
    """A sharded training within this process leaves its group, and a fork could join no other."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(autouse=True)
def servers_are_not_taken_by_other_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports come again, and a process keeps the servers that it took."""
    if module := sys.modules.get("opdlab.serving.taken"):
        monkeypatch.setattr(module, "MEETING", f"opdlab-test-{os.getpid()}-")


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow store: its migrations take seconds, so all processes of this checkout share one's."""
    from filelock import FileLock

    from opdlab.tracking import mlflow_store

    place, cache = tmp_path_factory.mktemp("stores"), request.config.rootpath / ".pytest_cache"
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, FileLock(cache / "stores.lock"):
        patch.setenv("XDG_CACHE_HOME", str(cache))
        mlflow_store.open_client(f"sqlite:///{place / 'store' / 'mlflow.db'}")
    return place / "store" / "mlflow.db"
