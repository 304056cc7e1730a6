"""Side by side: ways to one result, timed in turn in one process, told as ratios of medians."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import torch
from rich import box
from rich.table import Table

from opdlab import __version__
from opdlab.console import console, progress_bar
from opdlab.errors import writing_to
from opdlab.files import FIGURES, require_own_figures, write_whole

# Products timed for the ceiling: a few hundred milliseconds on two cores, and large enough for a GPU.
_CEILING_SIZE = {"cpu": 1536, "cuda": 8192}
_CEILING_ROUNDS = 7
PROCESSOR = "processor"


@dataclass(frozen=True)
class Side:
    """One way.

    Attributes:
        run: does it once.
        part: share of the whole work that `run` does; its time is divided by it.
        rounds: of how many rounds it takes part in, at most; slow ways in few.
    """

    name: str
    run: Callable[[], Any]
    part: float = 1.0
    rounds: int | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, for the whole work."""

    seconds: tuple[float, ...]
    part: float = 1.0

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles; the extremes of fewer than four rounds."""
        if len(self.seconds) < 4:
            return min(self.seconds), max(self.seconds)
        first, _, third = quantiles(self.seconds, n=4)
        return first, third


def race(
    sides: Sequence[Side], rounds: int, device: torch.device | str = "cpu"
) -> dict[str, Timing]:
    """Run every side once unmeasured, then in turn, `rounds` times."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    with progress_bar() as progress:
        task = progress.add_task("warm-up", total=rounds + 1)
        for number in range(rounds + 1):
            for side in sides:
                if number > (rounds if side.rounds is None else side.rounds):
                    continue
                progress.update(task, description=side.name if number else f"warm-up {side.name}")
                taken = timed(side.run, device) / side.part
                if number:
                    seconds[side.name].append(taken)
            progress.advance(task)
    return {side.name: Timing(tuple(seconds[side.name]), side.part) for side in sides}


def timed(run: Callable[[], Any], device: torch.device | str) -> float:
    """Seconds until the device has done it, by the clock of `clock_name`."""
    wait(device)
    now = process_time if clock_name(device) == PROCESSOR else perf_counter
    started = now()
    run()
    wait(device)
    return now() - started


def clock_name(device: torch.device | str) -> str:
    """One CPU thread is timed by the seconds it gets, which others on a busy machine do not stretch."""
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return PROCESSOR if alone else "wall"


def wait(device: torch.device | str) -> None:
    """Until the device has done what it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What the figures were measured on."""
    kind = torch.device(device).type
    return {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "clock": clock_name(device),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "opdlab": __version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def ceiling(device: torch.device | str, dtype: torch.dtype) -> float:
    """Operations a second of the best of a few large matrix products: what this machine can do now."""
    size = _CEILING_SIZE.get(torch.device(device).type, _CEILING_SIZE["cpu"])
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    taken = [timed(lambda: left @ right, device) for _ in range(_CEILING_ROUNDS)]
    return 2 * size**3 / min(taken)


def show(
    title: str,
    unit: str,
    timings: Mapping[str, Timing],
    notes: Mapping[str, str] | None = None,
) -> None:
    """A table of ratios of medians to the side named `unit`, with the number of rounds."""
    one = timings[unit].median
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("way", "ratio", "quartiles", "n", ""):
        table.add_column(name, no_wrap=name != "")
    for name, timing in timings.items():
        low, high = timing.spread
        sampled = "" if timing.part == 1 else f"{timing.part:.1%} timed, "
        table.add_row(
            name,
            f"{timing.median / one:.2f}",
            f"{low / one:.2f} - {high / one:.2f}",
            str(len(timing.seconds)),
            sampled + (notes or {}).get(name, ""),
        )
    console.print(table)


def show_machine(found: Mapping[str, Any]) -> None:
    """One line on what the figures below were measured on."""
    console.print(
        f"{found['device']}, {found['threads']} threads of {found['cores']} cores, load {found['load']}, "
        f"torch {found['torch']}, {found['clock']} time",
        style="dim",
    )


def write(path: str | None, found: Mapping[str, Any]) -> None:
    """All figures as JSON, seconds included.

    Raises:
        DataError: another file stands there.
        StorageError: it cannot be written.
    """
    if path is None:
        return
    target = Path(path)
    require_own_figures(target)
    with writing_to(target, "--json"):
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({FIGURES: __version__, **found}, indent=1, default=_plain)
        write_whole(target, text + "\n")
    console.print(f"written: {target}", soft_wrap=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Timing):
        return {"median": value.median, "seconds": list(value.seconds), "part": value.part}
    raise TypeError(f"no JSON for {type(value).__name__}")
