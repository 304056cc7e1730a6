"""`opdlab power`: the smallest difference that an experiment's evaluation can find, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from opdlab import plugins
from opdlab.configuration import loader
from opdlab.console import DIM, END, console, quieten
from opdlab.errors import DataError
from opdlab.evaluation import comparison
from opdlab.plugins import posed

POWER = 0.8
LEVEL = 0.05


def show(
    experiment: str, overrides: Sequence[str], accuracy: float, like: Sequence[str], output: str
) -> None:
    """Print what differences between two runs of an experiment could be found.

    Args:
        accuracy: expected share of correct samples, where no run tells it.
        like: one run, or two whose difference is like the one that is looked for.

    Raises:
        DataError: the experiment has no benchmarks, a run has no samples of one, or `like` names more
            than two.
    """
    quieten()
    settings = loader.load_experiment(experiment, list(overrides)).evaluation
    if not settings.benchmarks:
        raise DataError(f"{experiment} has no evaluation.benchmarks, so there is nothing to find")
    if len(like) > 2:
        raise DataError(f"--like takes one run or two, not {len(like)}")
    folders = [comparison.find_run(run, Path(output)) for run in like]
    runs = [comparison.read_run(folder) for folder in folders]
    comparison.remark(comparison.unknown_trainings(folders))
    sizes = {one.benchmark: len(posed.problems(one)) for one in settings.benchmarks}
    spreads = plugins.load(plugins.STATISTICS, "spreads")(list(sizes), runs, accuracy)
    console.print(table(spreads, sizes, settings.samples))
    origins = ", ".join(dict.fromkeys(spread.origin for spread in spreads.values()))
    console.print(
        f"{DIM}Points of mean@{settings.samples}; paired by problem, two-sided at {LEVEL:.0%} (divided by "
        f"the number of benchmarks), found with a chance of {POWER:.0%}. Spread: {origins}.{END}"
    )
    if min(sizes.values()) < 2 or any(spread.effect is None for spread in spreads.values()):
        console.print(f"{DIM}A single problem shows no spread: what it can find is not known.{END}")


def table(spreads: dict[str, Any], sizes: dict[str, int], samples: int) -> Table:
    """One row a benchmark, then one over all where there are several."""
    smallest = plugins.load(plugins.STATISTICS, "smallest_difference")
    result = Table(
        title="Smallest difference that is found", box=box.SIMPLE_HEAD, title_justify="left"
    )
    result.add_column("benchmark", no_wrap=True)
    for name in (
        "problems",
        "standard error",
        f"with k={samples}",
        f"k={4 * samples}",
        "endless k",
    ):
        result.add_column(name, justify="right")
    rows = [([name], LEVEL / len(sizes)) for name in sizes]
    if len(sizes) > 1:
        rows.append((list(sizes), LEVEL))
    for names, level in rows:
        group = [spreads[name] for name in names], [sizes[name] for name in names]
        now = smallest(*group, samples, POWER, level)
        more = smallest(*group, 4 * samples, POWER, level)
        points = (now.standard_error, now.difference, more.difference, now.floor)
        label = names[0] if len(names) == 1 else "all benchmarks"
        result.add_row(label, str(now.problems), *map(told, points))
    return result


def told(share: float | None) -> str:
    """In points."""
    return "unknown" if share is None else f"{100 * share:.1f}"
