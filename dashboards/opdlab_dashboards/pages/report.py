"""`opdlab report`: one page on an experiment that says what was found and what was not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

import opdlab
from opdlab.console import BOLD, END, console
from opdlab.errors import DataError, writing_to
from opdlab.evaluation import export
from opdlab.files import natural, require_own_page, write_beside
from opdlab.tracking import flatten
from opdlab_dashboards.pages import page_files, tables
from opdlab_dashboards.pages.forest import APART, MOST, Line, Pairing, forest, points
from opdlab_dashboards.pages.report_tables import ENDS, PAGE, Told
from opdlab_dashboards.pages.swept_page import SweptPage, percent
from opdlab_dashboards.results import (
    AVERAGE,
    CURVES,
    REFERENCES,
    SAMPLES,
    SHARES,
    Board,
    Curve,
    Difference,
    Leaderboard,
    Measured,
    Row,
    Swept,
    build,
    fidelity_curves,
    find,
    interval,
    mlflow_copy,
    pairs,
    short,
    swept,
    training_curves,
    without_copies,
)

UNTOLD = ("name", "description", "seed", "output", "runs", "sweep", "kind")
"""Keys that differ between runs without being what is compared; seeds have a place of their own."""

CURVED = "curves"
"""Place of figures on the page."""
DRAWN = 8
"""Characters of a number that nobody has typed."""


def report(runs: Sequence[str], output: str, to: str) -> None:
    """Write the page, or its tables without the figures.

    Args:
        runs: folders of runs, or of whole executions with all their runs; also below `output`. The first
            run is what the others are set against; of a sweep the best trials are shown, the best first.
        output: a folder, or the address of an MLflow store, where runs are named as there.
        to: a file, whose ending says as what: a page, or LaTeX, Markdown, CSV or JSON.

    Raises:
        DataError: a folder holds nothing that was measured, or the runs were not measured in one way, or
            `to` is a file that opdlab did not write.
        TrackingError: the MLflow store does not answer.
    """
    ending = Path(to).suffix.lower()
    if ending in PAGE:
        require_own_page(Path(to))
    elif ending not in ENDS:
        raise DataError(
            f"a report is not written as {ending}: end its name in .html, {', '.join(ENDS)}"
        )
    with tempfile.TemporaryDirectory(prefix="opdlab-") as scratch:
        if "://" in output:
            mlflow_copy.copy(output, Path(scratch), below=runs)
            output, runs = scratch, [scratch]
        _report(runs, output, to)


def _report(runs: Sequence[str], output: str, to: str) -> None:
    found, sweeps = _gather(runs, Path(output))
    leaderboard = build(found)
    if len(leaderboard.boards) > 1:
        ways = "; ".join(
            f"{board.protocol[:8]}: {', '.join(row.name for row in board.rows)}"
            for board in leaderboard.boards
        )
        raise DataError(
            f"these runs were measured in different ways, which one report cannot compare: {ways}. "
            "Give runs of one protocol, or evaluate the others again"
        )
    (board,) = leaderboard.boards
    place = Path(to)
    alone = len(runs) == len(sweeps) == 1
    told = conclude(board, leaderboard, found, sweeps, alone)
    if place.suffix.lower() in ENDS:
        export(told, to)
        tables.tell_left_out(leaderboard)
        return
    with writing_to(place):
        text = page(told, leaderboard, sweeps)
        require_own_page(place)
        older = write_beside(place, text)
    tables.tell_left_out(leaderboard)
    console.print(f"Report: {BOLD}{place.absolute().as_uri()}{END}", soft_wrap=True)
    if older:
        console.print(f"The report that was there is kept as {older}", soft_wrap=True)


def _gather(runs: Sequence[str], output: Path) -> tuple[list[Measured], list[Swept]]:
    """What was measured in the folders, with the references beside a run, each once; and the sweeps."""
    found: list[Measured] = []
    sweeps: list[Swept] = []
    for name in runs:
        folder = _folder(name, output)
        inside = find(folder)
        if sweep := swept.read(folder, inside):
            sweeps.append(sweep)
            # A sweep that stands alone has a page of its own kind, with all of its trials.
            inside = sweep.kept(inside, swept.SHOWN if len(runs) > 1 else None)
        for one in inside:
            found += [one, *_beside(one)]
    return without_copies(found), sweeps


def _beside(run: Measured) -> list[Measured]:
    """The student before training and the teacher that a run's experiment measured."""
    if run.execution is None:
        return []
    group = run.execution.group
    near = find(run.folder.parent)
    return [one for one in near if one.role in REFERENCES and one.last.execution == group]


