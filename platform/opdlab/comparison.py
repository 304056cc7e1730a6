"""Runs side by side: scores with intervals, and paired differences that say what cannot be told apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from opdlab import disputes, plugins, store
from opdlab.errors import DataError
from opdlab.natural_order import natural
from opdlab.records import Sample, Verdict
from opdlab.store import SampleSet
from opdlab.terminal import console

LEVEL = 0.05
MOST_COLUMNS = 4
MANY_TRUNCATED = 0.1
"""Share of answers cut at the length limit that a score is not shown without."""
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
    many, and differences are taken seed by seed. Benchmarks that not all runs measured in one way are left
    out, and named.

    Raises:
        DataError: fewer than two sides, a run that is named twice or has no samples, or no benchmark that
            all measured in one way.
    """
    if len(runs) < 2:
        raise DataError(
            "compare needs two runs or more; the first is what the others are set against"
        )
    sides = [side.split(",") for side in runs]
    flat = [name for side in sides for name in side]
    if twice := [name for name, count in Counter(flat).items() if count > 1]:
        raise DataError(f"{twice[0]} is named twice: a run cannot be compared with itself")
    names = short_names(flat)
    sets = {short: last_sets(find_run(name, Path(output))) for name, short in names.items()}
    chosen, left_out = comparable(sets)
    measured = {
        name: [sample for one in own for sample in one.samples()] for name, own in chosen.items()
    }
    console.print(score_table(measured))
    remark([left_out, *remarks(measured)])
    if any(len(side) > 1 for side in sides):
        compare_seeds([[names[name] for name in side] for side in sides], measured)
        return
    first, *others = names.values()
    console.print(difference_table(measured, [(first, other) for other in others]))
    console.print(READING)


def comparable(
    sets: Mapping[str, Sequence[SampleSet]],
) -> tuple[dict[str, list[SampleSet]], str]:
    """Of each run, the benchmarks that all runs measured in one way; and in words, what is left out.

    Raises:
        DataError: there is none.
    """
    names = {run: {one.asked.benchmark: one for one in own} for run, own in sets.items()}
    kept, reasons = [], []
    for name in dict.fromkeys(name for own in names.values() for name in own):
        lacking = [run for run, own in names.items() if name not in own]
        if lacking:
            reasons.append(f"{name} (not measured by {', '.join(lacking)})")
            continue
        first, *others = (own[name].asked for own in names.values())
        odd = next(filter(None, map(first.differences, others)), "")
        if odd:
            reasons.append(f"{name} (measured in different ways: {odd})")
        else:
            kept.append(name)
    listed = "; ".join(reasons)
    if not kept:
        raise DataError(
            f"the runs have no benchmark that all measured in one way: {listed}. Evaluate one of them "
            "again as the other was; if only the grader differs, `opdlab regrade` is enough"
        )
    chosen = {run: [own[name] for name in kept] for run, own in names.items()}
    return chosen, f"Left out: {listed}." if listed else ""


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
    remark(remarks(measured))
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
    "pairs: they speak of new training runs on the same problems. p (Holm) is corrected over the "
    "benchmarks of a table, not over several tables.[/]"
)
READING = (
    "[dim]Paired by problem. ▲ higher, ▼ lower, both at p < 0.05 (sign-flip permutation, Holm-corrected "
    "over benchmarks); = no difference shown. In brackets the 95 % interval over problems. This speaks of "
    "these models: how far trainings with other seeds lie apart is not in it; compare several "
    "(`opdlab compare a-0,a-1,a-2 b-0,b-1,b-2`) before it is said of a method.[/]"
)


def find_run(name: str, output: Path) -> Path:
    """Folder of a run given as a path, or as a path below the output folder; its `samples` will do, too.

    Raises:
        DataError: there is no such folder; the message lists runs that exist.
    """
    for folder in (Path(name), output / name):
        if folder.name == "samples" and folder.is_dir():
            return folder.parent
        if (folder / "samples").is_dir():
            return folder
    runs = (str(path.parent.relative_to(output)) for path in output.glob("*/*/samples"))
    known = sorted(runs, key=natural)
    raise DataError(
        f"no run {name!r} with samples here or below {output}"
        + (f"; there are {', '.join(known)}" if known else "")
    )


