"""`opdlab bench start`: how long commands take that people wait for at every save."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from rich import box
from rich.table import Table

from opdlab.bench.race import write
from opdlab.configuration import explain
from opdlab.console import DIM, END, console, progress_bar
from opdlab.errors import ConfigError

COMMANDS = (
    ("--help",),
    ("validate", "quickstart"),
    ("experiments",),
    ("plugins",),
    ("schema",),
    ("plan", "quickstart"),
)


@dataclass(frozen=True)
class Started:
    """A command, each time of a new process.

    Attributes:
        seconds: on the clock.
        processor_seconds: of all its threads, which other programs hardly change.
    """

    command: str
    seconds: list[float]
    processor_seconds: list[float]


def bench_start(repeats: int, json_file: str | None) -> None:
    """Print the best times, of the clock and of the processor.

    Raises:
        ConfigError: `opdlab` does not stand beside this Python, or a command fails.
    """
    program = Path(sys.executable).with_name("opdlab")
    if not program.is_file():
        raise ConfigError(f"bench start: there is no {program}; install opdlab in this environment")
    with progress_bar() as progress:
        task = progress.add_task("commands", total=repeats * len(COMMANDS))
        found = []
        for words in COMMANDS:
            timed = []
            for _ in range(repeats):
                timed.append(_timed([str(program), *words]))
                progress.advance(task)
            wall, processor = zip(*timed, strict=True)
            found.append(Started(" ".join(words), [*wall], [*processor]))
    console.print(table(found))
    console.print(
        f"{DIM}Seconds from a shell, the best of {repeats}. {os.cpu_count()} processors, "
        f"{os.getloadavg()[0]:.1f} processes at work on average: a quiet machine has less than 1.{END}"
    )
    write(json_file, {"repeats": repeats, "commands": [asdict(one) for one in found]})


def table(found: Sequence[Started]) -> Table:
    """One row for each command."""
    result = Table(box=box.SIMPLE_HEAD)
    result.add_column("command")
    for name in ("seconds", "of the processor"):
        result.add_column(name, justify="right")
    for one in found:
        times = (min(one.seconds), min(one.processor_seconds))
        result.add_row(f"opdlab {one.command}", *(f"{time:.2f}" for time in times))
    return result


def _timed(words: Sequence[str]) -> tuple[float, float]:
    before, started = _processor(), perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = perf_counter() - started
    if done.returncode:
        raise ConfigError(f"bench start: `{' '.join(words)}` failed: {explain.capped(done.stderr)}")
    return seconds, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
