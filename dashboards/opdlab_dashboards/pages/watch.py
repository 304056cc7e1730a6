"""`opdlab watch`: a training that goes on in another process, in the terminal and as a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from time import sleep
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import opdlab
from opdlab.console import BOLD, END, console, duration
from opdlab.errors import DataError, writing_to
from opdlab.files import require_own_page, write_page
from opdlab_dashboards.pages import page_files
from opdlab_dashboards.results import Watched, newest, runs_of, watched

EVERY_S = 1.0
BARS = "▁▂▃▄▅▆▇█"
POINTS = 40
"""Columns of a curve in the terminal."""
RUNS = 12
"""Listed in the terminal, of a sweep's many the last."""
LINES = 12
"""Of an answer in the terminal."""
WIDTH, HEIGHT, DOT = 300, 60, 3
"""Of a curve on the page, in its own units; the last is what a single figure takes."""


def watch(run: str | None, output: str, page: str | None, once: bool) -> None:
    """Show a training until it ends.

    Args:
        run: folder of a run, an execution or a sweep, here or below `output`; None for the newest run.
        page: file that the same is written to as a page.
        once: show it once.

    Raises:
        DataError: there is no such training, or `page` is a file of somebody else.
    """
    place = found(run, Path(output))
    target = None if page is None else Path(page)
    if target is not None:
        require_own_page(target)
        console.print(f"Page: {BOLD}{target.absolute().as_uri()}{END}", soft_wrap=True)
    # Where nothing can be redrawn, there is one look.
    once = once or (target is None and not console.is_terminal)
    runs = looked_at(place)
    with Live(shown(runs), console=console, auto_refresh=False) as live:
        write(runs, target)
        while going_on(runs) and not once:
            sleep(EVERY_S)
            runs = looked_at(place)
            live.update(shown(runs), refresh=True)
            write(runs, target)


def found(run: str | None, output: Path) -> Path:
    """The folder that is watched.

    Raises:
        DataError: there is none.
    """
    if run is None:
        return newest(output)
    for folder in (Path(run), output / run):
        if folder.is_dir():
            return folder
    raise DataError(
        f"no folder {run!r} here or below {output}: name that of a run, or none for the newest"
    )


def looked_at(place: Path) -> list[Watched]:
    """The trainings in a folder as they stand now, in the order in which they began."""
    found = [watched(folder) for folder in runs_of(place)]
    return sorted(found, key=lambda run: run.rows[0].get("time", 0.0) if run.rows else math.inf)


def going_on(runs: Sequence[Watched]) -> bool:
    """Whether somebody works at one of them."""
    return any(run.by for run in runs)


def current(runs: Sequence[Watched]) -> Watched:
    """The one to look at: that which was written to last."""
    times = [run.rows[-1].get("time", 0.0) if run.rows else 0.0 for run in runs]
    return runs[max(range(len(runs)), key=times.__getitem__)]


def write(runs: Sequence[Watched], target: Path | None) -> None:
    """The page, which a browser loads again by itself as long as the training goes on."""
    if target is not None:
        with writing_to(target):
            write_page(target, as_page(runs))


def shown(runs: Sequence[Watched]) -> RenderableType:
    """All of it for the terminal."""
    run = current(runs)
    parts: list[RenderableType] = [_steps(runs), Text(), _curves(run)]
    if facts := list(_facts(run)):
        parts.append(Text("\n".join(facts), style="dim"))
    if sample := run.live.get("sample"):
        parts += [Text(), _sample(sample)]
    return Group(*parts)


def _steps(runs: Sequence[Watched]) -> Table:
    table = Table.grid(padding=(0, 2))
    if len(runs) > RUNS:
        table.add_row(Text(f"{len(runs) - RUNS} before them", style="dim"))
    for run in runs[-RUNS:]:
        bar = ProgressBar(total=run.steps or 1, completed=run.step, width=24)
        steps = f"{run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
        left = run.seconds_left
        told = run.phase if left is None else f"{run.phase}, {duration(left)} left"
        table.add_row(Text(name_of(run), style="bold"), bar, steps, told)
    return table


def name_of(run: Watched) -> str:
    """Its execution and its own name."""
    return f"{run.folder.absolute().parent.name}/{run.folder.absolute().name}"


