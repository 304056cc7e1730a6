"""`opdlab data check`: are the benchmarks' data there, whole, those that are known, and gradable?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace

from rich import box
from rich.progress import Progress
from rich.table import Table

from opdlab import plugins
from opdlab.configuration import loader
from opdlab.console import DIM, END, GREEN, RED, YELLOW, console, progress_bar, quieten
from opdlab.errors import ConfigError, DataError, MissingDataError, OpdlabError
from opdlab.plugins import (
    RIGHT_TRIALS,
    WRONG_TRIALS,
    DataReport,
    Evaluator,
    Trial,
    posed,
    verdicts_on,
)
from opdlab.records import Verdict

SHOWN = 3


@dataclass(frozen=True)
class Checked:
    """What the check of one benchmark found; `report` is None where its data could not be read.

    Attributes:
        graded: for each kind of trial, how many got their verdict, and of how many.
        faults: a line for everything that is wrong.
        notes: a line for every fault of the data that is known, which fails no check.
        missing: whether there are no data at all, rather than wrong ones.
    """

    name: str
    report: DataReport | None
    graded: Mapping[str, tuple[int, int]]
    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing: bool = False


def check(
    names: Sequence[str], path: str | None, grade: bool = False, limit: int | None = None
) -> None:
    """Check benchmarks by type, all that have data by default, and print a table.

    Args:
        names: types, or experiment files for the benchmarks that they hold.
        grade: also grade completions that must be judged right or wrong, of every kind.
        limit: grade only the first so many problems.

    Raises:
        SystemExit: 1 if one fails; one without data fails if it was named.
        PluginError: a type is not installed.
    """
    quieten()
    chosen = [one for name in names for one in _named(name, path)] or _with_data(path)
    found = []
    with progress_bar() as progress:
        task = progress.add_task("check", total=len(chosen))
        for name, evaluator in chosen:
            progress.update(task, description=f"check {name}")
            found.append(check_one(name, evaluator, grade, limit, progress))
            progress.advance(task)
    console.print(table(found, RIGHT_TRIALS + WRONG_TRIALS if grade else ("reference",)))
    for one in found:
        for note in one.notes:
            console.print(f"{YELLOW}{note}{END}", soft_wrap=True)
        for fault in one.faults:
            console.print(f"{RED}{fault}{END}", soft_wrap=True)
    if any(one.faults and (names or not one.missing) for one in found):
        raise SystemExit(1)


def _named(name: str, path: str | None) -> list[tuple[str, Evaluator]]:
    """The benchmark of a type, or those of an experiment file."""
    if not name.endswith((".yaml", ".yml")):
        return [(name, _make(name, path))]
    found = loader.load_experiment(name).evaluation.benchmarks
    if not found:
        raise ConfigError(f"{name} has no evaluation.benchmarks")
    return [(one.benchmark, one) for one in found]


def _with_data(path: str | None) -> list[tuple[str, Evaluator]]:
    """The benchmarks that read data and need no options."""
    known = plugins.names(plugins.EVALUATORS)
    made = [(name, _make(name, path)) for name in known if not _required(name)]
    return [(name, one) for name, one in made if type(one).data is not Evaluator.data]


def _required(name: str) -> list[str]:
    """Options that have no default."""
    found = fields(plugins.load(plugins.EVALUATORS, name))
    return [f.name for f in found if f.default is MISSING and f.default_factory is MISSING]


def _make(name: str, path: str | None) -> Evaluator:
    """The evaluator with its defaults, and the path where it takes one."""
    if required := _required(name):
        raise ConfigError(
            f"{name} needs the options {', '.join(required)}: name the experiment file that has them, as "
            "`opdlab data check my.yaml` does"
        )
    evaluator = plugins.load(plugins.EVALUATORS, name)()
    takes_path = any(field.name == "path" for field in fields(evaluator))
    return replace(evaluator, path=path) if path is not None and takes_path else evaluator


def check_one(
    name: str, evaluator: Evaluator, grade: bool, limit: int | None, progress: Progress
) -> Checked:
    """Read, count, hash, and grade every problem's own reference answer, or all trials."""
    try:
        report = posed.data(evaluator)
        problems = posed.problems(evaluator)
    except DataError as error:
        missing = isinstance(error, MissingDataError)
        return Checked(name, None, {}, (str(error),), missing=missing)
    if report is None:
        report = DataReport(name, "generated", len(problems), "", None, "generated")
    faulty = {p.id: said for p in problems if (said := posed.known_fault(evaluator, p)) is not None}
    notes = tuple(f"{name}: problem {each}: known fault: {said}" for each, said in faulty.items())
    sound = [problem for problem in problems[:limit] if problem.id not in faulty]
    trials = [
        trial for trial in posed.trials(evaluator, sound) if grade or trial.kind == "reference"
    ]
    try:
        evaluator.require_grader()
    except OpdlabError as error:
        return Checked(name, report, {}, (f"{name}: its answers were not graded: {error}",), notes)
    verdicts = _graded(name, evaluator, trials, progress)
    judged = list(zip(trials, verdicts, strict=True))
    kinds = dict.fromkeys(trial.kind for trial in trials)
    graded = {
        kind: (
            sum(as_expected(trial, verdict) for trial, verdict in judged if trial.kind == kind),
            sum(trial.kind == kind for trial in trials),
        )
        for kind in kinds
    }
    faults = [line for kind in kinds for line in _faults(name, kind, judged)]
    return Checked(name, report, graded, tuple(faults), notes)


