"""Results as the Hugging Face hub reads them: `.eval_results/*.yaml` in the repository of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from opdlab import plugins
from opdlab.errors import PluginError
from opdlab_dashboards.pages.tables import percent
from opdlab_dashboards.results import Board, Cell, Leaderboard, Row


def results(leaderboard: Leaderboard) -> dict[str, str]:
    """For each row a file whose `.eval_results` is to be put into the model's repository.

    Benchmarks that are no data set of the hub have no place there; see `left_out` for others.

    Returns:
        What stands in each file, by its name.
    """
    found = {}
    for board in leaderboard.boards:
        for row in board.rows:
            if entries := list(_entries(row)):
                content = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
                found[f"{_folder(board, row)}/.eval_results/opdlab.yaml"] = content
    return found


def _folder(board: Board, row: Row) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', row.name).strip('-')}-{board.protocol[:8]}"


def _entries(row: Row) -> Iterator[EvalResultEntry]:
    for cell in row.cells.values():
        hub = hub_name(cell)
        if hub is None or cell.mean.value is None or why_not(cell):
            continue
        revision = cell.asked.evaluator.get("revision")
        when = max(run.when for run in cell.measured)
        yield EvalResultEntry(
            dataset_id=hub,
            task_id=cell.benchmark,
            dataset_revision=revision,
            value=round(100 * cell.mean.value, 2),
            date=datetime.fromisoformat(when).isoformat(timespec="seconds"),
            notes=(
                f"mean@{cell.k} in %, {percent(cell.mean)} (95 % over {len(cell.problems)} problems); "
                f"pass@{cell.k} {percent(cell.pass_at)}; temperature {cell.asked.temperature:g}, "
                f"top-p {cell.asked.top_p:g}, {cell.asked.max_new_tokens} tokens; "
                f"{100 * cell.truncated:.0f} % cut at the limit; opdlab protocol {cell.protocol}"
            ),
        )


def left_out(leaderboard: Leaderboard) -> Iterator[str]:
    """Scores on data sets of the hub that are none of the whole data set, with the reason."""
    for board in leaderboard.boards:
        for row in board.rows:
            for cell in row.cells.values():
                if hub_name(cell) is not None and (why := why_not(cell)):
                    yield f"{row.name} on {cell.benchmark}: {why}"


def why_not(cell: Cell) -> str:
    """Why a score is not the whole data set's; empty where it is."""
    count, options = getattr(_source(cell), "count", None), cell.asked.evaluator
    if cell.mean.value is None:
        return "some samples were not graded"
    if options.get("path") is not None:
        return "its data are a file of your own (`path`)"
    if options.get("limit") is not None and (count is None or options["limit"] < count):
        return f"only {len(cell.problems)} problems (`limit`)"
    if count is not None and len(cell.problems) != count:
        return f"{len(cell.problems)} problems, of {count} that the data set has"
    return ""


def hub_name(cell: Cell) -> str | None:
    """The data set on the hub that a benchmark is read from; None where it is generated."""
    return getattr(_source(cell), "hub", None)


def _source(cell: Cell) -> Any:
    """Where a benchmark's data are from, as its plugin tells; None where it tells nothing."""
    try:
        plugin = plugins.load(plugins.EVALUATORS, str(cell.asked.evaluator.get("type")))
    except PluginError:
        return None
    return getattr(plugin, "source", None)
