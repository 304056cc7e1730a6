"""Runs side by side: scores with intervals, and paired differences that say what cannot be told apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from opdlab import plugins
from opdlab.console import BOLD, DIM, END, GREEN, RED, YELLOW, console
from opdlab.errors import DataError
from opdlab.evaluation import disputes, store
from opdlab.evaluation.store import SampleSet
from opdlab.files import natural, write_whole
from opdlab.identity import Execution
from opdlab.records import JUDGED, Sample, Verdict

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


def report(folders: Mapping[str, Path], pairs: Sequence[tuple[str, str]], place: Path) -> None:
    """Print scores and differences of an experiment's runs and keep them as `results.json`."""
    measured = {name: read_run(folder) for name, folder in folders.items()}
    console.print(score_table(measured))
    remark(remarks(measured))
    apart = all_differences(measured, pairs)
    if pairs:
        console.print(difference_table(apart))
        console.print(READING)
    found = [asdict(d) for each in apart.values() for d in each]
    keep(measured, {"differences": found}, place)


def keep(measured: Mapping[str, Sequence[Sample]], found: Mapping[str, Any], place: Path) -> None:
    """Show what graders disagreed on, and write scores and what was found of them as `results.json`."""
    for name, samples in measured.items():
        for line in disputes.told(name, samples):
            console.print(line)
    scores = [asdict(s) for samples in measured.values() for s in summaries(samples)]
    content = {"scores": scores, **found}
    write_whole(place / RESULTS, json.dumps(content, indent=1) + "\n")


READING = (
    f"{DIM}Paired by problem. ▲ higher, ▼ lower, both at p < 0.05 (sign-flip permutation, Holm-corrected "
    "over all differences of the table, those over all benchmarks with half of the weight); = no "
    "difference shown. In brackets the 95 % interval over problems. ▲ and ▼ are about these trained "
    "models, not about their methods: another training seed may give another result. Train with "
    f"`--seeds 5` before you claim that a method is better.{END}"
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
    """A run's last evaluation, by benchmark; one in the midst of training only where there is no other.

    Where several models were measured into one folder, it is the one that was measured last.
    """
    sets = store.sample_sets(folder / "samples")
    finals = [one for one in sets if one.asked.step is None] or sets
    last = finals[-1].asked
    return [one for one in finals if one.asked.subject.key == last.subject.key or last.execution]


def unanswered(folder: Path) -> bool:
    """Whether a server refused some samples of a run's last evaluation, and was not asked again since."""
    if not store.holds_samples(folder / "samples"):
        return False
    sets = last_sets(folder)
    return any(row.index < one.asked.samples for one in sets for row in one.refusals().values())


def unknown_trainings(folders: Iterable[Path]) -> Iterator[str]:
    """Of which runs nobody can say how they were trained, in words; their scores are read all the same."""
    for folder in folders:
        last = last_sets(folder)[-1].asked
        try:
            if last.role == "run":
                Execution.behind(folder, last.execution)
        except DataError as error:
            yield f"{error}. Its scores are shown; `leaderboard` and `report` leave it out."


def summaries(samples: Sequence[Sample]) -> list[Any]:
    """Scores a benchmark, then over all where there are several; a model's opinions are in no average."""
    each = plugins.load(plugins.STATISTICS, "scores")(samples)
    exact = [one for one in each if not one.grader.startswith(JUDGED)]
    over_all = plugins.load(plugins.STATISTICS, "average")(exact) if len(exact) > 1 else []
    return [*each, *over_all]


def all_differences(
    measured: Mapping[str, Sequence[Sample]], pairs: Sequence[tuple[str, str]]
) -> dict[str, list[Any]]:
    """b against a of every pair, by problem; corrected over all of them, as they are claimed together."""
    paired = plugins.load(plugins.STATISTICS, "paired")
    found = [paired(measured[a], measured[b]) for a, b in pairs]
    together = plugins.load(plugins.STATISTICS, "together")(found)
    return {f"{b} - {a}": each for (a, b), each in zip(pairs, together, strict=True)}


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
        table.add_row(f"{BOLD}{name}{END} {DIM}n={count}{END}")
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
        if hasattr(one, "benchmark"):
            cells += [f"{100 * one.truncated_share:.0f}", f"{one.mean_tokens:,.0f}"]
        table.add_row(f"{BOLD}{title(one)}{END}", *cells)
    return table


def remarks(measured: Mapping[str, Sequence[Sample]]) -> Iterator[str]:
    """What the scores must be read with: verdicts that failed, and answers cut at the length limit."""
    for run, samples in measured.items():
        found = plugins.load(plugins.STATISTICS, "scores")(samples)
        for one in found:
            yield from _faults(run, one)
        cut = [s for s in found if s.truncated_share >= MANY_TRUNCATED]
        if cut:
            shares = ", ".join(f"{100 * s.truncated_share:.0f} % on {s.benchmark}" for s in cut)
            yield f"{run}: answers cut at the length limit: {shares}."


def _faults(run: str, one: Any) -> Iterator[str]:
    """What has no verdict, and what gives it one."""
    failed = {s: n for s, n in one.verdicts.items() if s in Verdict.FAULTS and n}
    refused = failed.pop("server_error", 0)
    if failed:
        listed = ", ".join(f"{count} {status}" for status, count in failed.items())
        yield (
            f"{run} on {one.benchmark}: {sum(failed.values())} of {one.samples} answers could not "
            f"be judged ({listed}), so only bounds are known. `opdlab regrade` tries again."
        )
    if refused:
        yield (
            f"{run} on {one.benchmark}: {refused} of {one.samples} answers are missing, for the server "
            "refused them (server_error), so only bounds are known. `opdlab samples` shows why; the "
            "command that measured it (train: with --resume) asks for them again."
        )


def remark(lines: Iterable[str]) -> None:
    """Print what is not to be overlooked."""
    for line in filter(None, lines):
        console.print(f"{YELLOW}{line}{END}")


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


def difference_table(found: Mapping[str, Sequence[Any]]) -> Table:
    """Differences of mean@k in percentage points, and which side is ahead; see `all_differences`.

    One column a pair; of many pairs one row each.
    """
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
        table.add_row(f"{BOLD}{row[0].benchmark}{END}", *(points(each.mean) for each in row))
    return table


def points(difference: Any) -> str:
    """A paired difference with its interval and a mark that says whether it shows anything."""
    if difference.value is None:
        return f"{100 * difference.worst:+.0f} to {100 * difference.best:+.0f}?"
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return marked(f"{value:+.1f} [{low:+.0f}, {high:+.0f}]", difference)


def marked(text: str, difference: Any) -> str:
    """A text on a difference with a mark that says whether it shows anything."""
    if difference.p_holm >= LEVEL:
        return f"{DIM}{text} ={END}"
    return f"{GREEN}{text} ▲{END}" if difference.value > 0 else f"{RED}{text} ▼{END}"


def phase_table(seconds: Mapping[str, float]) -> Table:
    """Wall time of each phase of an experiment."""
    table = Table(title="Wall time", **STYLE)
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}")
    table.add_row(f"{BOLD}total{END}", f"{BOLD}{sum(seconds.values()):.1f}{END}")
    return table