def _curves(run: Watched) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, curve in run.curves.items():
        values = [value for _, value in curve]
        known = [value for value in values if math.isfinite(value)]
        table.add_row(label, Text(sparkline(values), style="cyan"), f"{known[-1]:.4g}")
    return table


def sparkline(values: Sequence[float], width: int = POINTS) -> str:
    """A curve in a line of text, means over neighbours; a blank where no figure is finite."""
    count = min(width, len(values))
    cuts = [round(i * len(values) / count) for i in range(count + 1)]
    means = []
    for begin, end in pairwise(cuts):
        known = [value for value in values[begin:end] if math.isfinite(value)]
        means.append(sum(known) / len(known) if known else math.nan)
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite), max(finite)
    middle, levels = (len(BARS) - 1) / 2, len(BARS) - 1
    heights = [
        (mean - low) / (high - low) * levels if high > low else mean * 0 + middle for mean in means
    ]
    return "".join(BARS[round(one)] if math.isfinite(one) else " " for one in heights)


def _facts(run: Watched) -> Iterator[str]:
    if parts := run.parts:
        yield "a step: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    if memory := run.live.get("memory"):
        device = memory.get("device")
        card = f", device {gib(device)} of {gib(memory['device_total'])}" if device else ""
        yield f"memory: process {gib(memory['process'])}{card}"
    if run.by:
        yield f"by {run.by}"


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB"


def _sample(sample: dict[str, Any]) -> Panel:
    prompt, answer = _cut(sample["prompt"]), _cut(sample["answer"])
    text = Text.assemble((f"{prompt}\n", "dim"), f"{answer}\n", (_rewards(sample), "dim"))
    title = f"an answer of step {sample['step']}: {_length(sample)}"
    return Panel(text, title=title, title_align="left")


def _length(sample: dict[str, Any]) -> str:
    return f"{sample['tokens']:,} tokens" + ("" if sample["ended"] else ", cut at the limit")


def _rewards(sample: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in sample["rewards"].items())


def _cut(text: str) -> str:
    """The end of a text that is longer than fits."""
    lines = text.strip("\n").split("\n")
    return "\n".join(["[…]", *lines[-LINES:]] if len(lines) > LINES else lines)


def as_page(runs: Sequence[Watched]) -> str:
    """All of it as one file that needs no server."""
    run = current(runs)
    sample = run.live.get("sample")
    return page_files.template("watch.html.j2").render(
        style=page_files.asset("style.css"),
        version=opdlab.__version__,
        refresh=math.ceil(2 * EVERY_S) if going_on(runs) else None,
        runs=[
            {
                "name": name_of(one),
                "step": one.step,
                "steps": one.steps,
                "phase": one.phase,
                "left": None if one.seconds_left is None else duration(one.seconds_left),
            }
            for one in runs
        ],
        name=name_of(run),
        curves=[drawn(label, curve, run.step) for label, curve in run.curves.items()],
        size=(WIDTH, HEIGHT),
        facts=list(_facts(run)),
        sample=sample and {**sample, "length": _length(sample), "told": _rewards(sample)},
    )


def drawn(label: str, curve: Sequence[tuple[float, float]], step: int) -> dict[str, Any]:
    """A curve as points of a picture, with its ends in words; a line for each stretch without a gap.

    Args:
        step: the last of the training, at the right edge.
    """
    known = [value for _, value in curve if math.isfinite(value)]
    low, high = min(known), max(known)
    lines: list[list[tuple[float, float]]] = [[]]
    for at, value in curve:
        if math.isfinite(value):
            share = (value - low) / (high - low) if high > low else 0.5
            x, y = at / max(step, 1) * (WIDTH - DOT), HEIGHT - 4 - share * (HEIGHT - 8)
            lines[-1].append((x, y))
        elif lines[-1]:
            lines.append([])
    return {
        "label": label,
        # A figure between two gaps is a dash.
        "lines": [
            " ".join(f"{x:.1f},{y:.1f}" for x, y in [*line, (line[-1][0] + DOT, line[-1][1])])
            for line in lines
            if line
        ],
        "now": f"{known[-1]:.4g}",
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
    }
