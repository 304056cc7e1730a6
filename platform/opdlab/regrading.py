"""`opdlab regrade`: stored completions judged by the grader installed now, and what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from opdlab import plugins, store
from opdlab.comparison import find_run
from opdlab.errors import DataError
from opdlab.evaluation import grade_missing
from opdlab.evaluator import Evaluator
from opdlab.interrupt import StopRequest
from opdlab.records import Grade
from opdlab.store import Key, SampleSet
from opdlab.terminal import console, progress_bar

SHOWN = 20


@dataclass(frozen=True)
class Regraded:
    """The verdicts on one checkpoint and benchmark before and after.

    Attributes:
        changed: (before, after) of every completion whose status or answer changed.
        total: completions graded.
    """

    checkpoint: str
    benchmark: str
    before: str
    after: str
    changed: Mapping[Key, tuple[Grade, Grade]]
    total: int


def regrade(run: str, output: str) -> None:
    """Grade a run's samples again and print the verdicts that changed.

    Completions stay as they are; the new grades stand beside the old ones, and count from now on.

    Raises:
        DataError: no such run, or the problems are no longer those that were asked.
        PluginError: a benchmark is no longer installed.
    """
    sets = store.sample_sets(find_run(run, Path(output)) / "samples")
    found = []
    with StopRequest() as stop, progress_bar() as progress:
        for kept in sets:
            label = f"grade {kept.checkpoint} on {kept.asked.benchmark}"
            task = progress.add_task(label, total=len(kept.generations()))

            def graded(rows: int, task=task) -> None:
                progress.advance(task, rows)
                stop.check()

            found.append(regrade_set(kept, evaluator_of(kept), graded))
    console.print(table(found))
    console.print(changes(found))


def evaluator_of(kept: SampleSet) -> Evaluator:
    """The benchmark that the samples answer, with the options it had.

    Raises:
        DataError: its problems are others now.
    """
    options = dict(kept.asked.evaluator)
    name = options.pop("type")
    evaluator = plugins.load(plugins.EVALUATORS, name)(**options)
    if store.data_hash(evaluator.problems()) != kept.asked.data:
        raise DataError(
            f"the problems of {kept.asked.benchmark} are no longer those that {kept.checkpoint} was "
            f"asked ({kept.path}): take the data of that time, or evaluate again"
        )
    return evaluator


def regrade_set(kept: SampleSet, evaluator: Evaluator, on_graded=None) -> Regraded:
    """Add the grades of the installed grader to one set, and let them count."""
    before, after = kept.asked.grader, evaluator.grader_version
    old = kept.grades(before)
    grade_missing(kept, evaluator, on_graded)
    new = kept.grades(after)
    latest = SampleSet(kept.path.parents[2], kept.checkpoint, replace(kept.asked, grader=after))
    latest.ask()
    changed = {
        key: (old[key], new[key])
        for key in sorted(new)
        if key in old and (old[key].status, old[key].answer) != (new[key].status, new[key].answer)
    }
    return Regraded(kept.checkpoint, kept.asked.benchmark, before, after, changed, len(new))


def table(found: Sequence[Regraded]) -> Table:
    """One row a set: graders, and how many verdicts changed which way."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("checkpoint", "benchmark", "grader before", "now", "changed"):
        result.add_column(title)
    for one in found:
        ways = Counter(f"{a.status} to {b.status}" for a, b in one.changed.values())
        listed = "".join(f"\n{count} {way}" for way, count in ways.most_common())
        result.add_row(
            one.checkpoint,
            one.benchmark,
            one.before,
            "the same" if one.after == one.before else one.after,
            f"{len(one.changed)} of {one.total}{listed}",
        )
    return result


def changes(found: Sequence[Regraded]) -> Table:
    """The samples whose verdict changed, the first of each set."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("benchmark", "problem", "sample", "answer", "before", "now", "reason"):
        result.add_column(title)
    for one in found:
        for (problem, index), (old, new) in list(one.changed.items())[:SHOWN]:
            cells = (new.answer or "", old.status, new.status, new.reason)
            result.add_row(one.benchmark, problem, str(index), *map(escape, cells))
        if len(one.changed) > SHOWN:
            result.add_row(one.benchmark, f"and {len(one.changed) - SHOWN} more")
    return result
