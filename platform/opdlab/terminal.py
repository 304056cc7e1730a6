"""The one console that everything for people is written to, and its progress bars."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(highlight=False)


class WatchedProgress(Progress):
    """A progress bar with a line of figures worth watching below it."""

    figures: str = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.figures:
            yield Text(f"  {self.figures}", style="dim")


def progress_bar() -> WatchedProgress:
    """A bar with a description, how much of how much, and the time left."""
    return WatchedProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def duration(seconds: float) -> str:
    """A time in the two units that say most, such as `3 min 20 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    left = round(seconds)
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
