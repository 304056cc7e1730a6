"""Methods that were trained with several seeds, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from opdlab import plugins
from opdlab.console import BOLD, DIM, END, console
from opdlab.errors import DataError, UngradedError
from opdlab.evaluation import comparison
from opdlab.evaluation.comparison import STYLE, percent, summaries, title
from opdlab.files import is_there, read_json
from opdlab.identity import EXECUTION, Execution
from opdlab.records import Sample

STATE = "experiment.json"
READING = (
    f"{DIM}Means over pairs of runs with the same training seed; intervals and p by Student's t over the "
    "pairs: they speak of new training runs on the same problems. p (Holm) is corrected over all "
    f"differences shown here, those over all benchmarks with half of the weight.{END}"
)

Measured = Mapping[str, Sequence[Sample]]


def report(
    references: Mapping[str, Path], methods: Mapping[str, Mapping[str, Path]], place: Path
) -> None:
    """Print scores and differences of an experiment's methods and keep them as `results.json`.

    Args:
        references: folders of models that were not trained.
        methods: of each, the folders of its runs by name, in the order of their seeds.
    """
    fixed = {name: comparison.read_run(folder) for name, folder in references.items()}
    trained = {
        method: {name: comparison.read_run(folder) for name, folder in runs.items()}
        for method, runs in methods.items()
    }
    console.print(score_table(fixed, trained))
    everything = fixed | {name: own for runs in trained.values() for name, own in runs.items()}
    comparison.remark(comparison.remarks(everything))
    found = {}
    first, *others = trained.items()
    pairs = {f"{method} minus {first[0]}": (first[1], runs) for method, runs in others}
    if "student" in fixed and not others:
        same = dict.fromkeys(first[1], fixed["student"])
        pairs[f"{first[0]} minus student"] = same, first[1]
    for name, (a, b) in pairs.items():
        try:
            found[name] = differences(a, b)
        except UngradedError as error:
            # Scores are kept all the same, as bounds.
            console.print(f"{name} is not known. {error}.")
    found = together(found)
    for name, rows in found.items():
        console.print(seed_table(name, rows))
    if found:
        console.print(READING)
    rows = {name: [asdict(one) for one in rows] for name, rows in found.items()}
    comparison.keep(everything, {"over_seeds": rows}, place)


def differences(a: Measured, b: Measured) -> list[Any]:
    """b - a of each benchmark, seed by seed."""
    return plugins.load(plugins.STATISTICS, "seeds")(list(a.values()), list(b.values()))


def together(found: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Differences of several tables, corrected over all of them."""
    rows = plugins.load(plugins.STATISTICS, "together")(list(found.values()))
    return dict(zip(found, rows, strict=True))


def compare(
    sides: Sequence[Sequence[str]], folders: Mapping[str, Path], measured: Measured
) -> tuple[dict[str, list[Any]], list[str]]:
    """Each side after the first against the first, seed by seed; and what is to be said of them.

    A side of one model that was not trained stands against every seed of the others.

    Args:
        sides: names of the runs of each method.
        folders: of each run; its manifest says what its seed was.

    Raises:
        DataError: two sides were trained with different seeds.
    """
    ordered = _repeated([by_seed(side, folders) for side in sides], folders)
    known, notes = [list(runs) for runs in ordered], []
    if any(isinstance(seed, str) for side in known for seed in side):
        notes = ["Seeds of some runs are unknown: runs are paired in the given order."]
        known = [list(range(len(side))) for side in known]
    for side, names in zip(known[1:], sides[1:], strict=True):
        if side != known[0]:
            raise DataError(
                f"{span(sides[0])} has the training seeds {_listed(known[0])}, {span(names)} has "
                f"{_listed(side)}: give runs of the same seeds"
            )
    first, *others = ([measured[name] for name in runs.values()] for runs in ordered)
    found = {
        f"{span(side)} minus {span(sides[0])}": plugins.load(plugins.STATISTICS, "seeds")(
            first, group
        )
        for side, group in zip(sides[1:], others, strict=True)
    }
    return together(found), notes


def _repeated(
    sides: Sequence[dict[int | str, str]], folders: Mapping[str, Path]
) -> list[dict[int | str, str]]:
    """A model that no run trained, such as the student before training, stands against every seed."""
    longest = max(sides, key=len)
    return [
        dict.fromkeys(longest, next(iter(side.values()))) if _untrained(side, folders) else side
        for side in sides
    ]


