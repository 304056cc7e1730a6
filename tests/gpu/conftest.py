"""The device that these tests run on: a card where there is one, else the simulated accelerator.

torch knows the simulated device for as long as the process lives, and would give it to every other test:
so these run in a process of their own, `pytest tests/gpu`, and skip beside others.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WORTH = (
    "training",
    "scoring",
    "rollout",
    "kernels",
    "transfers",
    "doctor",
    "commands",
    "teachers",
    "bench",
    "waits",
)
"""Of files of tests, the most telling on a card first: there may be no time for all of them."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tensors go; `cuda`, or the simulated device."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        return torch.device("cuda", 0)
    from gpu.registered import register

    return torch.device(register(), 0)


@pytest.fixture(scope="session", autouse=True)
def fresh(device: torch.device) -> Iterator[Executor | None]:
    """A fork that knows the simulated device and has computed nothing; none where there is a card.

    Where a process has taken gradients on a device, what it forks cannot.
    """
    if device.type == "cuda":
        yield None
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as one:
        one.submit(os.getpid).result()
        yield one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    if len(mine) == len(items):
        items.sort(key=lambda item: WORTH.index(item.path.stem.removeprefix("test_gpu_")))
    if len(mine) == len(items) or torch.cuda.is_available():
        return
    for item in mine:
        item.add_marker(pytest.mark.skip(reason="run tests/gpu by itself: pytest tests/gpu"))
