"""Tensors between the host and a device: read in one copy, sent without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from opdlab.shapes import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values on the host, without gradient; it waits for a device once, however many they are."""
    tensors = [tensor.detach() for tensor in tensors]
    found = dict(enumerate(tensors))
    for device in {tensor.device for tensor in tensors if tensor.device.type != "cpu"}:
        # The widest numbers first, so that each begins at a multiple of its own width.
        there = [i for i, tensor in enumerate(tensors) if tensor.device == device]
        there.sort(key=lambda i: -tensors[i].dtype.itemsize)
        parts = [tensors[i].contiguous().reshape(-1).view(torch.uint8) for i in there]
        read = torch.cat(parts).cpu().split([len(part) for part in parts])
        for i, part in zip(there, read, strict=True):
            found[i] = part.view(tensors[i].dtype).reshape(tensors[i].shape)
    return [found[i] for i in range(len(tensors))]


def wait(device: torch.device) -> None:
    """Until a device has done what this thread told it.

    To wait for all that it was told would break a recording that another thread makes of it.
    """
    if device.type not in ("cpu", "mps"):
        torch.get_device_module(device).current_stream(device).synchronize()


def sent(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Numbers, or lists of them, as a tensor on a device."""
    return to_device(torch.tensor(numbers), device)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The same values on a device; from the host they are sent while it goes on."""
    device = torch.device(device)
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "cpu")