def _untrained(side: Mapping[int | str, str], folders: Mapping[str, Path]) -> bool:
    """Whether a side is one model that has no training seed: a reference, or what `eval` measured."""
    return len(side) == 1 and not is_there(folders[next(iter(side.values()))] / EXECUTION)


def by_seed(names: Sequence[str], folders: Mapping[str, Path]) -> dict[int | str, str]:
    """Runs of one method in the order of their training seeds.

    What was not trained keeps its name in place of a seed.

    Raises:
        DataError: two runs have one seed.
    """
    found: dict[int | str, str] = {}
    for name in names:
        seed = seed_of(folders[name])
        key = name if seed is None else seed
        if key in found:
            raise DataError(
                f"{found[key]} and {name} have the same training seed, {seed}: a side takes each seed once"
            )
        found[key] = name
    if any(isinstance(key, str) for key in found):
        return {name: name for name in names}
    return dict(sorted(found.items()))  # type: ignore[arg-type]


def seed_of(folder: Path) -> int | None:
    """The training seed of a run; None where nothing was trained.

    Raises:
        DataError: its record is damaged.
    """
    return Execution.read(folder).seed if is_there(folder / EXECUTION) else None


def runs_of(name: str, output: Path) -> list[str]:
    """Runs that a name stands for: itself, or the trainings of a method with several seeds.

    What an execution trained, and as what, stands in its `experiment.json`.
    """
    for folder in (Path(name), output / name):
        if folder.is_dir():
            return [name]
        try:
            state = read_json(folder.parent / STATE, "runs")
        except DataError:
            continue
        found = [key for key, run in state["runs"].items() if run.get("repeats") == folder.name]
        if found:
            return [str(Path(name).with_name(one)) for one in found]
    return [name]


def score_table(fixed: Measured, trained: Mapping[str, Measured]) -> Table:
    """Scores in percent: of a method the mean over its seeds and the standard deviation between them."""
    count = len(next(iter(trained.values())))
    table = Table(
        title=f"Scores in %: models with 95 % intervals over problems; methods as mean ± standard "
        f"deviation over {count} trainings",
        **STYLE,
    )
    table.add_column("benchmark", no_wrap=True)
    for name in [*fixed, *trained]:
        table.add_column(name, justify="right", no_wrap=True)
    models = {name: summaries(samples) for name, samples in fixed.items()}
    methods = {
        name: [summaries(samples) for samples in runs.values()] for name, runs in trained.items()
    }
    shape = [rows for runs in methods.values() for rows in runs]
    names = [title(one) for one in shape[0]]
    for number, name in enumerate(names):
        one = shape[0][number]
        table.add_row(f"{BOLD}{name}{END} {DIM}n={one.problems}{END}")
        for label, pick in ((f"mean@{one.k}", _mean), (f"pass@{one.k}", _pass)):
            cells = [percent(pick(rows[number])) for rows in models.values()]
            cells += [_spread([pick(run[number]) for run in runs]) for runs in methods.values()]
            table.add_row(f"  {label}", *cells)
    return table


def _mean(summary: Any) -> Any:
    return summary.mean


def _pass(summary: Any) -> Any:
    return summary.pass_at[summary.k]


def _spread(estimates: Sequence[Any]) -> str:
    """Mean and standard deviation over seeds."""
    values = [one.value for one in estimates]
    if any(value is None for value in values):
        return "not all graded"
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def seed_table(name: str, found: Sequence[Any]) -> Table:
    """Differences of mean@k over pairs of runs that share their training seed."""
    table = Table(title=f"{name}: mean@{found[0].k}, in points", **STYLE)
    table.add_column("benchmark")
    for column in ("mean difference", "each seed", "p", "p (Holm)"):
        table.add_column(column, justify="right")
    for each in found:
        seeds = " ".join(f"{100 * x:+.1f}" for x in each.differences)
        table.add_row(each.benchmark, interval(each), seeds, f"{each.p:.4f}", f"{each.p_holm:.4f}")
    return table


def interval(difference: Any) -> str:
    """A mean difference over seeds with its interval and a mark that says whether it shows anything."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return comparison.marked(f"{value:+.1f} [{low:+.1f}, {high:+.1f}]", difference)


def span(names: Sequence[str]) -> str:
    """A side in a title: its run, or the first and the last of several."""
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"


def _listed(seeds: Sequence[object]) -> str:
    return ", ".join(map(str, seeds))
