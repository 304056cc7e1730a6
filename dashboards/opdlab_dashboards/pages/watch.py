"""`opdlab watch`: a training that goes on in another process, in the terminal and as a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
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
from opdlab.console import BOLD, END, console, gib, shown as symbols
from opdlab.errors import DataError, writing_to
from opdlab.files import require_own_page, write_beside, write_page
from opdlab_dashboards.pages import page_files
from opdlab_dashboards.results import Reader, Scene, Watched, newest, scene

EVERY_S = 1.0
OPTION = "--page"
MARK = '<meta name="opdlab-page" content="watch">'
"""In the head of a page of this command, which it may write over."""
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
        run: folder of a run, an execution or a sweep, here or below `output`; None for the newest.
        page: file that the same is written to as a page.
        once: show it once.

    Raises:
        DataError: there is no such training, or `page` is a file of somebody else.
    """
    place = found(run, Path(output))
    target = None if page is None else Path(page)
    # Where nothing can be redrawn, there is one look.
    once = once or (target is None and not console.is_terminal)
    reader = Reader()
    now = scene(place, reader)
    if target is not None:
        begin_page(target, as_page(now, refreshing=not once and now.going_on))
    if once or not now.going_on:
        console.print(shown(now))
        return
    try:
        with Live(shown(now, console.height), console=console, auto_refresh=False) as live:
            while now.going_on:
                sleep(EVERY_S)
                now = scene(place, reader)
                live.update(shown(now, console.height), refresh=True)
                write(now, target, now.going_on)
    finally:
        # Who leaves the view ends its page too: nobody writes it any more.
        write(now, target, refreshing=False)


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


def begin_page(target: Path, text: str) -> None:
    """Write the page for the first time; a page of another command that was there is kept beside it."""
    require_own_page(target, f"name another file by {OPTION}")
    with writing_to(target, OPTION):
        older = None
        if target.exists() and MARK not in target.read_text():
            older = write_beside(target, text)
        else:
            write_page(target, text)
    console.print(f"Page: {BOLD}{target.absolute().as_uri()}{END}", soft_wrap=True)
    if older:
        console.print(f"The page that was there is kept as {older}", soft_wrap=True)


def write(now: Scene, target: Path | None, refreshing: bool) -> None:
    """The page, which a browser loads again by itself as long as it is written."""
    if target is not None:
        with writing_to(target, OPTION):
            write_page(target, as_page(now, refreshing))


def shown(now: Scene, height: int | None = None) -> RenderableType:
    """All of it for the terminal, or what fits in a height."""
    run, notes = now.current, [f"cannot be read: {fault}" for fault in now.faults]
    if run is None:
        notes.append(f"{now.place.name}: no training has begun; by {now.by}")
        return Text("\n".join(notes))
    parts: list[RenderableType] = [_steps(now.runs), Text(), *map(Text, notes)]
    facts, sample = list(_facts(run)), run.live.get("sample")
    room = (height or 1000) - min(len(now.runs), RUNS + 1) - len(notes) - len(facts) - 4
    panel = _sample(sample, min(LINES, max(1, room // 4))) if sample else None
    if panel:
        room -= 1 + len(console.render_lines(panel))
    parts.append(_curves(run, max(1, room)))
    if facts:
        parts.append(Text("\n".join(facts), style="dim"))
    if panel:
        parts += [Text(), panel]
    return Group(*parts)


def _steps(runs: Sequence[Watched]) -> Table:
    table = Table.grid(padding=(0, 2))
    if len(runs) > RUNS:
        table.add_row(Text(f"{len(runs) - RUNS} before them", style="dim"))
    for run in runs[-RUNS:]:
        bar = ProgressBar(total=run.steps or 1, completed=run.step, width=24)
        steps = f"{run.step:,}" + (f" of {run.steps:,}" if run.steps else "")
        table.add_row(Text(name_of(run), style="bold"), bar, steps, run.told)
    return table


def name_of(run: Watched) -> str:
    """Its execution and its own name."""
    return f"{run.folder.absolute().parent.name}/{run.folder.absolute().name}"


def _curves(run: Watched, most: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, curve in list(run.curves.items())[:most]:
        values = [value for _, value in curve]
        table.add_row(label, Text(sparkline(values), style="cyan"), f"{values[-1]:.4g}")
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


def _sample(sample: dict[str, Any], lines: int) -> Panel:
    prompt, answer = _cut(sample["prompt"], lines), _cut(sample["answer"], lines)
    text = Text.assemble((f"{prompt}\n", "dim"), f"{answer}\n", (_rewards(sample), "dim"))
    title = f"an answer of step {sample['step']}: {_length(sample)}"
    return Panel(text, title=title, title_align="left")


def _length(sample: dict[str, Any]) -> str:
    return f"{sample['tokens']:,} tokens" + ("" if sample["ended"] else ", cut at the limit")


def _rewards(sample: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in sample["rewards"].items())


def _cut(text: str, most: int) -> str:
    """The end of a text that takes more lines of the terminal than fit."""
    lines = Text(symbols(text).strip("\n")).wrap(console, max(8, console.width - 4))
    plain = [line.plain for line in lines]
    return "\n".join(["[…]", *plain[-most:]] if len(plain) > most else plain)


def as_page(now: Scene, refreshing: bool) -> str:
    """All of it as one file that needs no server.

    Args:
        refreshing: whether it will be written again.
    """
    run = now.current
    sample = run and run.live.get("sample")
    return page_files.template("watch.html.j2").render(
        style=page_files.asset("style.css"),
        version=opdlab.__version__,
        refresh=math.ceil(2 * EVERY_S) if refreshing else None,
        at=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        runs=[
            {"name": symbols(name_of(one)), "step": one.step, "steps": one.steps, "told": one.told}
            for one in now.runs
        ],
        name=symbols(name_of(run) if run else now.place.name),
        notes=[f"cannot be read: {symbols(fault)}" for fault in now.faults],
        curves=[drawn(k, curve, run.step) for k, curve in run.curves.items()] if run else [],
        size=(WIDTH, HEIGHT),
        facts=list(_facts(run)) if run else [f"no training has begun; by {now.by}"],
        sample=sample and _told(sample),
    )


def _told(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample for the page, which turns no text round and hides none."""
    words = {name: symbols(sample[name]) for name in ("prompt", "answer")}
    return {**sample, **words, "length": _length(sample), "told": symbols(_rewards(sample))}


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
        "now": f"{curve[-1][1]:.4g}",
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
    }
