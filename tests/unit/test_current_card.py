"""What runs on a card alone is told to the card of its tensors, whichever is the current one.

Triton launches on the current card, and a recording is made of its streams. Neither is here: a stand-in for
both tells which card was the current one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any, final
from unittest.mock import MagicMock

import pytest
import torch

from opdlab.sampling import static_step


@final
class Current:
    """The tensor whose card is the current one, and those that were it when something was launched."""

    def __init__(self) -> None:
        self.tensor: object = None
        self.launched: list[object] = []

    @contextmanager
    def device_of(self, tensor: object) -> Iterator[None]:
        before, self.tensor = self.tensor, tensor
        try:
            yield
        finally:
            self.tensor = before

    def launch(self, *_arguments: object, **_options: object) -> None:
        self.launched.append(self.tensor)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Current:
    found = Current()
    monkeypatch.setattr(torch.cuda, "device_of", found.device_of)
    return found


@pytest.fixture
def compiled(current: Current, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The modules of kernels, with a compiler whose kernels do nothing."""
    kernel = MagicMock()
    kernel.__getitem__.return_value = current.launch
    triton: Any = ModuleType("triton")
    triton.jit = lambda function: kernel
    triton.next_power_of_2 = triton.cdiv = lambda *sizes: 1
    triton.language = MagicMock()
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.language", triton.language)
    names = ("opdlab.modelling.row_kernel", "opdlab.sampling.step_kernels")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    row_kernel, step_kernels = (importlib.import_module(name) for name in names)
    yield row_kernel, step_kernels
    for name in names:
        del sys.modules[name]


def test_a_kernel_is_launched_on_the_card_of_its_tensors(
    compiled: tuple[Any, Any], current: Current
) -> None:
    rows, step = compiled
    logits, gate, output = torch.zeros(2, 5), torch.zeros(2, 4), torch.zeros(2, 1, 2, 1, 4)
    y, cache = torch.zeros(2, 4, 4), torch.zeros(2, 1, 6, 4)
    rows.row_statistics(logits, None)
    step.gated(gate, gate)
    step.merged(output, torch.zeros(2, 1, 2, 1), torch.ones(2, 1))
    step.turn_and_write(y, (gate, gate), None, cache, cache, torch.zeros(1))
    for told, tensor in zip(current.launched, (logits, gate, output, y), strict=True):
        assert told is tensor


def test_a_step_is_recorded_and_replayed_on_the_card_of_its_tensors(
    current: Current, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = MagicMock()
    graph.capture_begin = graph.capture_end = graph.replay = current.launch
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "Stream", MagicMock)
    monkeypatch.setattr(torch.cuda, "current_stream", MagicMock)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    like = torch.zeros(2)

    def step() -> torch.Tensor:
        current.launch()
        return like

    replay = static_step._recorded(step, like)
    assert replay() is like
    assert len(current.launched) == 4
    assert all(one is like for one in current.launched)
