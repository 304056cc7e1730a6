"""`opdlab leaderboard`: everything that was measured, ranked as far as it can be told apart."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from opdlab.errors import writing_to
from opdlab.terminal import console, progress_bar
from opdlab_dashboards import hub_results, measured, mlflow_copy, page_files, records, tables
from opdlab_dashboards.board import Leaderboard, build
from opdlab_dashboards.measured import Measured


def leaderboard(sources: Sequence[str], to: str, benchmarks: Sequence[str]) -> None:
    """Print the leaderboard and write it as Markdown, CSV, JSON, hub entries and a page.

    Args:
        sources: folders of runs or addresses of MLflow stores.
        to: folder that is written to.
        benchmarks: only these; all where none is named.

    Raises:
        DataError: a source holds nothing that was measured.
        TrackingError: an MLflow store does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="opdlab-") as scratch:
        board = gather(sources, Path(scratch), benchmarks)
        console.print(tables.terminal(board, console.width))
        for name, why in board.left_out:
            console.print(f"[yellow]left out[/] {name}: {why}", soft_wrap=True)
        with writing_to(Path(to)):
            write(board, Path(to))


def gather(sources: Sequence[str], scratch: Path, benchmarks: Sequence[str]) -> Leaderboard:
    """Read all sources; what lies in MLflow is copied into `scratch` first."""
    found = measured.in_order([one for source in sources for one in _find(source, scratch)])
    with progress_bar() as progress:
        task = progress.add_task("read samples", total=len(found))
        return build(found, benchmarks, lambda: progress.advance(task))


def _find(source: str, scratch: Path) -> list[Measured]:
    if "://" not in source:
        return measured.find(Path(source))
    place = Path(tempfile.mkdtemp(dir=scratch))
    with progress_bar() as progress:
        task = progress.add_task("copy from MLflow", total=None)
        mlflow_copy.copy(source, place, lambda name: progress.advance(task))
    return measured.find(place)


def write(board: Leaderboard, place: Path) -> None:
    """All files of a leaderboard."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "leaderboard.md").write_text(tables.markdown(board))
    (place / "leaderboard.json").write_text(records.as_json(board))
    (place / "leaderboard.csv").write_text(records.as_csv(board))
    count = hub_results.write(board, place / "eval_results")
    with progress_bar() as progress:
        rows = sum(len(one.rows) for one in board.boards)
        task = progress.add_task("write samples", total=rows)
        page = page_files.write(board, place, lambda: progress.advance(task))
    if count:
        console.print(f"{count} rows as .eval_results for the hub: {place}/eval_results")
    console.print(f"Tables: {place}/leaderboard.md, .csv, .json", soft_wrap=True)
    console.print(f"Page: [bold]{page.absolute().as_uri()}[/]", soft_wrap=True)
