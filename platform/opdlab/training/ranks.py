"""Processes that train one student together: rank 0 leads, the others follow.

The same command runs once for each device, started by Lightning on one machine, by torchrun or SLURM on
several. The leader keeps the records, writes checkpoints, grades and compares. A follower computes its
share of every step, and of every evaluation of the student.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from threading import Event, enumerate as enumerate_threads
from time import monotonic, sleep
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy

from opdlab.configuration import Training
from opdlab.console import ALARM, END, console
from opdlab.errors import OpdlabError, PeerError
from opdlab.training.sharded import ShardedStrategy

OBSERVER = "child-process-observer"
"""Lightning's thread that looks at the processes it started."""
WORDS, GRACE = 5.0, 40.0
"""Seconds until a process that broke a connection has ended, and until one that hangs is killed."""
# Followers wait while the leader evaluates, which may take hours.
PATIENCE = timedelta(days=2)


def rank(training: Training) -> int:
    """Number of this process among those that train together, from its launcher's environment."""
    if training.devices * training.nodes == 1:
        return 0
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    node, local = (int(os.environ.get(name, 0)) for name in ("NODE_RANK", "LOCAL_RANK"))
    return node * training.devices + local


def strategy(training: Training) -> Strategy | str:
    """Lightning's way to the devices that are asked for."""
    if training.strategy == "fsdp":
        return ShardedStrategy(training.world, PATIENCE)
    several = training.devices * training.nodes > 1
    return DDPStrategy(timeout=PATIENCE) if several else "auto"


def agreed(trainer: L.Trainer, value: int) -> int:
    """The largest of all ranks' values: what one of them was told, all of them do at the same step."""
    if trainer.world_size == 1:
        return value
    found = torch.tensor(value, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(found, reduce_op="max"))


@contextmanager
def naming_the_lost(several: bool) -> Iterator[Event]:
    """Say which of the processes that train together has ended, where that is why this one cannot go on.

    Yields what `give_time` takes.

    Raises:
        PeerError: naming the process.
    """
    over = Event()
    try:
        yield over
    except RuntimeError as error:
        if not several or isinstance(error, OpdlabError) or not _of_the_group(error):
            raise
        raise PeerError(f"{_lost()}; --resume continues from the last checkpoint") from error
    finally:
        over.set()


def give_time(over: Event) -> None:
    """Have Lightning's observer of the processes that it started leave this one time to end by itself.

    It kills this process within seconds after one of them; but this one meets the closed connection, says
    so and closes its records. Where it hangs instead, it is killed after all.
    """
    for observer in _observers():
        observer._terminate_all = partial(_end, observer, over)


def _end(observer: Any, over: Event) -> None:
    if not over.wait(GRACE):
        console.print(
            f"{ALARM}{_lost()}, and this one hangs: it is killed; --resume continues{END}"
        )
        type(observer)._terminate_all(observer)


def _observers() -> list[Any]:
    return [one for one in enumerate_threads() if one.name == OBSERVER]


def _of_the_group(error: RuntimeError) -> bool:
    known = isinstance(error, torch.distributed.DistError)
    return known or any(name in str(error) for name in ("gloo", "NCCL"))


def _lost() -> str:
    """Which process that this one started has ended, in words."""
    until = monotonic() + WORDS
    while monotonic() < until:
        for observer in _observers():
            for rank, process in enumerate(observer._child_processes, 1):
                if code := process.poll():
                    how = signal.strsignal(-code) if code < 0 else f"code {code}"
                    return f"training process {rank} (pid {process.pid}) ended: {how}"
        sleep(0.1)
    return "another of the processes that train together ended"
