"""`opdlab bench gpu`: cases in order of their worth, kept as they are measured, ended in time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from rich import box
from rich.table import Table

from opdlab.bench.gpu import page
from opdlab.bench.gpu.cases import cases as all_cases
from opdlab.bench.gpu.figures import PARTS, Card, Case, Figure
from opdlab.bench.gpu.kept import earlier, held, measured_alone, page_of
from opdlab.bench.gpu.worker import Cases, Worker, failed
from opdlab.bench.race import machine, show_machine
from opdlab.console import DIM, END, GREEN, RED, YELLOW, console, progress_bar
from opdlab.errors import ConfigError, OpdlabError
from opdlab.files import write_page, write_whole
from opdlab.modelling import DTYPES

# A case that takes so many times as long as it may on a large card hangs, or the card is no such card.
_OVERDUE, _LEAST = 4.0, 60.0
_BEGINNING = 180.0
"""Seconds for libraries and ceilings."""


def bench_gpu(
    minutes: float,
    only: Sequence[str],
    device: str,
    dtype: str,
    to: Path,
    cases: Cases = all_cases,
) -> None:
    """Measure what is not in the file `to` yet, print the table and write the page beside it.

    Raises:
        ConfigError: an unknown part; or the file is of another machine.
        DataError: the file is damaged; or it, or the page beside it, is somebody else's.
        ResumeError: another process measures into the file, or this card.
        OpdlabError: nothing at all can be measured.
    """
    end = monotonic() + 60 * minutes
    if unknown := [part for part in only if part not in PARTS]:
        raise ConfigError(f"--only: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    card = Card(torch.device(device), DTYPES[dtype])
    now = machine(device) | {"driver": _driver(card), "dtype": dtype}
    wanted = [one for one in cases(card) if not only or one.part in only]
    here = [one for one in wanted if not one.needs or find_spec(one.needs)]
    with held(to), measured_alone(card):
        _measure_and_show(cases, here, card, to, earlier(to, now), end)
    for name in sorted({one.needs for one in wanted if one not in here}):
        count = sum(one.needs == name for one in wanted)
        console.print(f"{name} is not installed here: cases beside it are left out ({count})")


def _measure_and_show(
    cases: Cases, here: Sequence[Case], card: Card, to: Path, found: dict[str, Any], end: float
) -> None:
    show_machine(found["machine"])
    try:
        _measure(cases, here, card, to, found, end)
    finally:
        # Also where it is interrupted.
        if "ceilings" not in found or not found["measured"]:
            console.print(f"{YELLOW}nothing is measured yet{END}")
        else:
            _show(found, here)
            write_page(page_of(to), page.html(found))
            console.print(f"all figures: {to}; as a page: {page_of(to)}")


def _measure(
    cases: Cases, wanted: Sequence[Case], card: Card, to: Path, found: dict[str, Any], end: float
) -> None:
    """Measure what is left, in one process after another, until nothing more would end in time."""
    known = found["measured"]
    if large := [one for one in wanted if not one.fits(card)]:
        known |= {one.key: failed(f"does not fit: {one.held(card)}") for one in large}
        write_whole(to, json.dumps(found, indent=1) + "\n")
    left = unmeasured([one for one in wanted if one not in large], known)
    with progress_bar() as progress:
        task = progress.add_task("", total=len(left))
        while any(monotonic() + one.seconds <= end for one in left):
            progress.update(task, description="libraries and ceilings")
            # All figures of a file are shares of one set of ceilings.
            known_top = found.get("ceilings")
            with Worker(cases, str(card.device), card.dtype, known_top) as worker:
                top = worker.begin(min(_BEGINNING, end - monotonic()))
                if "error" in top:
                    if monotonic() >= end:
                        return
                    raise OpdlabError(f"libraries and ceilings: {top['error']}")
                found["ceilings"] = top
                for one in list(left):
                    now = monotonic()
                    if now + one.seconds > end:
                        continue
                    progress.update(task, description=one.key)
                    most = min(max(_LEAST, _OVERDUE * one.seconds), end - now)
                    known[one.key] = worker.measure(one.key, most)
                    if "error" in known[one.key] and monotonic() >= end:
                        known[one.key]["error"] += ", when --minutes were over"
                    write_whole(to, json.dumps(found, indent=1) + "\n")
                    left.remove(one)
                    progress.advance(task)
                    if "error" in known[one.key]:
                        break


def unmeasured(wanted: Sequence[Case], known: Mapping[str, Any]) -> list[Case]:
    """What is left of the cases: first what was never begun, then what failed."""
    fresh = [one for one in wanted if one.key not in known]
    return fresh + [one for one in wanted if "error" in known.get(one.key, ())]


def _driver(card: Card) -> str:
    if card.device.type != "cuda":
        return page.NO_DRIVER
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return f"CUDA {torch.version.cuda}"
    return f"CUDA {torch.version.cuda}, driver {done.stdout.splitlines()[0].strip()}"


def _show(found: dict[str, Any], wanted: Sequence[Case]) -> None:
    top = found["ceilings"]
    console.print(
        f"a large {found['machine']['dtype']} product: {top['product'] / 1e12:,.3g} TFLOP/s; a large copy, "
        f"bytes read and written: {top['bandwidth'] / 1e12:,.3g} TB/s; from the host: "
        f"{top['host'] / 1e9:,.3g} GB/s"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("case", "figure", "goal"):
        table.add_column(name)
    table.add_column("", justify="right")
    late = 0
    for one in wanted:
        known = found["measured"].get(one.key)
        if known is None:
            late += 1
            continue
        if "error" in known:
            table.add_row(one.key, f"{RED}{known['error']}{END}", "", "")
        for number, told in enumerate(known["figures"]):
            figure = Figure(**told)
            table.add_row("" if number else one.key, figure.name, *_goal(figure))
    console.print(table)
    if late:
        console.print(
            f"{YELLOW}{late} of {len(wanted)} cases are not measured yet{END}; run the same command "
            f"again to measure them"
        )


def _goal(figure: Figure) -> tuple[str, str]:
    if figure.goal is None:
        return "", figure.text()
    color = GREEN if figure.met else RED
    return f"{DIM}{figure.goal_text()}{END}", f"{color}{figure.text()}{END}"
