"""What accelerators have, from their makers' data sheets, and what share of it work was seen to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from opdlab.errors import ConfigError

# Of what torch sees: the rest goes to the context of the driver and its libraries, and to fragments.
_PLANNED, _CONTEXT = 0.94, 1 << 30
_UNITS = {"GB": 10**9, "GIB": 1 << 30, "MB": 10**6, "MIB": 1 << 20}


@dataclass(frozen=True)
class Card:
    """One accelerator.

    Attributes:
        name: as `--gpu` takes it.
        memory: bytes that torch sees.
        half: operations a second of dense products in 16 bits; 0 where they are not known.
        single: in float32.
        bandwidth: bytes a second of its memory.
        link: bytes a second that it sends to its neighbours.
        host: bytes a second from the host's memory.
        kind: torch's word for such devices.
    """

    name: str
    memory: int
    half: float = 0.0
    single: float = 0.0
    bandwidth: float = 0.0
    link: float = 0.0
    host: float = 0.0
    kind: str = "cuda"

    @property
    def room(self) -> int:
        """Bytes that a plan may use."""
        return self.memory if self.kind == "cpu" else int(self.memory * _PLANNED) - _CONTEXT

    def operations(self, dtype: torch.dtype) -> float:
        """A second, of products of these numbers."""
        return self.half if dtype.itemsize == 2 else self.single


def _card(
    name: str, gib: float, half: float, single: float, bandwidth: float, link: float, host: float
) -> Card:
    """From GiB, TFLOP/s, TB/s and GB/s."""
    rates = half * 1e12, single * 1e12, bandwidth * 1e12, link * 1e9, host * 1e9
    return Card(name, int(gib * (1 << 30)), *rates)


# Links are one direction's; from the host, what PCIe 4 and 5 give in practice.
CARDS = {
    one.name: one
    for one in (
        _card("h100", 79.1, 989, 67, 3.35, 450, 50),
        _card("h200", 139.8, 989, 67, 4.8, 450, 50),
        _card("a100-80", 79.2, 312, 19.5, 2.04, 300, 25),
        _card("a100-40", 39.4, 312, 19.5, 1.56, 300, 25),
        _card("4090", 23.5, 165, 82.6, 1.01, 25, 25),
        _card("l40s", 44.4, 362, 91.6, 0.864, 25, 25),
        _card("b200", 178.0, 2250, 75, 8.0, 900, 50),
        _card("mi300x", 191.5, 1307, 163, 5.3, 448, 50),
    )
}


def card_of(name: str | None, memory: str | None) -> Card:
    """The card that was named; `memory` in place of its own, or alone for a card that is not in the list.

    Raises:
        ConfigError: an unknown name without `memory`, or no size.
    """
    if name is None:
        return Card("card", size(memory or ""))
    known = CARDS.get(name.lower())
    if known is None and memory is None:
        raise ConfigError(
            f"--gpu: {name!r} is not among {', '.join(CARDS)}; give its memory, such as --memory 24GB"
        )
    if memory is None:
        assert known is not None
        return known
    return Card(**{**vars(known or Card(name, 0)), "memory": size(memory)})


def known_card(device: str, memory: int) -> Card | None:
    """The card of the list that torch calls so, such as `NVIDIA A100-SXM4-80GB`; None for another."""
    alike = [one for one in CARDS.values() if one.name.partition("-")[0] in device.lower()]
    return min(alike, key=lambda one: abs(one.memory - memory), default=None)


def size(text: str) -> int:
    """Bytes from `24GB` or `80GiB`.

    Raises:
        ConfigError: it is not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if found is None or found[2].upper() not in _UNITS or not float(found[1]):
        raise ConfigError(f"--memory: {text!r} is not a size; write for example 24GB or 80GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])
