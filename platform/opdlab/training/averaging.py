"""An average of the student's weights over the steps: steadier than the weights of the last one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from opdlab.errors import ResumeError
from opdlab.shapes import Tensor


@final
class WeightAverage:
    """Exponential moving average of weights, in float32 for weights of lower precision.

    Until 1 / (1 - decay) steps have gone it is their plain mean, so that the first weights do not stay in
    it for long. It costs four bytes a weight. Training and its rollouts never see it.

    Source: Polyak averaging; Izmailov et al. (arXiv:1803.05407) for its effect on the last steps' noise.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights = list(weights)
        self.decay = decay
        self.steps = 0
        self.mean: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        self.steps += 1
        if not self.mean:
            self.mean = [weight.detach().to(kept_in(weight), copy=True) for weight in self.weights]
            return
        # A checkpoint's are on the CPU.
        self.mean = [m.to(w.device) for m, w in zip(self.mean, self.weights, strict=True)]
        share = max(1 - self.decay, 1 / self.steps)
        for mean, weight in zip(self.mean, self.weights, strict=True):
            new = weight.detach().to(mean.dtype)
            # A bias of minus infinity stays: between two of them there is no number.
            mean.copy_(torch.where(mean == new, mean, mean.lerp(new, share)))

    @torch.no_grad()
    def apply(self) -> None:
        """Give the student the average for good; no step may follow. Needs at least one `update`."""
        for weight, mean in zip(self.weights, self.mean, strict=True):
            weight.copy_(mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the student the average for a while."""
        own = [weight.detach().clone() for weight in self.weights]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(self.weights, own, strict=True):
                    weight.copy_(before)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"steps": self.steps, "mean": self.mean}

    def load(self, state: dict[str, Any] | None) -> None:
        """Resume from a checkpoint.

        Raises:
            ResumeError: the checkpoint has no average, or one of other weights.
        """
        shapes = [weight.shape for weight in self.weights]
        if state is None or (state["mean"] and [m.shape for m in state["mean"]] != shapes):
            raise ResumeError(
                "the checkpoint holds no average of these weights (training.average); start a new run"
            )
        self.steps = state["steps"]
        self.mean = [_like(m, w) for m, w in zip(state["mean"], self.weights)]  # noqa: B905 - or none


def kept_in(weight: Tensor) -> torch.dtype:
    """The format in which the average of a weight is kept."""
    return torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype


def _like(mean: Tensor, weight: Tensor) -> Tensor:
    """An average as the weight is held: whole, or in parts."""
    if isinstance(weight, DTensor) and not isinstance(mean, DTensor):
        return distribute_tensor(mean.to(weight.device), weight.device_mesh, weight.placements)
    return mean
