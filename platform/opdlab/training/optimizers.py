"""The optimizer that a training asks for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

import torch
from torch import nn

from opdlab.configuration import Training
from opdlab.errors import ModelError


def require_optimizer(settings: Training) -> None:
    """Refuse one whose library is not here.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    if settings.optimizer == "adamw-8bit" and find_spec("bitsandbytes") is None:
        raise ModelError(
            "training.optimizer: adamw-8bit needs bitsandbytes (pip install 'opdlab[qlora]'), which is not "
            "installed here; install it, or set optimizer: adamw"
        )


def make_optimizer(weights: Iterable[nn.Parameter], settings: Training) -> torch.optim.Optimizer:
    """AdamW over some weights.

    Raises: as `require_optimizer`.
    """
    require_optimizer(settings)
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    if settings.optimizer == "adamw-8bit":
        from bitsandbytes.optim import AdamW8bit

        kind = AdamW8bit
    return kind(
        [weight for weight in weights if weight.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
