"""Processes that train together: the fault of one ends them all, with its reason."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from opdlab.errors import ServerError
from opdlab.peers import failing_together, gathered, several_processes

TWO = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def broken(rank: int) -> None:
    if rank == 1:
        raise ServerError("the server has other weights")


def at_the_end(rank: int) -> None:
    """As in a rollout whose log-probabilities are too far off: the others know nothing of it."""
    assert gathered(rank, alone=False) == [0, 1]
    broken(rank)


def before_others_gather(rank: int) -> None:
    """As where a server cannot be reached by one of them."""
    broken(rank)
    gathered(rank, alone=False)
    gathered(rank, alone=False)


def inside(rank: int) -> None:
    with failing_together():
        broken(rank)
    gathered(rank, alone=False)


def first(rank: int) -> None:
    broken(1 - rank)


def take_part(rank: int, place: Path, work: Callable[[int], None], said: Connection) -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{place}",
        rank=rank,
        world_size=TWO,
        timeout=timedelta(seconds=60),
    )
    try:
        assert several_processes()
        with failing_together():
            work(rank)
        said.send("went on")
    except Exception as error:  # noqa: BLE001 - what it raised is what is looked at
        said.send(f"{type(error).__name__}: {error}")
    finally:
        torch.distributed.destroy_process_group()


def together(place: Path, work: Callable[[int], None]) -> list[str]:
    """What each of two processes ended with."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(TWO)]
    processes = [
        fork.Process(target=take_part, args=(rank, place / "store", work, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    found = [pipe[0].recv() for pipe in pipes]
    for process in processes:
        process.join()
    return found


@pytest.mark.parametrize("work", [at_the_end, before_others_gather, inside])
def test_all_processes_end_by_the_fault_of_one(tmp_path: Path, work: Callable[[int], None]) -> None:
    reason = "ServerError: the server has other weights"
    everywhere = f"PeerError: training process 1 failed, and all end with it: {reason}"
    assert together(tmp_path, work) == [everywhere] * TWO


def test_the_first_process_raises_its_own_fault(tmp_path: Path) -> None:
    own, other = together(tmp_path, first)
    assert own == "ServerError: the server has other weights"
    assert other.startswith("PeerError: training process 0 failed")


def test_where_nothing_fails_all_go_on(tmp_path: Path) -> None:
    assert together(tmp_path, lambda rank: None) == ["went on"] * TWO


def test_one_process_alone_raises_what_it_raises() -> None:
    with pytest.raises(ServerError), failing_together():
        broken(1)
