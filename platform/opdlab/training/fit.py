"""Lightning's loop over the steps of a run."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch

from opdlab.configuration import Training
from opdlab.console import Stopped, console
from opdlab.errors import ConfigError
from opdlab.files import is_there, read_metrics
from opdlab.training import ranks
from opdlab.training.checkpoint import AtomicCheckpointIO, read_checkpoint, require_own
from opdlab.training.hacking import Alarms
from opdlab.training.module import Distillation
from opdlab.training.pace import Pace, checkpoint_path


def require_accelerator(settings: Training) -> None:
    """Refuse `accelerator: gpu` where there are too few, and a precision that the device does not have.

    Raises:
        ConfigError: fewer are here than `devices` asks for; or Lightning would take another precision.
    """
    found = torch.accelerator.device_count()
    on_cpu = settings.accelerator == "cpu" or not torch.accelerator.is_available()
    if settings.precision == "16-mixed" and on_cpu:
        raise ConfigError(
            "training.precision: 16-mixed needs a GPU, and this training would run on the CPU; set "
            "bf16-mixed"
        )
    if settings.accelerator == "gpu" and found < settings.devices:
        raise ConfigError(
            f"training.accelerator: gpu asks for {settings.devices}, and torch finds {found} here; set "
            "training.accelerator: cpu, or training.devices to what is here"
        )


def trainer_of(settings: Training, pace: Pace, last: int | None = None) -> L.Trainer:
    """Lightning's trainer, which leaves records and checkpoints to `pace`; it ends after step `last`."""
    return L.Trainer(
        max_steps=settings.steps if last is None else last,
        precision=settings.precision,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=ranks.strategy(settings),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[pace],
        plugins=[AtomicCheckpointIO()],
    )


def fit(module: Distillation, settings: Training, pace: Pace) -> None:
    """Train to the last step, from the newest checkpoint where there is one; on every rank.

    Afterwards the student has the weights that are evaluated and exported (`training.average`).
    """
    path, last = checkpoint_path(pace.folder), settings.steps
    module.own_trainer = False  # `pace` takes the figures
    if is_there(path):
        found = read_checkpoint(path)
        require_own(found, module.execution, path)
        last = _last_step(settings, pace.folder, int(found["global_step"]))
        if not ranks.rank(settings):
            console.print(f"continuing from {path}")
    trainer = trainer_of(settings, pace, last)
    begun = path if is_there(path) else None
    with ranks.naming_the_lost(settings.world > 1) as pace.over:
        trainer.fit(module, ckpt_path=begun)
        # A signal in the moment before ours replaced Lightning's handlers makes `fit` return early.
        if signum := ranks.agreed(trainer, pace.stop.signum or 0):
            raise Stopped(signum)
        trainer.save_checkpoint(path)
        module.settle()


def _last_step(settings: Training, folder: Path, reached: int) -> int:
    """The step that training ends at: the one reached, where an alarm ended it there."""
    if not settings.hacking.stop:
        return settings.steps
    alarms = Alarms(settings.hacking, settings.steps)
    alarms.replay(read_metrics(folder), reached)
    return reached if alarms.raised else settings.steps
