"""The leaderboard as a folder of static files: opened from disk or put on any web server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from scipy import stats

import opdlab
from opdlab.console import shown
from opdlab.records import Sample
from opdlab_dashboards.pages.tables import READING, title
from opdlab_dashboards.results import (
    AVERAGE,
    CURVES,
    SHARES,
    Board,
    Cell,
    Curve,
    Leaderboard,
    Row,
    Score,
    fidelity_curves,
    in_short,
    published,
    training_curves,
    varied,
)
from opdlab_evaluators.statistics import Standing

ASSETS = ("style.css", "board.js", "export.js", "figures.js", "cell.js")
TEXT_LIMIT = 4000
"""Characters of a completion on a page; of longer ones the beginning and the end."""
DIGITS = 5


Content = dict[str, Callable[[], str]]
"""What makes the text of each file, by its name below the leaderboard's folder."""
PAGE = "index.html"


def site(leaderboard: Leaderboard) -> Content:
    """The page, what it needs, and the samples behind every cell."""
    found = page(leaderboard)
    for number, board in enumerate(leaderboard.boards):
        for i, row in enumerate(board.rows):
            for j, cell in enumerate(row.cells.values()):
                key = f"cell/{number}/{i}/{j}"
                found[f"data/{number}/{i}-{j}.js"] = partial(_cell, key, cell)
    return found


def page(leaderboard: Leaderboard) -> Content:
    """The page with its assets and figures, without samples."""
    found: Content = {f"assets/{name}": partial(asset, name) for name in ASSETS}
    found["assets/plotly.js"] = lambda: f'{get_plotlyjs()}\nopdlab.take("plotly",true);\n'
    for number, board in enumerate(leaderboard.boards):
        folder = f"data/{number}"
        found[f"{folder}/problems.js"] = partial(_data, f"problems/{number}", _vectors, board)
        found[f"{folder}/curves.js"] = partial(_data, f"curves/{number}", _curves, board)
    found[PAGE] = lambda: template("index.html.j2").render(
        data=visible(content(leaderboard)), reading=READING, version=opdlab.__version__
    )
    return found


def asset(name: str) -> str:
    """A file of the page's folder in the package."""
    return (files("opdlab_dashboards") / "page" / name).read_text()