def _graded(
    name: str, evaluator: Evaluator, trials: Sequence[Trial], progress: Progress
) -> list[Verdict]:
    task = progress.add_task(f"grade {name}", total=len(trials))
    try:
        return verdicts_on(
            evaluator,
            [(trial.problem, trial.completion) for trial in trials],
            lambda done: progress.advance(task, done),
        )
    finally:
        progress.remove_task(task)


def as_expected(trial: Trial, verdict: Verdict) -> bool:
    """Whether a trial got its verdict; a fault of data or machine is never the one expected."""
    return verdict.status == "correct" if trial.right else verdict.status in REFUSED


REFUSED = ("wrong", "no_answer")


def _faults(name: str, kind: str, judged: Sequence[tuple[Trial, Verdict]]) -> list[str]:
    lines = [
        f"{name}: problem {trial.problem.id} judges {NAMES[kind]} {verdict.status}"
        + (f" ({verdict.reason})" if verdict.reason else "")
        + ("" if kind == "reference" else f": {trial.completion[-60:]!r}")
        for trial, verdict in judged
        if trial.kind == kind and not as_expected(trial, verdict)
    ]
    more = [f"{name}: and {len(lines) - SHOWN} more of this kind"] if len(lines) > SHOWN else []
    return lines[:SHOWN] + more


NAMES = {
    "reference": "its own reference answer",
    "solution": "its authors' solution",
    "rewritten": "its rewritten reference answer",
    "neighbour": "another problem's reference answer",
    "trivial": "a trivial answer",
}
TITLES = {
    "reference": "reference answers right",
    "solution": "solutions right",
    "rewritten": "rewritten right",
    "neighbour": "others' wrong",
    "trivial": "trivial wrong",
}


def table(found: Sequence[Checked], kinds: Sequence[str]) -> Table:
    """One row a benchmark, one column a kind of trial."""
    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("benchmark", "problems", "hash"):
        result.add_column(title, no_wrap=True)
    for kind in kinds:
        result.add_column(TITLES[kind])
    result.add_column("standing")
    for one in found:
        if one.report is None:
            standing = f"{DIM}no data{END}" if one.missing else f"{RED}refused{END}"
            result.add_row(one.name, "", "", *("" for _ in kinds), standing)
            continue
        cells = [_cell(one.graded.get(kind), bool(one.graded)) for kind in kinds]
        report = one.report
        result.add_row(one.name, str(report.count), report.content, *cells, report.standing)
    return result


def _cell(counted: tuple[int, int] | None, graded: bool) -> str:
    if counted is None:
        return f"{DIM}none{END}" if graded else f"{DIM}not graded{END}"
    right, asked = counted
    return f"{GREEN if right == asked else RED}{right} of {asked}{END}"
