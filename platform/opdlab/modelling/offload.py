"""A frozen model that lies on the host, and on a device only while it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, final

import torch
from torch import nn
from transformers import PreTrainedModel

from opdlab.modelling.shards import Weights

Result = TypeVar("Result")


@final
class OffloadedWeights(Weights):
    """Weights are copied to the device for each phase that needs them, and their copies dropped after it.

    Nothing is copied back: nobody changes a teacher.
    """

    spread = False

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        """Take a model to the host for good.

        Args:
            device: where it is used.
        """
        self.model, self.device = model.to("cpu"), device  # pyright: ignore[reportArgumentType]
        self.users = 0
        if device.type == "cuda":
            # A copy from such memory takes a third of the time.
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.data = tensor.data.pin_memory()

    @contextmanager
    def whole(self) -> Iterator[None]:
        self.users += 1
        held = self._move() if self.users == 1 else []
        try:
            yield
        finally:
            self.users -= 1
            for place, own in held:
                place.update(own)

    together = sampling = head = whole

    def run(self, work: Callable[[], Result]) -> Result:
        with self.whole():
            return work()

    def exported(self) -> None:
        return None

    def _move(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Put copies in the place of all weights, tied ones once; the places, and what was there."""
        copies: dict[int, torch.Tensor] = {}

        def copied(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in copies:
                there = tensor.detach().to(self.device, non_blocking=True)
                frozen = isinstance(tensor, nn.Parameter)
                copies[id(tensor)] = nn.Parameter(there, requires_grad=False) if frozen else there
            return copies[id(tensor)]

        held: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for module in self.model.modules():
            for own in (module._parameters, module._buffers):
                place: dict[str, Any] = own  # pyright: ignore[reportAssignmentType]
                held.append((place, dict(place)))
                place.update({k: copied(v) for k, v in place.items() if v is not None})
        return held
