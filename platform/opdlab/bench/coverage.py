"""`opdlab bench statistics`: how often intervals hold the truth, over a grid of worlds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table

from opdlab import plugins
from opdlab.bench.race import write
from opdlab.console import DIM, END, GREEN, RED, console

WANTED = 0.93


def bench_statistics(
    studies: int, seed: int, problems: Sequence[int], samples: Sequence[int], json_file: str | None
) -> None:
    """Print the grid, and write every world of it."""
    grid = plugins.load(plugins.STATISTICS, "coverage")
    found = sorted(grid(studies, seed, problems, samples), key=lambda one: one.kind)
    for kind, group in groupby(found, key=lambda one: one.kind):
        console.print(table(kind, list(group)))
    console.print(
        f"{DIM}95 % intervals, three numbers each: the lowest share of studies over worlds, in %, whose "
        f"interval holds the truth; in how many worlds it is below {WANTED:.0%}; mean length in points. "
        f"{studies:,} studies a world; any share of problems right, or won, is enumerated.{END}"
    )
    write(json_file, {"studies": studies, "seed": seed, "worlds": [asdict(one) for one in found]})


def table(kind: str, found: Sequence[Any]) -> Table:
    """One row for each number of problems, or seeds; three columns an interval."""
    result = Table(title=kind, box=box.SIMPLE_HEAD, title_justify="left")
    result.add_column("n", justify="right")
    result.add_column("worlds", justify="right")
    names = list(dict.fromkeys(one.interval for one in found))
    for name in names:
        result.add_column(name, justify="right", no_wrap=True)
    for n in sorted({one.units for one in found}):
        columns = [
            [one for one in found if (one.units, one.interval) == (n, name)] for name in names
        ]
        result.add_row(str(n), str(len(columns[0])), *(cell(column) for column in columns))
    return result


def cell(worlds: Iterable[Any]) -> str:
    """Worst coverage in %, in how many worlds it is too low, and the mean length in points."""
    worlds = list(worlds)
    worst, length = min(w.held for w in worlds), sum(w.length for w in worlds) / len(worlds)
    below = sum(w.held < WANTED for w in worlds)
    mark = RED if below else GREEN
    return f"{mark}{100 * worst:.1f}{END} {below:3d} {100 * length:5.1f}"
