"""The leaderboard as plain values: one record a row and benchmark, for JSON, CSV and whoever reads them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from opdlab_dashboards.results.board import AVERAGE, Board, Leaderboard
from opdlab_dashboards.results.rows import Row, Score
from opdlab_dashboards.results.settings import varied


def records(leaderboard: Leaderboard) -> Iterator[dict[str, Any]]:
    """Records; scores between 0 and 1, lists joined by spaces in CSV.

    `settings` are those in which a row differs from others of its experiment, in CSV one column each.
    `rank_first` and `rank_last` are the places that a paired test does not rule out; None where a sample
    could not be graded, as the score and its interval are then. `places` says where runs were measured,
    below the output folder of that time, and `measurements` has the ids in `samples/measurements.jsonl`:
    both are the same for copies, wherever those lie.
    """
    for board in leaderboard.boards:
        for place, (row, settings) in enumerate(zip(board.rows, varied(board.rows), strict=True)):
            for name in board.standings:
                yield {**_record(board, place, row, name), "settings": settings}


def _record(board: Board, place: int, row: Row, name: str) -> dict[str, Any]:
    standing = board.standings[name][place]
    cells = list(row.cells.values()) if name == AVERAGE else [row.cells[name]]
    mean, passed = (row.mean, row.pass_at) if name == AVERAGE else (cells[0].mean, cells[0].pass_at)
    return {
        "protocol": board.protocol if name == AVERAGE else cells[0].protocol,
        "model": row.name,
        "role": row.role,
        "method": row.method,
        "source": row.runs[0].source,
        "seeds": [run.seed for run in row.runs] if row.role == "run" else [],
        "benchmark": name,
        "rank_first": standing.first if standing else None,
        "rank_last": standing.last if standing else None,
        "problems": sum(len(cell.problems) for cell in cells),
        "k": min(cell.k for cell in cells),
        "samples": sum(cell.samples for cell in cells),
        "not_graded": sum(cell.faults for cell in cells),
        **_score("mean_at_k", mean),
        **_score("pass_at_k", passed),
        "truncated_share": sum(cell.truncated for cell in cells) / len(cells),
        "mean_tokens": sum(cell.tokens for cell in cells) / len(cells),
        "seconds_per_sample": sum(cell.seconds for cell in cells) / len(cells),
        "teacher_tokens": row.teacher_tokens,
        "training_seconds": row.seconds,
        "places": [run.name for run in row.runs],
        "measurements": [one for cell in cells for one in cell.ids],
    }


def _score(name: str, score: Score) -> dict[str, float | None]:
    return {
        name: score.value,
        f"{name}_low": score.low,
        f"{name}_high": score.high,
        f"{name}_worst": score.worst,
        f"{name}_best": score.best,
    }


def as_json(leaderboard: Leaderboard) -> str:
    """All records, and what was left out and why."""
    left_out = [{"name": name, "why": why} for name, why in leaderboard.left_out]
    content = {"records": list(records(leaderboard)), "left_out": left_out}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_csv(leaderboard: Leaderboard) -> str:
    """All records as a table."""
    rows = [row | row.pop("settings") for row in records(leaderboard)]
    sink = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(sink, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        lists = {k: " ".join(map(str, v)) for k, v in row.items() if isinstance(v, list)}
        writer.writerow({**row, **lists})
    return sink.getvalue()