def template(name: str) -> jinja2.Template:
    """A template of the page's folder; everything that is put into it is escaped.

    Marks in names that turn the direction of what follows are shown as symbols.
    """
    loader = jinja2.PackageLoader("opdlab_dashboards", "page")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _visible(value: Any) -> Any:
    """What a template shows; what is safe was made here."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def visible(value: Any) -> str:
    """As `embedded`, with marks in names shown as symbols."""
    return shown(embedded(value)).replace("<", "\\u003c")


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _script(key: str, value: Any) -> str:
    """Data as a script: a page opened from disk may load scripts, and nothing else."""
    return f"opdlab.take({json.dumps(key)},{embedded(value)});\n"


def _data(key: str, of: Callable[[Board], Any], board: Board) -> str:
    return _script(key, of(board))


def _cell(key: str, cell: Cell) -> str:
    return _script(key, cell_content(cell))


def content(leaderboard: Leaderboard) -> dict[str, Any]:
    """All that the first view needs."""
    return {
        "until": leaderboard.until,
        "boards": [_board(board) for board in leaderboard.boards],
        "leftOut": leaderboard.left_out,
        "curveNames": CURVES,
        "shares": SHARES,
        "published": [
            {
                "source": one.source,
                "model": one.model,
                "setting": one.setting,
                "benchmark": one.benchmark,
                "k": one.k,
                "problems": one.problems,
                "mean": one.mean,
                "pass": one.passed,
                "impossible": one.impossible,
            }
            for one in published.read()
        ],
    }


def _board(board: Board) -> dict[str, Any]:
    pins = pinned(board)
    return {
        "protocol": board.protocol,
        "title": title(board),
        "k": board.k,
        "benchmarks": [_benchmark(cell) for cell in board.cells.values()],
        "rows": [
            {**_row(row, pins.get(i)), "varied": in_short(settings)}
            for i, (row, settings) in enumerate(zip(board.rows, varied(board.rows), strict=True))
        ],
        "standings": {
            "average" if name == AVERAGE else str(list(board.cells).index(name)): [
                _standing(one) for one in standings
            ]
            for name, standings in board.standings.items()
        },
    }


def pinned(board: Board) -> dict[int, str]:
    """Rows that stay in view: student before, teacher, the best run of OPD, the best public model."""
    wanted: dict[str, Callable[[Row], bool]] = {
        "student before": lambda row: row.role == "student",
        "teacher": lambda row: row.role == "teacher",
        "best OPD": lambda row: row.method == "opd",
        "best public": lambda row: row.public,
    }
    found = {}
    for label, is_one in wanted.items():
        places = [i for i, row in enumerate(board.rows) if is_one(row)]
        if places:
            found[places[0]] = label
    return found


def _benchmark(cell: Cell) -> dict[str, Any]:
    asked, n = cell.asked, len(cell.problems)
    return {
        "name": cell.benchmark,
        "protocol": cell.protocol,
        "n": n,
        "k": cell.k,
        "t": round(float(stats.t.isf(0.025, max(n - 1, 1))), DIGITS),
        "grader": asked.grader,
        "template": asked.template,
        "sampling": f"temperature {asked.temperature:g}, top-p {asked.top_p:g}, at most "
        f"{asked.max_new_tokens} tokens",
    }


def _row(row: Row, pin: str | None) -> dict[str, Any]:
    return {
        "name": row.name,
        "role": row.role,
        "method": row.method,
        "pin": pin,
        "source": row.runs[0].source,
        "seeds": [run.seed for run in row.runs],
        "places": [run.name for run in row.runs],
        "settings": _settings(row),
        "mean": _score(row.mean),
        "pass": _score(row.pass_at),
        "tokens": _short(row.average_of("tokens")),
        "truncated": _short(row.average_of("truncated")),
        "teacherTokens": _short(row.teacher_tokens),
        "seconds": _short(row.seconds),
        "cells": [
            {
                "mean": _score(cell.mean),
                "pass": _score(cell.pass_at),
                "tokens": _short(cell.tokens),
                "truncated": _short(cell.truncated),
                "samples": cell.samples,
                "faults": cell.faults,
                "seeds": [_score(one) for one in cell.each_seed],
            }
            for cell in row.cells.values()
        ],
    }


def _settings(row: Row) -> dict[str, Any]:
    """What a run trained with, as far as it fits in a few lines."""
    config = row.runs[0].config
    if row.role != "run":
        return {}
    training = config.get("training", {})
    return {
        **{k: v for k, v in config.get("method", {}).items() if v is not None},
        **{k: training[k] for k in ("steps", "prompts_per_step", "learning_rate") if k in training},
    }


def _standing(standing: Standing | None) -> list[Any] | None:
    if standing is None:
        return None
    return [standing.first, standing.last, sorted(standing.better), sorted(standing.worse)]


def _score(score: Score) -> list[float | None]:
    values = (score.value, score.low, score.high, score.worst, score.best)
    return [_short(value) for value in values]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _vectors(board: Board) -> list[list[list[float | None]]]:
    """mean@k of every problem, by row and benchmark: what paired differences are made of."""
    return [
        [[_short(float(x)) for x in cell.correct] for cell in row.cells.values()]
        for row in board.rows
    ]


def _curves(board: Board) -> list[dict[str, Any]]:
    """Curves of training and of fidelity, by row."""
    return [
        {name: _lines(curves([run.metrics for run in row.runs])) for name, curves in KINDS.items()}
        for row in board.rows
    ]


KINDS: dict[str, Callable[[Sequence[list[dict[str, float]]]], dict[str, Curve]]] = {
    "training": training_curves,
    "fidelity": fidelity_curves,
}


def _lines(curves: dict[str, Curve]) -> dict[str, Curve]:
    return {name: [[_short(x) for x in axis] for axis in curve] for name, curve in curves.items()}


def cell_content(cell: Cell) -> list[dict[str, Any]]:
    """The problems of a cell with every sample of every seed."""
    problems: dict[str, dict[str, Any]] = {}
    for run in cell.measured:
        for one in run.sets:
            if one.asked.benchmark == cell.benchmark:
                for sample in one.samples():
                    problem = problems.setdefault(
                        sample.problem,
                        {"id": sample.problem, "prompt": shortened(sample.prompt), "samples": []},
                    )
                    problem["samples"].append(_sample(run.seed, sample))
    return list(problems.values())


def _sample(seed: int, sample: Sample) -> list[Any]:
    return [
        seed,
        sample.index,
        sample.status,
        sample.answer,
        sample.tokens,
        sample.stop,
        sample.reason,
        shortened(sample.completion),
    ]


def shortened(text: str) -> str:
    """The beginning and the end of a long text, with how much is missing between."""
    left_out = len(text) - TEXT_LIMIT
    if left_out <= 0:
        return text
    head, tail = TEXT_LIMIT // 4, TEXT_LIMIT - TEXT_LIMIT // 4
    return f"{text[:head]}\n\n[… {left_out} characters …]\n\n{text[-tail:]}"
