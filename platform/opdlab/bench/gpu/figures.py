"""What a case of the suite measures, and how it is kept."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psutil
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
        within: how far the value may be from the goal on either side; None where one side is free.
    """

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    within: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        if self.within is not None:
            return abs(self.value - self.goal) <= self.within
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def text(self) -> str:
        """The number as a table shows it."""
        if self.unit == "share":
            return f"{self.value:.0%}"
        digits = ",.0f" if abs(self.value) >= 1000 else ".3g"
        return f"{self.value:{digits}} {self.unit}"

    def goal_text(self) -> str:
        """The goal as a table shows it; empty without one."""
        if self.goal is None:
            return ""
        goal = Figure("", self.goal, self.unit).text()
        if self.within is not None:
            return f"{goal} \N{PLUS-MINUS SIGN} {self.within:.0%}"
        return f"{'<=' if self.at_most else '>='} {goal}"


@dataclass
class Card:
    """What is measured on.

    Attributes:
        product: operations a second of a large matrix product.
        bandwidth: bytes read and written a second by a large copy.
        host: bytes a second from the host's pinned memory.
    """

    device: torch.device
    dtype: torch.dtype
    product: float = float("nan")
    bandwidth: float = float("nan")
    host: float = float("nan")
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
        # Trainers and their modules hold each other.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def total(self) -> int:
        """Bytes of the card; of the host where there is none."""
        if self.device.type != "cuda":
            return psutil.virtual_memory().total
        return torch.cuda.get_device_properties(self.device).total_memory

    @property
    def serial(self) -> str:
        """By which the card is known whatever number a process calls it by."""
        if self.device.type != "cuda":
            return self.device.type
        return str(torch.cuda.get_device_properties(self.device).uuid)

    @property
    def accelerator(self) -> str:
        """What an experiment calls it."""
        return {"cuda": "gpu", "cpu": "cpu"}.get(self.device.type, "auto")

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


PARTS = ("scoring", "rollout", "loss", "step", "memory")


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        part: one of `PARTS`.
        seconds: that it may take on a large card: none is begun that would end too late, and one that takes
            several times as long is ended.
        needs: a library that may be missing.
        holds: numbers in the format of products that must be on the card at once: weights, keys, values.
    """

    part: str
    title: str
    seconds: int
    run: Callable[[Card], Sequence[Figure]]
    needs: str = ""
    holds: int = 0

    def held(self, card: Card) -> str:
        """What it must hold beside what the card has."""
        need, there = self.holds * card.dtype.itemsize, card.total
        return (
            f"weights, keys and values take {need / 2**30:,.4g} GiB, and the card has "
            f"{there / 2**30:,.4g} GiB"
        )

    def fits(self, card: Card) -> bool:
        """Whether the card holds that; computing takes room beside it."""
        return self.holds * card.dtype.itemsize <= card.total

    @property
    def key(self) -> str:
        return f"{self.part}: {self.title}"
