"""What is sent to the device is sent while both go on: batches, and a teacher that lies on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from gpu import simulated
from gpu.simulated import counted
from small_models import small_model

from opdlab.modelling.offload import OffloadedWeights
from opdlab.transfers import sent, to_host


@contextmanager
def waiting_for_nothing(device: torch.device) -> Iterator[None]:
    """The simulated device counts; a card is busy with products, and has to be so afterwards."""
    if device.type == simulated.NAME:
        with counted() as counts:
            yield
        assert counts.waited == 0, counts.lines()
        return
    factor, done = torch.randn(8192, 8192, device=device), torch.cuda.Event()
    torch.cuda.synchronize(device)
    for _ in range(200):
        torch.mm(factor, factor)
    done.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not done.query(), "the host waited until the products were done"


def test_numbers_are_sent_while_the_device_works(device: torch.device) -> None:
    with waiting_for_nothing(device):
        there = sent(range(10_000), device)
    assert to_host([there])[0].tolist() == list(range(10_000))


@pytest.mark.parametrize("family", ["llama", "bamba"])
def test_a_model_on_the_host_is_sent_while_the_device_works(
    device: torch.device, family: str
) -> None:
    model = small_model(family)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    weights = OffloadedWeights(model, device)
    with waiting_for_nothing(device):
        held = weights.whole()
        held.__enter__()
    there = to_host(list(model.state_dict().values()))
    held.__exit__(None, None, None)
    assert all(torch.equal(one, other) for one, other in zip(there, before, strict=True))
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
