"""Tables that do not fit: blocks below each other, so that nothing is cut."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

BY_COLUMNS = "benchmark"
"""First heading of a table whose columns are what is compared: each of them becomes a block."""


def fitted(table: Table, console: Console) -> Iterator[RenderableType]:
    """The table, or blocks where it is wider than the console.

    What is compared in columns becomes one table a column; else each row becomes a list of its values.
    """
    if len(table.columns) < 2 or _needed(table, console) <= console.width:
        yield table
        return
    if table.title:
        yield Text()
        title = table.title
        yield console.render_str(title) if isinstance(title, str) else title
    first, *others = table.columns
    if first.header == BY_COLUMNS:
        for column in others:
            block = Table(box=table.box, padding=table.padding, pad_edge=table.pad_edge)
            block.add_column(first.header, overflow="fold")
            block.add_column(column.header, justify="right", overflow="fold")
            for label, cell in zip(first.cells, column.cells, strict=True):
                block.add_row(label, cell)
            yield block
        return
    for row in zip(*(column.cells for column in table.columns), strict=True):
        block = Table.grid(padding=(0, 2))
        block.add_column(overflow="fold", style="dim")
        block.add_column(overflow="fold")
        for column, cell in zip(table.columns, row, strict=True):
            if _width(cell, console):
                block.add_row(column.header, cell)
        yield Text()
        yield block
    if table.caption:
        yield Text()
        caption = table.caption
        yield console.render_str(caption) if isinstance(caption, str) else caption


def _needed(table: Table, console: Console) -> int:
    """Columns of text that the table takes without cutting a word, a number or what must not be wrapped."""
    total = 0
    for column in table.columns:
        # A heading may take several lines, a number may not.
        head = _width if column.no_wrap else _word
        body = _width if column.no_wrap or column.justify == "right" else _word
        widths = [head(column.header, console), *(body(cell, console) for cell in column.cells)]
        total += max(widths, default=0)
    _, right, _, left = table.padding
    return total + len(table.columns) * (left + right + (1 if table.box else 0))


def _width(part: RenderableType, console: Console) -> int:
    return console.measure(part).maximum


def _word(part: RenderableType, console: Console) -> int:
    return console.measure(part).minimum
