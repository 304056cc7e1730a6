"""`opdlab bench gpu`: cases in order of their worth, kept as they are measured, ended in time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from rich import box
from rich.table import Table

from opdlab.bench.gpu import ceilings, loss, page, rollout, scoring, step
from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.race import machine, show_machine
from opdlab.bench.shapes import KNOWN, Shape
from opdlab.console import DIM, END, GREEN, RED, YELLOW, Stopped, console, progress_bar
from opdlab.errors import ConfigError, OpdlabError
from opdlab.files import read_json, require_own_page, write_page, write_whole
from opdlab.modelling import DTYPES

PARTS = ("scoring", "rollout", "loss", "step")
_TINY = Shape(64, 2, 4, 2, 128, 512)


def bench_gpu(minutes: float, only: Sequence[str], device: str, dtype: str, to: Path) -> None:
    """Measure what is not in the file `to` yet, print the table and write the page beside it.

    Raises:
        ConfigError: an unknown part; or the file is of another machine.
        DataError: the file, or the page beside it, is somebody else's.
    """
    started = monotonic()
    if unknown := [part for part in only if part not in PARTS]:
        raise ConfigError(f"--only: {unknown[0]!r} is none of {', '.join(PARTS)}")
    require_own_page(to.with_suffix(".html"))
    card = Card(torch.device(device), DTYPES[dtype])
    found = _earlier(to, machine(device) | {"driver": _driver(card), "dtype": dtype})
    show_machine(found["machine"])
    ceilings.measure(card)
    found["ceilings"] = {"product": card.product, "bandwidth": card.bandwidth}
    console.print(
        f"a large {dtype} product: {card.product / 1e12:,.3g} TFLOP/s; a large copy, bytes read and "
        f"written: {card.bandwidth / 1e12:,.3g} TB/s"
    )
    wanted = [one for one in cases(card) if not only or one.part in only]
    left = [one for one in wanted if one.key not in found["measured"]]
    end = started + 60 * minutes
    with progress_bar() as progress:
        task = progress.add_task("", total=len(left))
        for one in left:
            progress.update(task, description=one.key)
            if monotonic() + one.seconds > end:
                progress.advance(task)
                continue
            found["measured"][one.key] = _measured(one, card)
            write_whole(to, json.dumps(found, indent=1) + "\n")
            progress.advance(task)
    _show(found, wanted)
    write_page(to.with_suffix(".html"), page.html(found))
    console.print(f"all figures: {to}; as a page: {to.with_suffix('.html')}")


def cases(card: Card) -> Iterator[Case]:
    """All of a card, the most telling first; tiny ones of everything else."""
    if card.device.type != "cuda":
        yield from scoring.cases("tiny", _TINY, (24, 48), 1)
        yield from rollout.cases("tiny", _TINY, ((4, 16),), 1, rivals=4)
        yield from loss.cases("tiny", _TINY, (64,), 64)
        yield from step.cases("tiny", _TINY, _TINY, 1, rows=2, tokens=8)
        return
    small, large = KNOWN["qwen2.5-1.5b"], KNOWN["qwen2.5-7b"]
    yield from chain(
        scoring.cases("Qwen2.5 1.5B", small, (4096, 16384), 10),
        rollout.cases("Qwen2.5 1.5B", small, ((64, 1024), (8, 1024), (256, 1024)), 15, rivals=64),
        scoring.cases("Qwen2.5 7B", large, (4096, 16384, 39000), 25),
        rollout.cases("Qwen2.5 7B", large, ((64, 1024),), 20),
        loss.cases("Qwen2.5 1.5B", small, (4096, 32768), 4096),
        step.cases("Qwen2.5, 1.5B by 7B", small, large, 90, rows=8, tokens=1024),
        rollout.cases("Qwen2.5 1.5B", small, ((64, 8192), (8, 8192)), 25),
        scoring.cases("Qwen2.5 1.5B", small, (39000,), 20),
        scoring.cases("Qwen3 8B", KNOWN["qwen3-8b"], (16384,), 30),
        scoring.cases("Qwen3 1.7B", KNOWN["qwen3-1.7b"], (16384,), 20),
        rollout.cases("Qwen2.5 7B", large, ((8, 1024), (64, 8192)), 40),
        scoring.cases("Qwen3 32B", KNOWN["qwen3-32b"], (4096,), 60),
    )


def _measured(one: Case, card: Card) -> dict[str, Any]:
    began = monotonic()
    try:
        figures = [asdict(figure) for figure in one.run(card)]
    except Stopped:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, OSError, OpdlabError) as error:
        # A case that does not fit, or a kernel that is not there, costs no other its turn.
        card.drop()
        return {"error": f"{type(error).__name__}: {error}"[:400], "figures": []}
    return {"figures": figures, "taken": monotonic() - began}


def _earlier(to: Path, now: dict[str, Any]) -> dict[str, Any]:
    """What was measured before on such a machine, cases that failed left out."""
    fresh = {"machine": now, "measured": {}}
    if not to.exists():
        return fresh
    found = read_json(to, "machine", "measured", remedy="name another file by --to")
    same = ("device", "torch", "opdlab", "dtype")
    if changed := [key for key in same if found["machine"].get(key) != now[key]]:
        raise ConfigError(
            f"{to} was measured with {changed[0]} {found['machine'].get(changed[0])}, this is "
            f"{now[changed[0]]}: name another file by --to, so that figures do not mix"
        )
    measured = {key: one for key, one in found["measured"].items() if "error" not in one}
    return {**fresh, "measured": measured}


def _driver(card: Card) -> str:
    if card.device.type != "cuda":
        return "none"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return f"CUDA {torch.version.cuda}"
    return f"CUDA {torch.version.cuda}, driver {done.stdout.splitlines()[0].strip()}"


def _show(found: dict[str, Any], wanted: Sequence[Case]) -> None:
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
            f"{YELLOW}{late} cases were not begun in time{END}; the same command goes on with them"
        )


def _goal(figure: Figure) -> tuple[str, str]:
    if figure.goal is None:
        return "", figure.text()
    sign = "<=" if figure.at_most else ">="
    color = GREEN if figure.met else RED
    goal = Figure("", figure.goal, figure.unit).text()
    return f"{DIM}{sign} {goal}{END}", f"{color}{figure.text()}{END}"
