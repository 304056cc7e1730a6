"""Whether an experiment can be trained by the Trainer that it is given."""

from __future__ import annotations

from typing import Any, get_args

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from opdlab.configuration import Experiment, Training, require_fitting
from opdlab.errors import ConfigError, DataError
from opdlab.training.sharded import ShardedStrategy

PRECISIONS = get_args(Training.model_fields["precision"].annotation)


def require_trainer(config: Experiment, trainer: L.Trainer) -> None:
    """Refuse a Trainer that would do something else than the experiment says.

    Number format and devices are the Trainer's own, and the experiment's rules hold for these.

    Raises:
        ConfigError: more steps than the experiment has, devices that do not share its prompts evenly, or a
            strategy or number format that is not trained in.
    """
    training = config.training
    if trainer.max_steps > training.steps:
        raise ConfigError(
            f"Trainer(max_steps={trainer.max_steps}) goes beyond training.steps ({training.steps}), over "
            "which the learning rate is planned; set training.steps, or take fewer"
        )
    strategy: Any = trainer.strategy
    sharded = training.strategy == "fsdp"
    if not isinstance(strategy, ShardedStrategy if sharded else DDPStrategy | SingleDeviceStrategy):
        known = "opdlab's own of training.strategy: fsdp" if sharded else "auto and ddp"
        raise ConfigError(
            f"Trainer(strategy=...) is {type(strategy).__name__}; this experiment is trained by {known}"
        )
    if trainer.precision not in PRECISIONS:
        raise ConfigError(
            f"Trainer(precision={trainer.precision!r}) is not one of {', '.join(PRECISIONS)}"
        )
    given = {
        "precision": trainer.precision,
        "devices": trainer.num_devices,
        "nodes": trainer.num_nodes,
        "strategy": training.strategy if sharded else "auto",
    }
    settings = training.model_copy(update=given)
    require_fitting(config.model_copy(update={"training": settings}))


def require_no_data(batch: object) -> None:
    """Refuse batches of somebody's own: the module draws its prompts itself.

    Raises:
        DataError: it is not a number of a step.
    """
    if not isinstance(batch, int):
        raise DataError(
            f"fit(module, data): a step draws its prompts itself and would not read a "
            f"{type(batch).__name__}; give the data as distillation(prompts=...), and none to fit"
        )
