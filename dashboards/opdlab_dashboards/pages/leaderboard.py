"""`opdlab leaderboard`: everything that was measured, ranked as far as it can be told apart."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from opdlab.console import BOLD, DIM, END, console, progress_bar
from opdlab.errors import writing_to
from opdlab_dashboards.pages import hub_results, own_files, page_files, tables
from opdlab_dashboards.results import Leaderboard, Measured, build, measured, mlflow_copy, records

HUB = "eval_results"


def leaderboard(sources: Sequence[str], to: str, benchmarks: Sequence[str]) -> None:
    """Print the leaderboard and write it as Markdown, LaTeX, CSV, JSON, hub entries and a page.

    Args:
        sources: folders of runs or addresses of MLflow stores.
        to: folder that is written to.
        benchmarks: only these; all where none is named.

    Raises:
        DataError: a source holds nothing that was measured, or others keep files in the folder.
        TrackingError: an MLflow store does not answer.
    """
    own_files.require_own_folder(Path(to))
    with tempfile.TemporaryDirectory(prefix="opdlab-") as scratch:
        board = gather(sources, Path(scratch), benchmarks)
        console.print(tables.terminal(board, console.width))
        tables.tell_left_out(board)
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
    entries = hub_results.results(board)
    content: page_files.Content = {
        "leaderboard.md": lambda: tables.markdown(board),
        "leaderboard.tex": lambda: tables.latex(board),
        "leaderboard.json": lambda: records.as_json(board),
        "leaderboard.csv": lambda: records.as_csv(board),
        **{f"{HUB}/{name}": partial(str, text) for name, text in entries.items()},
        **page_files.site(board),
    }
    with progress_bar() as progress:
        task = progress.add_task("write files", total=len(content))
        older = own_files.write_folder(place, content, lambda name: progress.advance(task))
    if entries:
        console.print(f"{len(entries)} rows as .eval_results for the hub: {place}/{HUB}")
    for why in dict.fromkeys(hub_results.left_out(board)):
        console.print(f"{DIM}no result for the hub: {why}{END}", soft_wrap=True)
    console.print(f"Tables: {place}/leaderboard.md, .tex, .csv, .json", soft_wrap=True)
    page = (place / page_files.PAGE).absolute()
    console.print(f"Page: {BOLD}{page.as_uri()}{END}", soft_wrap=True)
    if older:
        console.print(f"The leaderboard that was there is kept as {older}", soft_wrap=True)
