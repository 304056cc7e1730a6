"""What a case of the suite measures, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from opdlab.bench.race import timed
from opdlab.bench.shapes import Shape
from opdlab.shapes import Tensor


@dataclass(frozen=True)
class Figure:
    """One number of a case.

    Attributes:
        unit: `share` of a ceiling, `x` for a ratio, or what it is counted in.
        goal: None where there is none.
        at_most: whether the goal is a greatest value.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def text(self) -> str:
        """The number as a table shows it."""
        if self.unit == "share":
            return f"{self.value:.0%}"
        digits = ",.0f" if abs(self.value) >= 1000 else ".3g"
        return f"{self.value:{digits}} {self.unit}"


@dataclass
class Card:
    """What is measured on.

    Attributes:
        product: operations a second of a large matrix product.
        bandwidth: bytes read and written a second by a large copy.
    """

    device: torch.device
    dtype: torch.dtype
    product: float = float("nan")
    bandwidth: float = float("nan")
    _made: dict[tuple[Shape, int], Any] = field(default_factory=dict)

    def model(self, shape: Shape, positions: int) -> Any:
        """A model of random weights for so many tokens at least; those of other shapes are dropped."""
        for (other, most), model in self._made.items():
            if other == shape and most >= positions:
                return model
        self.drop()
        self._made[shape, positions] = shape.build(self.device, self.dtype, positions)
        return self._made[shape, positions]

    def drop(self) -> None:
        """Give the models' memory back."""
        self._made.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def random(self, *size: int) -> Tensor:
        """Random numbers: zeros would be multiplied faster."""
        return torch.randn(size, device=self.device, dtype=torch.float32).to(self.dtype)

    def seconds(self, run: Callable[[], Any], rounds: int = 5) -> float:
        """Median time of some work, after it was done once; by the device's own clock where it has one."""
        run()
        return median(self.once(run) for _ in range(rounds))

    def once(self, run: Callable[[], Any]) -> float:
        """Seconds of some work."""
        if self.device.type != "cuda":
            return timed(run, self.device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        part: `scoring`, `rollout`, `loss`, `step` or `memory`.
        seconds: that it may take on a large card: none is begun that would end too late.
    """

    part: str
    title: str
    seconds: int
    run: Callable[[Card], Sequence[Figure]]

    @property
    def key(self) -> str:
        return f"{self.part}: {self.title}"