def _folder(name: str, output: Path) -> Path:
    for folder in (Path(name), output / name):
        if folder.is_dir():
            return folder
    runs = (str(path.parent.relative_to(output)) for path in output.glob(f"*/*/{SAMPLES}"))
    known = sorted(runs, key=natural)
    raise DataError(
        f"no run {name!r} here or below {output}"
        + (f"; there are {', '.join(known)}" if known else "")
    )


def conclude(
    board: Board,
    leaderboard: Leaderboard,
    order: Sequence[Measured],
    sweeps: Sequence[Swept],
    alone: bool,
) -> Told:
    """What is shown and what is not.

    Args:
        order: what was measured, as it was named.
        alone: whether the page is about one sweep and nothing else.
    """
    rows = _ordered(board, order)
    places = dict(zip((row.name for row in rows), _standings(board, rows), strict=True))
    sweep = SweptPage(sweeps[0], board, places) if alone else None
    if sweep and not sweep.here:
        sweep = None
    if sweep:
        # Scores by benchmark, settings and curves are those of the best trials.
        some = [sweep.rows[n] for n in sweep.here[: swept.SHOWN]]
        rows = [row for row in rows if row.role != "run" or row in some]
        apart = list(sweep.pairs_of(some))
        found, doubtful = sweep.shown(), chain(sweep.not_shown(), sweep.unfinished())
        claimed = [one for one in apart if one.a is sweep.student]
        measured = [row for row in rows if row in (sweep.student, some[0])]
    else:
        claimed = apart = pairings(rows)
        found, doubtful, measured = [], [], rows
    trained = [row for row in rows if row.role == "run"]
    return Told(
        title=tables.title(board),
        board=board,
        rows_shown=rows,
        standings=places,
        pairs=apart,
        found=[*(sentence(one) for one in claimed if one.headline and one.headline.shown), *found],
        open=[
            *(sentence(one) for one in claimed if one.headline and not one.headline.shown),
            *doubtful,
            *(each.caveat(None if sweep else swept.SHOWN) for each in sweeps),
            *caveats(measured, claimed, leaderboard.left_out),
        ],
        names=[row.name for row in trained],
        settings=differing(trained),
        sweep=sweep,
    )


def page(told: Told, leaderboard: Leaderboard, sweeps: Sequence[Swept]) -> str:
    """The page as one file, with all that it needs."""
    board, rows, sweep = told.board, told.rows_shown, told.sweep
    trained = [row for row in rows if row.role == "run"]
    runs = [row.runs[0] for row in trained or rows[:1]]
    drawn = list(figures(trained)) if not sweep else [*sweep.figures(), *figures(trained)]
    if not sweep and told.pairs:
        drawn.append(_forest(told.pairs, board.k))
    scripts = ["export.js", *(["trials.js"] if sweep else []), "report.js"]
    return page_files.template("report.html.j2").render(
        name=_joined([run.config.get("name", run.name) for run in runs[: 1 if sweep else None]]),
        question=_joined([run.config.get("description", "") for run in runs], " / "),
        until=leaderboard.until,
        version=opdlab.__version__,
        title=told.title,
        rows=rows,
        board=board,
        standings=told.standings,
        pairs=told.pairs,
        found=told.found,
        open=told.open,
        shares=[share for each in sweeps for share in each.shares],
        settings=told.settings,
        names=told.names,
        facts=_facts([run for row in trained for run in row.runs]),
        sweep=sweep,
        forest=any(one["place"] == APART for one in drawn),
        curves=any(one["place"] == CURVED for one in drawn),
        figures=page_files.visible(drawn),
        style=page_files.asset("style.css"),
        plotly=get_plotlyjs().replace("</script", "<\\/script"),
        scripts="\n".join(map(page_files.asset, scripts)),
        percent=percent,
        big=tables.big,
        seeds=tables.seeds,
        points=points,
        setting=setting,
        interval=interval,
        reading=tables.READING,
    )


def _joined(values: Sequence[Any], by: str = " and ") -> str:
    """Values that differ, each once."""
    return by.join(dict.fromkeys(text for text in (str(each).strip() for each in values) if text))


def _ordered(board: Board, order: Sequence[Measured]) -> list[Row]:
    """References first, then runs in the order in which they were given."""
    places = {one.ids: place for place, one in enumerate(order)}
    first = {row.name: min(places[run.ids] for run in row.runs) for row in board.rows}
    kinds = {"student": 0, "teacher": 1}
    return sorted(board.rows, key=lambda row: (kinds.get(row.role, 2), first[row.name]))


