"""What the terminal shows as Markdown and as LaTeX, for papers and notes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from opdlab.console.terminal import SymbolConsole, shown, styled

WIDTH = 120
"""Columns of what is shown elsewhere than on a terminal."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    # At the beginning of a line these would be taken for an argument of the line's end before.
    "[": "{[}",
    "*": "{*}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_NEGATIVE = re.compile(r"(?<![\w.-])-(?=\d)")
_LATEX_CODES = str.maketrans(_LATEX)
_MARKDOWN_CODES = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": " ", "<": "&lt;", "*": "\\*"})


def as_markdown(parts: Iterable[RenderableType]) -> str:
    """Tables and sentences, each a paragraph."""
    return "\n\n".join("\n".join(_markdown(part)) for part in _flat(parts)) + "\n"


def as_latex(parts: Iterable[RenderableType]) -> str:
    """Tables for the packages booktabs and amssymb; sentences follow as paragraphs."""
    needed = "% needs \\usepackage{booktabs,amssymb}"
    return "\n\n".join([needed, *("\n".join(_latex(part)) for part in _flat(parts))]) + "\n"


def _flat(parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    for part in parts:
        if isinstance(part, Group):
            yield from _flat(part.renderables)
        else:
            yield part


def _plain(cell: RenderableType) -> str:
    """A part as text, without styles; indentation stays."""
    if isinstance(cell, str):
        text = styled(cell).plain
    elif isinstance(cell, Text):
        text = cell.plain
    else:
        page = SymbolConsole(record=True, file=io.StringIO(), width=WIDTH)
        page.print(cell)
        text = page.export_text()
    return shown(text).rstrip()


def _rows(table: Table) -> list[list[str]]:
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _markdown(part: RenderableType) -> Iterator[str]:
    if not isinstance(part, Table):
        text = _plain(part)
        # Lines that are set by hand stay as they are.
        fence = max(re.findall("`{3,}", text), key=len, default="``") + "`"
        lines = f"{fence}text\n{text}\n{fence}"
        yield lines if "\n" in text else text.translate(_MARKDOWN_CODES)
        return
    if part.title:
        yield f"**{_markdown_cell(_plain(part.title))}**"
        yield ""
    yield _markdown_row(_markdown_cell(_plain(column.header)) for column in part.columns)
    yield _markdown_row("---:" if one.justify == "right" else "---" for one in part.columns)
    for row in _rows(part):
        yield _markdown_row(map(_markdown_cell, row))


def _markdown_cell(text: str) -> str:
    blanks = len(text) - len(text.lstrip(" "))
    return "&nbsp;" * blanks + text.lstrip(" ").translate(_MARKDOWN_CODES)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex(part: RenderableType) -> Iterator[str]:
    if not isinstance(part, Table):
        text = _plain(part)
        own = text.replace("\\end{verbatim}", "\\end {verbatim}")
        lines = f"\\begin{{verbatim}}\n{own}\n\\end{{verbatim}}"
        yield lines if "\n" in text else _latex_cell(text)
        return
    sides = "".join("r" if column.justify == "right" else "l" for column in part.columns)
    yield "\\begin{table}\n\\centering"
    if part.title:
        yield f"\\caption{{{_latex_cell(_plain(part.title))}}}"
    yield f"\\begin{{tabular}}{{{sides}}}\n\\toprule"
    yield _latex_row(_plain(column.header) for column in part.columns)
    yield "\\midrule"
    yield from map(_latex_row, _rows(part))
    yield "\\bottomrule\n\\end{tabular}\n\\end{table}"


def _latex_cell(text: str) -> str:
    indent = "\\quad " if text.startswith("  ") else ""
    # Two hyphens would be set as a dash.
    plain = " ".join(text.split()).replace("--", "-\0-").translate(_LATEX_CODES)
    return indent + _NEGATIVE.sub("$-$", plain).replace("-\0-", "-{}-")


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(_latex_cell, cells)) + r" \\"
