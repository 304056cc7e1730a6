"""How long a job itself let time pass, as far as the process that watches it can tell.

Not every second between two looks is the job's. It may have been ready to run on a machine that gave it no
processor, the other sandbox of its pair may have worked meanwhile, and the whole machine may have stood
still: then the watcher did not run either.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import final

from .clock import worked

STALL_S = 0.5
"""A watcher that looks every few milliseconds and is away for longer was kept from running."""


@dataclass
class Usage:
    """Of all processes of a job.

    Attributes:
        cpu_s: seconds of processor time.
        memory: bytes.
        processes: how many there are.
        ready: one of their threads runs, or would if it got a processor or a page of memory.
    """

    cpu_s: float = 0.0
    memory: int = 0
    processes: int = 0
    ready: bool = False


@final
class Patience:
    """Seconds that a job used or waited by its own doing.

    Args:
        clock: file descriptor of the clock of a pair of sandboxes; None where there is no other one.
        own_clock: the clock tells of this job, and not of the one that it waits for.
    """

    def __init__(self, clock: int | None, own_clock: bool) -> None:
        self.clock, self.own_clock = clock, own_clock
        self.last = self.began = time.monotonic()
        self.cpu_s = self.worked = 0.0
        self.own = self.offered = self.stalled = 0.0

    def look(self, usage: Usage) -> None:
        """Count the time since the last look."""
        passed = self._given(self._passed())
        used, self.cpu_s = max(0.0, usage.cpu_s - self.cpu_s), usage.cpu_s
        self.offered = max(0.0, self.offered + passed)
        # Several processes that keep each other from running do so themselves.
        self.own = max(0.0, self.own + (used if usage.ready and usage.processes == 1 else passed))

    def _given(self, passed: float) -> float:
        """What of the time was this job's turn; below zero where less was than had been counted."""
        if self.clock is None:
            return passed
        before, self.worked = self.worked, worked(self.clock)
        # A clock that begins anew tells of nothing that has passed.
        turn = max(0.0, self.worked - before)
        return min(passed, turn) if self.own_clock else passed - turn

    def _passed(self) -> float:
        now = time.monotonic()
        passed, self.last = now - self.last, now
        if passed > STALL_S:
            self.stalled += passed - STALL_S
        return min(passed, STALL_S)
