"""Runs side by side: scores with intervals, and paired differences that say what cannot be told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from opdlab import disputes, plugins, store
from opdlab.errors import DataError
from opdlab.records import Sample
from opdlab.terminal import console

LEVEL = 0.05
MOST_COLUMNS = 4
RESULTS = "results.json"
STYLE: Any = {
    "title_justify": "left",
    "box": box.SIMPLE_HEAD,
    "pad_edge": False,
    "padding": (0, 0, 0, 1),
}


def compare(runs: Sequence[str], output: str) -> None:
    """Compare runs by name or folder; each one after the first is set against the first.

    A side may be several runs, `a,b,c`, that differ in their training seed alone; then all sides need as
    many, and differences are taken seed by seed.

    Raises:
        DataError: fewer than two sides, a run without samples, or runs measured in different ways.
    """
    if len(runs) < 2:
        raise DataError(
            "compare needs two runs or more; the first is what the others are set against"
        )
    sides = [side.split(",") for side in runs]
    names = short_names([name for side in sides for name in side])
    measured = {short: read_run(find_run(name, Path(output))) for name, short in names.items()}
    console.print(score_table(measured))
    if any(len(side) > 1 for side in sides):
        compare_seeds([[names[name] for name in side] for side in sides], measured)
        return
    first, *others = names.values()
    console.print(difference_table(measured, [(first, other) for other in others]))
    console.print(READING)


def compare_seeds(sides: Sequence[Sequence[str]], measured: Mapping[str, Sequence[Sample]]) -> None:
    """Each side after the first against the first, seed by seed."""
    first, *others = ([measured[name] for name in side] for side in sides)
    for side, group in zip(sides[1:], others, strict=True):
        found = plugins.load(plugins.STATISTICS, "seeds")(first, group)
        console.print(seed_table(f"{span(side)} minus {span(sides[0])}", found))
    console.print(SEEDS_READING)


def short_names(runs: Sequence[str]) -> dict[str, str]:
    """Each run's last folder, or the whole path where that would not tell it from another."""
    lasts = [Path(run).name for run in runs]
    return {
        run: last if lasts.count(last) == 1 else run for run, last in zip(runs, lasts, strict=True)
    }


def span(names: Sequence[str]) -> str:
    """A side in a title: its run, or the first and the last of several."""
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"


def report(folders: Mapping[str, Path], pairs: Sequence[tuple[str, str]], place: Path) -> None:
    """Print scores and differences of an experiment's runs and keep them as `results.json`."""
    measured = {name: read_run(folder) for name, folder in folders.items()}
    console.print(score_table(measured))
    if pairs:
        console.print(difference_table(measured, pairs))
        console.print(READING)
    for name, samples in measured.items():
        disputes.show(name, samples)
    content = {
        "scores": [asdict(s) for samples in measured.values() for s in summaries(samples)],
        "differences": [asdict(d) for a, b in pairs for d in differences(measured, a, b)],
    }
    (place / RESULTS).write_text(json.dumps(content, indent=1) + "\n")


SEEDS_READING = (
    "[dim]Means over pairs of runs with the same training seed; intervals and p by Student's t over the "
    "pairs: they speak of new training runs on the same problems.[/]"
)
READING = (
    "[dim]Paired by problem. ▲ higher, ▼ lower, both at p < 0.05 (sign-flip permutation, Holm-corrected "
    "over benchmarks); = no difference shown. In brackets the 95 % interval over problems. This speaks of "
    "these models: how far trainings with other seeds lie apart is not in it; compare several "
    "(`opdlab compare a-0,a-1,a-2 b-0,b-1,b-2`) before it is said of a method.[/]"
)


def find_run(name: str, output: Path) -> Path:
    """Folder of a run given as a path, or as a path below the output folder.

    Raises:
        DataError: there is no such folder; the message lists runs that exist.
    """
    for folder in (Path(name), output / name):
        if (folder / "samples").is_dir():
            return folder
    known = sorted(str(path.parent.relative_to(output)) for path in output.glob("*/*/samples"))
    raise DataError(
        f"no run {name!r} with samples here or below {output}"
        + (f"; there are {', '.join(known)}" if known else "")
    )


def read_run(folder: Path) -> list[Sample]:
    """The samples of a run's last evaluation."""
    samples = store.read_samples(folder / "samples")
    finals = [sample for sample in samples if "@" not in sample.checkpoint]
    return finals or samples


