"""Cases that do what cases of `opdlab bench gpu` may do, for a process that loads little else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from opdlab.bench.gpu.figures import Card, Case, Figure

TRACES = "TEST_BENCH_GPU_TRACES"


def case(
    name: str,
    work: Callable[[], object] = int,
    seconds: int = 1,
    needs: str = "",
    part: str = "loss",
    holds: int = 0,
) -> Case:
    """One that notes in the file `TRACES` that it was begun, and by which process."""

    def measure(card: Card) -> list[Figure]:
        with Path(os.environ[TRACES]).open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        work()
        return [Figure("speed", 0.5, "share", 0.6), Figure("ceiling", card.product, "1/s")]

    return Case(part, name, seconds, measure, needs, holds)


def hang() -> None:
    """For longer than any test."""
    time.sleep(600)


def trouble(card: Card) -> Iterator[Case]:
    """What costs no other case its turn."""
    yield case("first")
    yield case("hangs", hang)
    yield case("dies", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    yield case("never-fits", seconds=10_000)
    yield case("good")
    yield case("too-large", holds=1 << 50)
    yield case("beside-another", needs="no_such_library")


def slow(card: Card) -> Iterator[Case]:
    """One that is measured, and one in which the suite is killed."""
    yield case("good")
    yield case("slow", hang)
