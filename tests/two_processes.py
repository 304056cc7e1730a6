"""Two processes that exchange tensors, as two devices that train together do."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

TWO = 2


def _take_part(rank: int, store: Path, work: Callable[[int], Any], said: Connection) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=TWO,
            timeout=timedelta(seconds=60),
        )
        _send(said, work(rank))
    except Exception as error:  # noqa: BLE001 - what it raised is what is looked at
        _send(said, f"{type(error).__name__}: {error}")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _send(said: Connection, value: Any) -> None:
    """By value: a tensor's memory would go with the process."""
    content = io.BytesIO()
    torch.save(value, content)
    said.send_bytes(content.getvalue())


def in_two_processes(folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """What each of them returns of a rank's work, or the name and text of what it raised."""
    fork = multiprocessing.get_context("fork")
    store = folder / f"store-{len(list(folder.iterdir()))}"
    pipes = [fork.Pipe(duplex=False) for _ in range(TWO)]
    processes = [
        fork.Process(target=_take_part, args=(rank, store, work, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        # Where it dies, its end of the pipe is closed by nobody else.
        pipe[1].close()
    found = [torch.load(io.BytesIO(pipe[0].recv_bytes()), weights_only=False) for pipe in pipes]
    for process in processes:
        process.join()
    return found