def _standings(board: Board, rows: Sequence[Row]) -> list[str]:
    main = board.standings.get(AVERAGE) or next(iter(board.standings.values()))
    places = {row.name: str(one or "?") for row, one in zip(board.rows, main, strict=True)}
    return [places[row.name] for row in rows]


def pairings(rows: Sequence[Row]) -> list[Pairing]:
    """Every run against its own student before training, then every other row against the first run.

    The page claims all of them, so they are corrected over all of them.
    """
    students = {row.runs[0].last.subject.model: row for row in rows if row.role == "student"}
    others = [row for row in rows if row.role not in REFERENCES]
    sides: list[tuple[Row, Row]] = []
    for row in others:
        execution = row.runs[0].execution
        student = students.get(execution.student_model) if execution else None
        if student is not None:
            sides.append((student, row))
    sides += [(others[0], row) for row in others[1:]]
    return [Pairing(a, b, found) for (a, b), found in zip(sides, pairs(sides), strict=True)]


def sentence(one: Pairing) -> str:
    """The difference of a pair in words, over problems and over training seeds."""
    d = one.headline
    assert d is not None
    way = "better" if d.value > 0 else "worse"
    over = f"over {len(one.a.cells)} benchmarks" if len(one.a.cells) > 1 else f"on {d.benchmark}"
    size = f"{points(d)} points of mean@k {over}, p = {d.p:.2g}"
    if not d.shown:
        return f"{one.b.name} and {one.a.name} are not told apart: {size}. {what_it_takes(d)}"
    words = f"{one.b.name} is {way} than {one.a.name} as they were trained: {size}."
    if d.seeds is not None and d.seeds.shown:
        low, high = 100 * d.seeds.low, 100 * d.seeds.high
        count = len(d.seeds.each)
        words += f" It holds over {count} training seeds, too: [{low:+.1f}, {high:+.1f}]."
    return f"{words} {on_single(one.differences)}".rstrip()


def on_single(differences: Sequence[Difference]) -> str:
    """Where the last difference, over all, shows on single benchmarks, and where its opposite does."""
    if len(differences) == 1:
        return ""
    *each, overall = differences
    shown = [d for d in each if d.shown]
    same = [_held(d) for d in shown if d.value * overall.value > 0]
    other = [_held(d) for d in shown if d.value * overall.value < 0]
    words = f"On single benchmarks it shows on {', '.join(same) or 'none of them'}"
    return f"{words}; the other way on {', '.join(other)}." if other else f"{words}."


def _held(d: Difference) -> str:
    """A benchmark's name, with a word where its difference does not hold over training seeds."""
    lucky = d.seeds is not None and not d.seeds.shown
    return f"{d.benchmark} (not over training seeds)" if lucky else d.benchmark


def what_it_takes(d: Difference) -> str:
    """How much more would find a difference of the size seen."""
    if d.smallest is None:
        why = "a single problem shows" if d.fewest < 2 else "problems that all differ alike show"
        return f"Which differences were to be found is not known: {why} no spread."
    found = (
        f"What was run finds differences of {100 * d.smallest:.1f} points or more in 80 % of cases"
    )
    if d.needed is None:
        return f"{found}; a difference this close to nothing would take endlessly many problems."
    each = "problems in each benchmark" if d.benchmark == AVERAGE else "problems"
    if d.needed <= d.fewest:
        # The size seen would be found with what there is; that it was not is the test's caution.
        return f"{found}; one of the size seen is at the edge of that, and a few more {each} may decide."
    return f"{found}; one of the size seen, if it is true, takes about {d.needed} {each}."


