"""What a command finds, as a value: rows for a program, and what people read of it."""

from __future__ import annotations

import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from opdlab.console.tables_as_text import WIDTH, as_latex, as_markdown
from opdlab.console.terminal import SymbolConsole, console
from opdlab.errors import DataError

if TYPE_CHECKING:
    import pandas

ENDS = ".md, .tex, .csv or .json"
PLOTS = (".svg", ".png", ".pdf")
_CODE = '<pre style="white-space: pre; overflow-x: auto; font-family: monospace">{code}</pre>'


def finite(value: Any) -> Any:
    """A value for JSON, which has neither NaN nor infinity: there they are null."""
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Result(ABC):
    """Something found: `rows` have the names of the stores, `shown` is what the terminal shows."""

    @abstractmethod
    def rows(self) -> list[Mapping[str, Any]]:
        """One mapping per row; nested mappings stay nested."""

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

    def plotted(self, kind: str) -> bytes | None:
        """A figure of it as `svg`, `png` or `pdf`; None where there is none."""
        return None

    def written_as(self, suffix: str) -> str | bytes:
        """What is shown, as the content of a file.

        Args:
            suffix: `.md` and `.tex` (booktabs, amssymb) hold the tables and sentences that are shown,
                `.csv` and `.json` the rows with all their digits; `.svg`, `.png` and `.pdf` the figure,
                where there is one.

        Returns:
            The content as text.

        Raises:
            DataError: it is none of these.
        """
        match suffix.lower():
            case ".md":
                return as_markdown(self.shown())
            case ".tex":
                return as_latex(self.shown())
            case ".csv":
                return self.to_dataframe().to_csv(index=False)
            case ".json":
                rows = [finite(dict(row)) for row in self.rows()]
                return json.dumps(rows, indent=1, ensure_ascii=False, default=str) + "\n"
            case plot if plot in PLOTS and (made := self.plotted(plot[1:])) is not None:
                return made
        also = (
            ""
            if type(self).plotted is Result.plotted
            else f", or in {', '.join(PLOTS)} for a figure"
        )
        raise DataError(
            f"nothing is written as {suffix or 'a file without an ending'}: end its name in {ENDS}{also}"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        page = SymbolConsole(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False)
        for part in self.shown():
            page.print(part)
        return page.export_html(inline_styles=True, code_format=_CODE)