def summaries(samples: Sequence[Sample]) -> list[Any]:
    """Scores a benchmark, then over all where there are several."""
    each = plugins.load(plugins.STATISTICS, "scores")(samples)
    over_all = plugins.load(plugins.STATISTICS, "average")(each) if len(each) > 1 else []
    return [*each, *over_all]


def differences(measured: Mapping[str, Sequence[Sample]], a: str, b: str) -> list[Any]:
    """b against a, paired by problem."""
    return plugins.load(plugins.STATISTICS, "paired")(measured[a], measured[b])


def score_table(measured: Mapping[str, Sequence[Sample]]) -> Table:
    """Scores of every run on every benchmark with intervals, in percent.

    One column a run with mean@k and pass@k; of many runs one row each with mean@k alone.
    """
    found = {name: summaries(samples) for name, samples in measured.items()}
    table = Table(title="Scores in %, with 95 % intervals over problems", **STYLE)
    if len(found) > MOST_COLUMNS:
        first = next(iter(found.values()))
        table.add_column(f"mean@{first[0].k}")
        for summary in first:
            table.add_column(f"{title(summary)} n={summary.problems}", justify="right")
        for name, row in found.items():
            table.add_row(name, *(percent(s.mean) for s in row))
        return table
    table.add_column("benchmark", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(*found.values(), strict=True):
        name, k, problems = title(row[0]), row[0].k, {s.problems for s in row}
        count = "/".join(map(str, sorted(problems)))
        table.add_row(f"[bold]{name}[/] [dim]n={count}[/]")
        table.add_row(f"  mean@{k}", *(percent(s.mean) for s in row))
        table.add_row(f"  pass@{k}", *(percent(s.pass_at[k]) for s in row))
    return table


def title(summary: Any) -> str:
    """Name of a benchmark, or of the average over several."""
    return getattr(summary, "benchmark", "all")


def percent(estimate: Any) -> str:
    """An estimate in percent; its bounds where some samples could not be graded."""
    if estimate.value is None:
        return f"{100 * estimate.worst:.0f} to {100 * estimate.best:.0f}?"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f},{100 * estimate.high:.0f}]"


def difference_table(
    measured: Mapping[str, Sequence[Sample]], pairs: Sequence[tuple[str, str]]
) -> Table:
    """Differences of mean@k in percentage points, and which side is ahead.

    One column a pair; of many pairs one row each.
    """
    found = {f"{b} - {a}": differences(measured, a, b) for a, b in pairs}
    first = next(iter(found.values()))
    table = Table(title=f"Differences of mean@{first[0].k}, in points", **STYLE)
    if len(found) > MOST_COLUMNS:
        table.add_column("")
        for each in first:
            table.add_column(each.benchmark, justify="right")
        for name, row in found.items():
            table.add_row(name, *(points(each.mean) for each in row))
        return table
    table.add_column("benchmark")
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    for row in zip(*found.values(), strict=True):
        table.add_row(f"[bold]{row[0].benchmark}[/]", *(points(each.mean) for each in row))
    return table


def seed_table(name: str, found: Sequence[Any]) -> Table:
    """Differences of mean@k over pairs of runs that share their training seed."""
    table = Table(title=f"{name}: mean@{found[0].k}, in points", **STYLE)
    table.add_column("benchmark")
    for column in ("mean difference", "each seed", "p"):
        table.add_column(column, justify="right")
    for each in found:
        value, low, high = (100 * x for x in (each.value, each.low, each.high))
        seeds = " ".join(f"{100 * x:+.1f}" for x in each.differences)
        interval = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
        table.add_row(each.benchmark, interval, seeds, f"{each.p:.4f}")
    return table


def points(difference: Any) -> str:
    """A paired difference with its interval and a mark that says whether it shows anything."""
    if difference.value is None:
        return f"{100 * difference.worst:+.0f} to {100 * difference.best:+.0f}?"
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    text = f"{value:+.1f} [{low:+.0f}, {high:+.0f}]"
    if difference.p_holm >= LEVEL:
        return f"[dim]{text} =[/]"
    return f"[green]{text} ▲[/]" if value > 0 else f"[red]{text} ▼[/]"


def phase_table(seconds: Mapping[str, float]) -> Table:
    """Wall time of each phase of an experiment."""
    table = Table(title="Wall time", **STYLE)
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}")
    table.add_row("[bold]total[/]", f"[bold]{sum(seconds.values()):.1f}[/]")
    return table