def caveats(
    rows: Sequence[Row], pairs: Sequence[Pairing], left_out: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """What the figures cannot say."""
    single = [row.name for row in rows if row.role == "run" and len(row.runs) == 1]
    if single:
        yield (
            f"{', '.join(single)}: one training seed. Nothing follows for another training of the same "
            "configuration; two seeds say something, five say how much they scatter."
        )
    for one in pairs:
        d = one.headline
        if d is not None and d.seeds is not None and not d.seeds.shown:
            more = f"about {d.seeds.needed} seeds" if d.seeds.needed else "endlessly many seeds"
            if not d.seeds.spread:
                more = "an unknown number of seeds, since these do not differ"
            spread = ", ".join(f"{100 * x:+.1f}" for x in d.seeds.each)
            yield (
                f"{one.b.name} against {one.a.name} over training seeds: {spread} points, interval "
                f"[{100 * d.seeds.low:+.1f}, {100 * d.seeds.high:+.1f}]. For new training runs no "
                f"difference is shown; one of this size takes {more}."
            )
    for row in rows:
        cut = row.average_of("truncated")
        if cut > 0.1:
            yield (
                f"{row.name}: {100 * cut:.0f} % of responses were cut at the length limit; its score "
                "speaks of that, too."
            )
        if faults := sum(cell.faults for cell in row.cells.values()):
            yield (
                f"{row.name}: {faults} samples have no verdict; before you conclude, run `opdlab regrade`, "
                "or the evaluation again where a server refused them."
            )
    yield from (f"Left out: {name}: {why}" for name, why in left_out)


def differing(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Keys of the configuration in which the runs differ, with the value of each; "–" for none."""
    flat = [
        dict(flatten({k: v for k, v in row.runs[0].config.items() if k not in UNTOLD}))
        for row in rows
    ]
    keys = dict.fromkeys(key for config in flat for key in config)
    found = ((key, [config.get(key, "–").replace("None", "–") for config in flat]) for key in keys)
    return [(key, values) for key, values in found if len(set(values)) > 1]


def setting(value: str) -> str:
    """A value of a configuration; a number that was drawn is not written with all of its digits."""
    try:
        return value if len(value) <= DRAWN else short(float(value))
    except ValueError:
        return value


def _facts(runs: Sequence[Measured]) -> list[tuple[str, str]]:
    """Models, code and machine: of each fact all values that the runs have."""
    found: dict[str, dict[str, None]] = {"student": {}, "teacher": {}, "code": {}, "machine": {}}
    for execution in filter(None, (run.execution for run in runs)):
        code, place = execution.code, execution.environment
        changed = " (changed)" if code.get("changed") else ""
        commit = str(code.get("commit") or "")[:10]
        values = {
            "student": _model(execution.student),
            "teacher": _model(execution.teacher),
            "code": f"{code.get('version', '')} {commit}{changed}".strip(),
            "machine": ", ".join(place.get("devices", [])) or str(place.get("system", "")),
        }
        for name, value in values.items():
            found[name][value] = None
    return [(name, "; ".join(filter(None, values))) for name, values in found.items() if values]


def _model(contents: Mapping[str, Any]) -> str:
    """A model's name, and the beginning of its weights' hash: a path may hold another one tomorrow."""
    return f"{contents.get('name')} ({str(contents.get('weights_sha256'))[:8]})"


def figures(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Traces and axis titles of every curve that there are data for."""
    training = [(row, training_curves([run.metrics for run in row.runs])) for row in rows]
    for metric, label in CURVES.items():
        lines = [
            _line(row.name, curves[metric], n)
            for n, (row, curves) in enumerate(training)
            if metric in curves
        ]
        if lines:
            yield {
                "place": CURVED,
                "title": label,
                "x": "step",
                "share": metric in SHARES,
                "traces": lines,
            }
    fidelity = [
        {
            **_line(f"{row.name}, {part}", curve, n),
            "mode": "lines+markers",
            "line": {"dash": "dot" if part == "first steps" else "solid"},
        }
        for n, row in enumerate(rows)
        for part, curve in fidelity_curves([run.metrics for run in row.runs]).items()
    ]
    if fidelity:
        yield {
            "place": CURVED,
            "title": "fidelity by position, in the first and the last tenth of training",
            "x": "position in the response, tokens",
            "traces": fidelity,
        }


def _forest(apart: Sequence[Pairing], k: str) -> dict[str, Any]:
    """All differences in one figure; of many those over all benchmarks."""
    title = f"Differences, points of mean@{k}"
    lines = []
    if sum(1 + len(one.differences) for one in apart) <= MOST:
        for one in apart:
            lines.append(Line(one.title))
            lines += [Line(d.benchmark, d) for d in one.differences]
        if len(apart) == 1:
            return forest(lines[1:], f"{lines[0].label}, points of mean@{k}")
        return forest(lines, title)
    told = [(one.title, one.headline) for one in apart if one.differences]
    return forest([Line(label, d) for label, d in told], title)


def _line(name: str, curve: Curve, n: int) -> dict[str, Any]:
    x, y = curve
    return {"name": name, "x": x, "y": y, "mode": "lines", "colour": n}
