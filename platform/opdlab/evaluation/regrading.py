"""`opdlab regrade`: stored completions judged by the grader installed now, and what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.table import Table

from opdlab import plugins
from opdlab.console import BOLD, DIM, END, StopRequest, console, progress_bar
from opdlab.errors import DataError
from opdlab.evaluation import store
from opdlab.evaluation.comparison import find_run, remark, unknown_trainings
from opdlab.evaluation.measured import grade_missing
from opdlab.evaluation.store import Key, SampleSet
from opdlab.plugins import Evaluator, posed
from opdlab.records import Grade

SHOWN, WIDTH = 20, 60
"""Rows of each set, and characters of each answer or reason, that are printed."""


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
        Stopped: a signal came; run the same command again to continue.
    """
    folder = find_run(run, Path(output))
    remark(unknown_trainings([folder]))
    sets = store.sample_sets(folder / "samples")
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
    for one in found:
        if one.changed:
            console.print(changes(one))
    if any(one.changed for one in found):
        console.print(f"Whole answers: {BOLD}opdlab samples {folder!s}{END}", soft_wrap=True)
    if all(one.after == one.before for one in found):
        console.print(
            f"{DIM}The graders are those that judged before: only their own faults were judged again.{END}"
        )


def evaluator_of(kept: SampleSet) -> Evaluator:
    """The benchmark that the samples answer, with the options it had.

    Raises:
        DataError: its problems are others now.
    """
    evaluator = plugins.made(plugins.EVALUATORS, kept.asked.evaluator)
    if store.data_hash(posed.problems(evaluator)) != kept.asked.data:
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
    store.ask(kept.folder, replace(kept.asked, grader=after))
    changed = {
        key: (old[key], new[key])
        for key in sorted(new)
        if key in old and (old[key].status, old[key].answer) != (new[key].status, new[key].answer)
    }
    return Regraded(kept.checkpoint, kept.asked.benchmark, before, after, changed, len(new))


def table(found: Sequence[Regraded]) -> Table:
    """One row a set: graders, and how many verdicts changed which way."""
    several = len({one.checkpoint for one in found}) > 1
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("benchmark", "grader before", "grader now", "verdicts changed"):
        result.add_column(title, overflow="fold")
    for one in found:
        turned = [(a.status, b.status) for a, b in one.changed.values() if a.status != b.status]
        ways = Counter(f"{a} to {b}" for a, b in turned)
        others = len(one.changed) - len(turned)
        listed = "".join(f"\n{count} {way}" for way, count in ways.most_common())
        listed += f"\n{others} with another answer" if others else ""
        name = f"{one.checkpoint} on {one.benchmark}" if several else one.benchmark
        now = "the same" if one.after == one.before else one.after
        result.add_row(name, one.before, now, f"{len(turned)} of {one.total}{listed}")
    return result


def changes(one: Regraded) -> Table:
    """The samples of a set whose verdict changed, the first of them."""
    title = f"{one.checkpoint} on {one.benchmark}: what changed"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("problem", "sample", "verdict", "answer", "reason"):
        result.add_column(name, overflow="fold")
    for (problem, index), (old, new) in list(one.changed.items())[:SHOWN]:
        same = old.status == new.status
        verdict = f"still {new.status}" if same else f"{old.status} to {new.status}"
        cells = (problem, str(index), verdict, brief(old.answer, new.answer), cut(new.reason))
        result.add_row(*cells)
    if len(one.changed) > SHOWN:
        result.add_row(f"and {len(one.changed) - SHOWN} more")
    return result


def brief(old: str | None, new: str | None) -> str:
    """An answer in one line; of a program the first line that another grader took otherwise."""
    if new is None:
        return "nothing"
    lines, before = new.strip().splitlines() or [""], (old or "").strip().splitlines()
    if len(lines) > 1:
        place = next((i for i, line in enumerate(lines) if line not in before[i : i + 1]), 0)
        return f"line {place + 1} of {len(lines)}: {cut(lines[place])}"
    if old in (None, new):
        return cut(new)
    return f"{cut(new)} (before: {f'{len(before)} lines' if len(before) > 1 else cut(old or '')})"


def cut(text: str) -> str:
    """The first line of a text, and no more of it than a table can show."""
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 2]} \u2026"