def read_run(folder: Path) -> list[Sample]:
    """The samples of a run's last evaluation."""
    return [sample for one in last_sets(folder) for sample in one.samples()]


def last_sets(folder: Path) -> list[SampleSet]:
    """A run's last evaluation, by benchmark; one in the midst of training only where there is no other."""
    sets = store.sample_sets(folder / "samples")
    return [one for one in sets if "@" not in one.checkpoint] or sets


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
        rows = by_title(found)
        table.add_column(f"mean@{rows[0][0].k}")
        for row in rows:
            table.add_column(f"{title(row[0])} n={row[0].problems}", justify="right")
        for name, column in zip(found, zip(*rows, strict=True), strict=True):
            table.add_row(name, *(percent(s.mean) for s in column))
        return table
    table.add_column("benchmark", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    for row in by_title(found):
        name, k, problems = title(row[0]), row[0].k, {s.problems for s in row}
        count = "/".join(map(str, sorted(problems)))
        table.add_row(f"[bold]{name}[/] [dim]n={count}[/]")
        table.add_row(f"  mean@{k}", *(percent(s.mean) for s in row))
        table.add_row(f"  pass@{k}", *(percent(s.pass_at[k]) for s in row))
    return table


def own_table(label: str, samples: Sequence[Sample]) -> Table:
    """All scores of one model, a row a benchmark, with what they are to be read beside."""
    found = summaries(samples)
    k = found[0].k
    table = Table(title=f"{label}: scores in %, with 95 % intervals over problems", **STYLE)
    table.add_column("benchmark", overflow="fold", min_width=16)
    for name in ("n", f"mean@{k}", f"pass@{k}", f"maj@{k}", "cut", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        cells = [f"{one.problems:,}", percent(one.mean), percent(one.pass_at[k])]
        cells.append("" if one.maj is None else percent(one.maj).partition(" [")[0])
        if one is not found[-1] or len(found) == 1:
            cells += [f"{100 * one.truncated_share:.0f}", f"{one.mean_tokens:,.0f}"]
        table.add_row(f"[bold]{escape(title(one))}[/]", *cells)
    return table


def remarks(measured: Mapping[str, Sequence[Sample]]) -> Iterator[str]:
    """What the scores must be read with: verdicts that failed, and answers cut at the length limit."""
    for run, samples in measured.items():
        found = plugins.load(plugins.STATISTICS, "scores")(samples)
        for one in found:
            failed = {s: n for s, n in one.verdicts.items() if s in Verdict.FAULTS and n}
            if failed:
                listed = ", ".join(f"{count} {status}" for status, count in failed.items())
                yield (
                    f"{run} on {one.benchmark}: {sum(failed.values())} of {one.samples} answers could not "
                    f"be judged ({listed}), so only bounds are known. `opdlab regrade` tries again."
                )
        cut = [s for s in found if s.truncated_share >= MANY_TRUNCATED]
        if cut:
            shares = ", ".join(f"{100 * s.truncated_share:.0f} % on {s.benchmark}" for s in cut)
            yield f"{run}: answers cut at the length limit: {shares}."


def remark(lines: Iterable[str]) -> None:
    """Print what is not to be overlooked."""
    for line in filter(None, lines):
        console.print(f"[yellow]{escape(line)}[/]")


def by_title(found: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    """One row a benchmark with the summary of every run, in the first run's order.

    Raises:
        DataError: the runs were not measured on the same benchmarks.
    """
    named = [{title(summary): summary for summary in row} for row in found.values()]
    if any(one.keys() != named[0].keys() for one in named):
        listed = "; ".join(
            f"{run}: {', '.join(one)}" for run, one in zip(found, named, strict=True)
        )
        raise DataError(f"the runs were measured on different benchmarks ({listed})")
    return [tuple(one[name] for one in named) for name in named[0]]


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
    for column in ("mean difference", "each seed", "p", "p (Holm)"):
        table.add_column(column, justify="right")
    for each in found:
        value, low, high = (100 * x for x in (each.value, each.low, each.high))
        seeds = " ".join(f"{100 * x:+.1f}" for x in each.differences)
        interval = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
        table.add_row(each.benchmark, interval, seeds, f"{each.p:.4f}", f"{each.p_holm:.4f}")
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
