"""Processes that train one student together: rank 0 leads, the others follow.

The same command runs once for each device, started by Lightning on one machine, by torchrun or SLURM on
several. The leader keeps the records, writes checkpoints, evaluates and compares. A follower computes its
share of every step and nothing else.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy

from opdlab.configuration import Training
from opdlab.training.sharded import ShardedStrategy

Row = TypeVar("Row")
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


def gathered(trainer: L.Trainer, rows: list[Row]) -> list[Row]:
    """The rows of all ranks, on each of them."""
    if trainer.world_size == 1:
        return rows
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, rows)
    return [row for each in found for row in each]
