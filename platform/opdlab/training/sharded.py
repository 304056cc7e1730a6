"""Training whose weights lie in parts on all devices: Lightning's strategy, with our own checkpoints.

The checkpoint file is written as for one device, whole or not at all, but for its tensors: these lie beside
it in a folder that it names, in the form of torch's distributed checkpoints, each process's part in a file.
So any number of devices can go on from it (`opdlab.training.checkpoint` reads it for one), and what a
process that was killed left half-written is never looked at.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from typing_extensions import override

from opdlab.errors import StorageError
from opdlab.modelling import adapters
from opdlab.peers import failing_together
from opdlab.training.averaging import kept_in
from opdlab.training.checkpoint import (
    SHARDS,
    AtomicCheckpointIO,
    as_named,
    as_numbered,
    read_checkpoint,
    reason,
    require_shards,
    shard_checksums,
)


@final
class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all devices."""

    def __init__(self, world: int, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1, timeout=timeout)

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(self.broadcast(str(filepath)))
        name = self.broadcast(f"{SHARDS}-{checkpoint['global_step']:08d}-{secrets.token_hex(4)}")
        folder = path.parent / name
        tensors = {
            "state_dict": checkpoint.pop("state_dict"),
            "optimizer": checkpoint.pop("optimizer_states")[0],
        }
        if "average" in checkpoint["opdlab"]:
            average = checkpoint["opdlab"]["average"]
            tensors["average"] = as_numbered(average["mean"])
            checkpoint["opdlab"]["average"] = {**average, "mean": None}
        with failing_together():
            try:
                distributed.save(tensors, checkpoint_id=folder)
            except (OSError, RuntimeError, distributed.CheckpointException) as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise StorageError(
                    f"a checkpoint could not be written to {path.parent}: {reason(error)}. Free "
                    f"space there and continue with --resume (the checkpoint before it, if any, is whole)"
                ) from error
        if self.global_rank == 0:
            checkpoint[SHARDS] = {"folder": name, "files": shard_checksums(folder)}
            AtomicCheckpointIO().save_checkpoint(checkpoint, path)
            for other in path.parent.glob(f"{SHARDS}-*"):
                if other.name != name:
                    shutil.rmtree(other, ignore_errors=True)

    @override
    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        path = Path(self.broadcast(str(checkpoint_path)))
        with failing_together():
            checkpoint = read_checkpoint(path)
            if SHARDS in checkpoint and self.global_rank == 0:
                require_shards(path, checkpoint)
        module, optimizer = self.model, self.optimizers[0]
        assert module is not None
        if SHARDS in checkpoint:
            tensors = self._placed(checkpoint)
            distributed.load(tensors, checkpoint_id=path.parent / checkpoint[SHARDS]["folder"])
            options = StateDictOptions(strict=not _frozen(module))
        else:
            names = _names(module, optimizer)
            tensors = {
                "state_dict": checkpoint.pop("state_dict"),
                "optimizer": as_named(checkpoint.pop("optimizer_states")[0], names),
            }
            options = StateDictOptions(full_state_dict=True, strict=not _frozen(module))
        set_model_state_dict(module, tensors["state_dict"], options=options)
        set_optimizer_state_dict(module, optimizer, tensors["optimizer"], options=options)
        if "average" in tensors:
            checkpoint["opdlab"]["average"]["mean"] = list(tensors["average"].values())
        return checkpoint

    def _placed(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Where what the shards hold belongs on this device."""
        module, optimizer = self.model, self.optimizers[0]
        assert module is not None
        state = get_model_state_dict(module)
        placed: dict[str, Any] = {
            "state_dict": adapters.trained(module, state) if _frozen(module) else state,
            "optimizer": get_optimizer_state_dict(module, optimizer),
        }
        if "average" in checkpoint["opdlab"]:
            weights = [w for group in optimizer.param_groups for w in group["params"]]
            placed["average"] = as_numbered(
                [torch.empty_like(w, dtype=kept_in(w)) for w in weights]
            )
        return placed


def _frozen(module: torch.nn.Module) -> bool:
    """Whether some weights are not trained, which no checkpoint holds."""
    return not all(weight.requires_grad for weight in module.parameters())


def _names(module: torch.nn.Module, optimizer: Optimizer) -> list[str]:
    """Of the optimizer's weights, in its order."""
    known = {id(weight): name for name, weight in module.named_parameters()}
    return [known[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
