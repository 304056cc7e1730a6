"""One side of the line between a program and its tests, as what reads and writes messages sees it."""

from __future__ import annotations

from typing import Any, Protocol

from .mirror import Carrier


class Party(Carrier, Protocol):
    """A peer: see `Peer`, which says what each of these is."""

    guarded: bool
    objects: dict[int, Any]
    numbers: dict[int, int]
    containers: dict[int, type]
    seen: dict[int, list]
    stands: dict[type, Any]
    fresh: set[int]

    def mine(self, number: int) -> bool: ...

    def add(self, value: Any, number: int | None = None, container: type | None = None) -> int: ...

    def carry(self, op: str, *values: Any) -> Any: ...

    def may_leave(self, value: Any) -> None: ...
