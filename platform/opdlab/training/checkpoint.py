"""Checkpoints that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from opdlab.errors import ResumeError, StorageError

LAST = "last.ckpt"


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
                f"a checkpoint could not be written to {target.parent}: {_reason(error)}. Free space "
                f"there and go on with --resume ({kept})"
            ) from error


def _reason(error: BaseException) -> str:
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return str(error).splitlines()[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        ResumeError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise ResumeError(
            f"the checkpoint {path} cannot be read ({error}); remove it to train from the beginning"
        ) from error
