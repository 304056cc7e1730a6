"""The one console that everything for people is written to, and its progress bars."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from opdlab.console.narrow_tables import fitted

_NAMED = [*range(0x80, 0xA0), 0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF]
_NAMED += [*range(0x202A, 0x202F), *range(0x2060, 0x2070), *range(0xD800, 0xE000)]
_SYMBOLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_SYMBOLS |= {0x7F: "\u2421"} | {
    code: f"<U+{code:04X}>" for code in (*_NAMED, *range(0xE0000, 0xE0080))
}


def shown(text: str) -> str:
    """The text with what a terminal would obey shown as symbols.

    A model's words may hold escape sequences, which move, hide and recolour what else is on the screen,
    marks that turn the direction of writing, characters without a shape, and halves of characters.
    """
    return text.translate(_SYMBOLS)


def linked(address: str) -> Text:
    """An address that a terminal opens as a whole, also where it takes several lines."""
    return Text(address, style=Style(link=address))


# Characters for private use, which no text for people holds: a name that looks like markup stays a name.
BOLD, DIM, RED, YELLOW, GREEN, ALARM, END = map(chr, range(0xF8E0, 0xF8E7))
"""Begin a style in a text for the console; END ends the last one."""
_STYLES = {BOLD: "bold", DIM: "dim", RED: "red", YELLOW: "yellow", GREEN: "green"}
_STYLES |= {ALARM: "bold red"}
_MARKS = re.compile(f"([{''.join(_STYLES)}{END}])")


def styled(text: str) -> Text:
    """The text in the styles that its marks begin and end; a style that is not ended holds to the end."""
    found, styles = Text(), [""]
    for part in _MARKS.split(text):
        if part in _STYLES:
            styles.append(f"{styles[-1]} {_STYLES[part]}".strip())
        elif part == END:
            styles = styles[:-1] or [""]
        else:
            found.append(part, styles[-1] or None)
    return found


@final
class SymbolConsole(Console):
    """A console that writes no control characters but its own, and takes no text for markup."""

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        found = styled(text)
        found.style = options.get("style", "")
        found.justify, found.overflow = options.get("justify"), options.get("overflow")
        return found

    @override
    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does; a table that is wider than the console becomes blocks, of which nothing is cut."""
        (one,) = objects if len(objects) == 1 else (None,)
        if isinstance(one, Table) and one.show_header:
            for part in fitted(one, self):
                super().print(part, **options)
        else:
            super().print(*objects, **options)

    @override
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else shown(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)


console = SymbolConsole(highlight=False, markup=False, emoji=False)

SAY_EVERY_S = 60.0
"""Between two lines on one task where there is no terminal to draw a bar on."""
SPEED_OVER_S = 3600.0
"""What the time left is reckoned from; a step may take minutes."""


class WatchedProgress(Progress):
    """A progress bar with a line of figures worth watching below it.

    Where the output is no terminal a bar is drawn at its end alone, so plain lines tell of it until then.
    """

    figures: str = ""

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
        super().__init__(*columns, **options)
        self.said_at: dict[TaskID, float] = {}  # seconds after the task began

    @override
    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._say(task_id)

    @override
    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        """Print a plain line on a task, if one is due."""
        drawn = self.console.is_terminal and not self.console.is_dumb_terminal
        task = self._tasks[task_id]
        elapsed = task.elapsed or 0.0
        due = elapsed - self.said_at.get(task_id, 0.0) >= SAY_EVERY_S
        if drawn or not due or task.finished or not self.live.is_started:
            return
        self.said_at[task_id] = elapsed
        figures = f"  {self.figures}" if self.figures else ""
        text = f"{task.description}  {so_far(task)}{figures}"
        self.console.print(text, soft_wrap=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.figures:
            yield Text(f"  {self.figures}", style="dim")


def progress_bar() -> WatchedProgress:
    """A bar with a description, how much of how much, and the time left."""
    return WatchedProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        speed_estimate_period=SPEED_OVER_S,
    )


def so_far(task: Task) -> str:
    """How much of how much, and the time left where it is known."""
    total = "" if task.total is None else f" of {task.total:.0f}"
    done, left = f"{task.completed:.0f}{total}", task.time_remaining
    return done if left is None else f"{done}, {duration(left)} left"


def gib(size: float) -> str:
    """Bytes in GiB, such as `1.5 GiB`."""
    return f"{size / (1 << 30):,.1f} GiB"


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
