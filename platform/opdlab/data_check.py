"""`opdlab data check`: are the benchmarks' data there, whole, those that are known, and gradable?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from rich import box
from rich.markup import escape
from rich.table import Table

from opdlab import plugins
from opdlab.errors import DataError, MissingDataError, OpdlabError
from opdlab.evaluator import DataReport, Evaluator
from opdlab.quiet import quieten
from opdlab.terminal import console, progress_bar

SHOWN = 3


@dataclass(frozen=True)
class Checked:
    """What the check of one benchmark found; `report` is None where its data could not be read.

    Attributes:
        right: problems whose own gold answer was judged correct, of `asked`.
        faults: a line for everything that is wrong.
        missing: whether there are no data at all, rather than wrong ones.
    """

    name: str
    report: DataReport | None
    right: int
    asked: int
    faults: tuple[str, ...]
    missing: bool = False


def check(names: Sequence[str], path: str | None) -> None:
    """Check benchmarks by type, all that have data by default, and print a table.

    Raises:
        SystemExit: 1 if one fails; one without data fails if it was named.
        PluginError: a type is not installed.
    """
    quieten()
    known = names or plugins.names(plugins.EVALUATORS)
    chosen = [(name, _make(name, path)) for name in known]
    chosen = [(name, one) for name, one in chosen if names or _reads_data(one)]
    found = []
    with progress_bar() as progress:
        task = progress.add_task("check", total=len(chosen))
        for name, evaluator in chosen:
            progress.update(task, description=f"check {name}")
            found.append(check_one(name, evaluator))
            progress.advance(task)
    console.print(table(found))
    for one in found:
        for fault in one.faults:
            console.print(f"[red]{escape(fault)}[/]", soft_wrap=True)
    if any(one.faults and (names or not one.missing) for one in found):
        raise SystemExit(1)


def _make(name: str, path: str | None) -> Evaluator:
    """The evaluator with its defaults, and the path where it takes one."""
    evaluator = plugins.load(plugins.EVALUATORS, name)()
    takes_path = any(field.name == "path" for field in fields(evaluator))
    return replace(evaluator, path=path) if path is not None and takes_path else evaluator


def _reads_data(evaluator: Evaluator) -> bool:
    return type(evaluator).data is not Evaluator.data


def check_one(name: str, evaluator: Evaluator) -> Checked:
    """Read, count, hash, and grade every problem's own gold answer."""
    try:
        report = evaluator.data()
        problems = evaluator.problems()
    except DataError as error:
        missing = isinstance(error, MissingDataError)
        return Checked(name, None, 0, 0, (str(error),), missing)
    if report is None:
        report = DataReport(name, "generated", len(problems), "", None, "generated")
    pairs = [(p, evaluator.right_answer(p)) for p in problems]
    asked = [(problem, answer) for problem, answer in pairs if answer is not None]
    try:
        evaluator.require_grader()
    except OpdlabError as error:
        return Checked(name, report, 0, 0, (f"{name}: its golds were not judged: {error}",))
    verdicts = evaluator.grade_all(asked)
    wrong = [
        f"{name}: problem {problem.id} judges its own gold {verdict.status} ({verdict.reason})"
        for (problem, _), verdict in zip(asked, verdicts, strict=True)
        if verdict.status != "correct"
    ]
    more = [f"{name}: and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return Checked(name, report, len(asked) - len(wrong), len(asked), (*wrong[:SHOWN], *more))


def table(found: Sequence[Checked]) -> Table:
    """One row a benchmark."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("benchmark", "problems", "hash", "gold judged right"):
        result.add_column(title, no_wrap=True)
    result.add_column("standing")
    for one in found:
        if one.report is None:
            standing = "[dim]no data[/]" if one.missing else "[red]refused[/]"
            result.add_row(one.name, "", "", "", standing)
            continue
        colour = "green" if one.right == one.asked else "red"
        graded = f"[{colour}]{one.right} of {one.asked}[/]" if one.asked else "[dim]not graded[/]"
        report = one.report
        result.add_row(
            one.name,
            str(report.count),
            report.content,
            graded,
            report.standing,
        )
    return result
