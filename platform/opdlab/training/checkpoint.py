"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from typing_extensions import override

from opdlab.errors import NonFiniteError, ResumeError, StorageError
from opdlab.training.reached import local

LAST = "last.ckpt"
SHARDS = "shards"
"""Key, and beginning of a folder's name, of tensors that lie beside a checkpoint (`training.sharded`)."""
_FOLDER = 0x10
"""The bit of a zip member's attributes by which DOS, and torch's reader, know a folder."""

# What zipfile, pickle and torch make of changed bytes.
_DAMAGES = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


@final
class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint, to the disk, and only then takes its place."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        target = Path(path)
        partial = target.with_suffix(".partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
            partial.unlink(missing_ok=True)
            kept = f"the checkpoint before it, {target}, is whole" if target.exists() else "none"
            raise StorageError(
                f"a checkpoint could not be written to {target.parent}: {reason(error)}. Free "
                f"space there and continue with --resume ({kept})"
            ) from error

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A whole checkpoint, whatever number of devices wrote it."""
        checkpoint = read_checkpoint(Path(path))
        if SHARDS in checkpoint:
            require_shards(Path(path), checkpoint)
            return _assembled(Path(path), checkpoint)
        return checkpoint


def _assembled(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """With the tensors that several processes wrote, as one would have written it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as room:
        whole = Path(room) / "whole"
        dcp_to_torch_save(path.parent / checkpoint[SHARDS]["folder"], whole)
        tensors = torch.load(whole, map_location="cpu", weights_only=True)
    if "average" in tensors:
        checkpoint["opdlab"]["average"]["mean"] = list(tensors["average"].values())
    del checkpoint[SHARDS]
    optimizer = as_counted(tensors["optimizer"])
    return {**checkpoint, "state_dict": tensors["state_dict"], "optimizer_states": [optimizer]}


def as_counted(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer whose weights are known by names, by their places."""
    (group,) = optimizer["param_groups"]
    state = {place: optimizer["state"][name] for place, name in enumerate(group["params"])}
    return {"state": state, "param_groups": [{**group, "params": list(range(len(state)))}]}


def as_named(optimizer: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The state of an optimizer whose weights are known by their places, by names."""
    (group,) = optimizer["param_groups"]
    state = {names[place]: each for place, each in optimizer["state"].items()}
    return {"state": state, "param_groups": [{**group, "params": list(names)}]}


def as_numbered(tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A list as a distributed checkpoint takes it, in order."""
    return {f"{number:06d}": tensor for number, tensor in enumerate(tensors)}


def shard_checksums(folder: Path) -> dict[str, int]:
    """Of each file in a folder of shards."""
    return {file.name: _checksum(file) for file in sorted(folder.iterdir())}


def require_shards(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not those that it was written with.

    Raises:
        ResumeError: naming the file that is missing or changed.
    """
    folder = path.parent / checkpoint[SHARDS]["folder"]
    for name, known in checkpoint[SHARDS]["files"].items():
        file = folder / name
        if not file.is_file() or _checksum(file) != known:
            raise ResumeError(
                f"{file}, which belongs to the checkpoint {path}, is "
                f"{'damaged' if file.is_file() else 'missing'}. Put back a copy of the folder, or remove "
                "the checkpoint to train from the beginning"
            )


def _checksum(file: Path) -> int:
    found = 0
    with file.open("rb") as content:
        while piece := content.read(1 << 22):
            found = zlib.crc32(piece, found)
    return found


def reason(error: BaseException) -> str:
    """The first line of what went wrong, as the system said it where it did."""
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return str(error).splitlines()[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        ResumeError: the file is missing or damaged, be it by a single bit.
    """
    try:
        if not path.is_file():
            raise OSError("it is not a file")
        # torch writes checksums and does not look at them.
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} in it does not match")
            # Of what is marked as a folder torch reads nothing, and takes whatever its memory held.
            for member in archive.infolist():
                if member.external_attr & _FOLDER:
                    raise zipfile.BadZipFile(f"{member.filename} in it is marked as a folder")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGES as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ResumeError(
            f"the checkpoint {path} is damaged ({reason}): bytes changed or got lost since it was written. "
            "Put back a copy of it, or remove it to train from the beginning"
        ) from error
    if not isinstance(found, dict):
        raise ResumeError(f"{path} is not a checkpoint; remove it to train from the beginning")
    return found


def require_own(checkpoint: Mapping[str, Any], execution: str, path: Path) -> None:
    """Refuse a checkpoint that says that it is another training's.

    Args:
        execution: id of the training that is to go on; empty where it has none.

    Raises:
        ResumeError: it is another's; the message names it.
    """
    whose = checkpoint.get("opdlab", {}).get("execution", "")
    if execution and whose not in ("", execution):
        raise ResumeError(
            f"{path} is of the training {whose}, not of this one ({execution}): put back its own, or "
            "remove it to train from the beginning"
        )


def non_finite(state: Mapping[str, Any]) -> dict[str, int]:
    """How many entries of each weight are NaN or infinite, where there are any."""
    counts = {
        name: int((~local(value).isfinite()).sum())
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {name: count for name, count in counts.items() if count}


def refuse_non_finite(checkpoint: Mapping[str, Any], allowed: Mapping[str, int]) -> None:
    """Keep NaN out of checkpoints: from one that holds it no run could ever go on.

    Args:
        allowed: what the model had from the beginning, such as entries it rules out.

    Raises:
        NonFiniteError: weights or the optimizer's averages are NaN or infinite.
    """
    found = non_finite(checkpoint.get("state_dict", {}))
    broken = [name for name, count in found.items() if count > allowed.get(name, 0)]
    for optimizer in checkpoint.get("optimizer_states", []):
        for number, state in optimizer.get("state", {}).items():
            broken += [f"{name} of weight {number} in the optimizer" for name in non_finite(state)]
    if broken:
        raise NonFiniteError(
            f"{len(broken)} tensors are not finite after step {checkpoint.get('global_step')}, first "
            f"{broken[0]}. No checkpoint is written; the one before it, if any, is kept. Start anew with a "
            "lower training.learning_rate or with a gradient_clip"
        )
