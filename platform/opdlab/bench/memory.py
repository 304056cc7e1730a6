"""Memory of a scoring pass by length: OPD's and LGR's, and what `opdlab plan` predicts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

from rich import box
from rich.table import Table

from opdlab.bench.peak import in_fresh_process, rise
from opdlab.bench.race import machine, show_machine, write
from opdlab.bench.shapes import Shape, ask, nothing, random_rollout
from opdlab.console import console
from opdlab.modelling import DTYPES, use_threads
from opdlab.planning import ScoredRows, scoring, sizes
from opdlab.scoring import Teacher

METHODS = ("OPD", "LGR")


def bench_memory(
    shape: Shape,
    lengths: list[int],
    top_k: int,
    active: float,
    rows: int,
    device: str,
    dtype: str,
    json_file: str | None,
) -> None:
    """Print peaks beside the weights and the memory that one more token of a response takes."""
    found: dict[str, Any] = {"machine": machine(device), "shape": asdict(shape), "lengths": lengths}
    show_machine(found["machine"])
    order = [asdict(shape), lengths, top_k, active, rows, device, dtype]
    measured: dict[str, list[int]] = in_fresh_process("opdlab.bench.memory", order)
    predicted = {
        name: [plan(shape, ScoredRows(rows, 1, n, 1, k, share), device, dtype) for n in lengths]
        for name, k, share in (("OPD", 0, 0.0), ("LGR", top_k, active))
    }
    found |= {"measured": measured, "predicted": predicted}
    weights = sizes(shape.config(max(lengths) + 2), DTYPES[dtype]).weights
    columns = ("L", *(f"{name} {kind}" for name in METHODS for kind in ("MB", "plan")))
    table = Table(
        title=f"peak of scoring {rows} answers, weights of {weights / 1e6:,.0f} MB apart, K {top_k}, "
        f"active {active}, {dtype}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in (*columns, "LGR / OPD", "with weights"):
        table.add_column(name, justify="right")
    for place, length in enumerate(lengths):
        opd, lgr = (measured[name][place] for name in METHODS)
        cells = [
            f"{each[name][place] / 1e6:.1f}" for name in METHODS for each in (measured, predicted)
        ]
        ratios = f"{lgr / opd:.2f}", f"{(weights + lgr) / (weights + opd):.2f}"
        table.add_row(str(length), *cells, *ratios)
    console.print(table)
    if len(lengths) > 1:
        tokens = rows * (lengths[-1] - lengths[0])
        found["slopes"] = {
            name: [(each[name][-1] - each[name][0]) / tokens for each in (measured, predicted)]
            for name in METHODS
        }
        for name, (one, other) in found["slopes"].items():
            gap = f"{other / one - 1:+.1%}"
            console.print(f"{name}: {one / 1e3:.2f} kB a token, plan {other / 1e3:.2f} ({gap})")
    write(json_file, found)


def plan(shape: Shape, asked: ScoredRows, device: str, dtype: str) -> int:
    """Bytes that `opdlab plan` predicts."""
    return scoring(shape.config(asked.length + 1), DTYPES[dtype], asked, device == "cpu")


def main(order: str) -> None:
    """What the fresh process runs: each method once on a short answer, so that libraries are loaded."""
    shape, lengths, top_k, active, rows, device, dtype = json.loads(order)
    use_threads(1)
    shape = Shape(**shape)
    teacher = Teacher(shape.build(device, DTYPES[dtype], max(lengths) + 2)).probe()
    found: dict[str, list[int]] = {name: [] for name in METHODS}
    for length in (32, *lengths):
        rollout = random_rollout(shape, [1] * rows, [length] * rows, top_k, device)
        asked = {"OPD": nothing(rollout), "LGR": ask(rollout, active)}
        for name, questions in asked.items():
            found[name].append(rise(partial(teacher.score, rollout, questions), device))
    print(json.dumps({name: peaks[1:] for name, peaks in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
