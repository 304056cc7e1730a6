"""What a command finds, as a value: rows for a program, and what people read of it."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from opdlab.console.terminal import SymbolConsole, console

if TYPE_CHECKING:
    import pandas

WIDTH = 120
"""Columns of a view in a notebook."""
_CODE = '<pre style="white-space: pre; overflow-x: auto; font-family: monospace">{code}</pre>'


class Result(ABC):
    """Something found: `rows` have the names of the stores, `shown` is what the terminal shows."""

    @abstractmethod
    def rows(self) -> list[Mapping[str, Any]]:
        """One mapping a row; what stands in a mapping of its own keeps it."""

    @abstractmethod
    def shown(self) -> Iterable[RenderableType]:
        """Tables and sentences for people, in the order in which they are read."""

    def to_dataframe(self) -> pandas.DataFrame:
        """The rows as a `pandas.DataFrame`; a mapping within a row becomes columns (`mean.value`)."""
        import pandas

        return pandas.json_normalize([dict(row) for row in self.rows()])

    def show(self) -> None:
        """Print it."""
        for part in self.shown():
            console.print(part, soft_wrap=isinstance(part, str))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        page = SymbolConsole(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False)
        for part in self.shown():
            page.print(part)
        return page.export_html(inline_styles=True, code_format=_CODE)
