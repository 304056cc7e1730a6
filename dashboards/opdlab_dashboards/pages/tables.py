"""The leaderboard for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from opdlab.console import DIM, END, YELLOW, as_latex, console
from opdlab.evaluation import STYLE
from opdlab_dashboards.results import AVERAGE, Board, Leaderboard, Row, Score, in_short, varied

READING = (
    "Rank: the places that a paired test over problems does not rule out, at 5 % for all pairs of a table "
    "together; rows that share a place are not told apart. In brackets 95 % intervals over problems. Only "
    "rows of one protocol (problems, template, sampling, k, grader) stand in one table."
)
ROLE_NAMES = {"student": "student before", "teacher": "teacher", "model": "model", "run": ""}
SHOWN = 40
NAME_WIDTH, GAP = 28, 2
"""Of a column for names, and between two columns, in characters."""


def percent(score: Score) -> str:
    """A score with its interval; its bounds where some samples could not be graded."""
    if score.value is None or score.low is None or score.high is None:
        return f"{100 * score.worst:.0f} to {100 * score.best:.0f}?"
    return f"{100 * score.value:.1f} [{100 * score.low:.0f},{100 * score.high:.0f}]"


def seeds(row: Row) -> str:
    """How many training seeds a row averages over, and which."""
    numbers = [run.seed for run in row.runs]
    if row.role != "run":
        return "–"
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{len(numbers)} ({numbers[0]}–{numbers[-1]})"
    return f"{len(numbers)} ({', '.join(map(str, numbers))})"


def big(number: float | None) -> str:
    """A large number in short."""
    if number is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        # What rounds to a thousand of the smaller unit is one of this.
        if number >= 0.9995 * size:
            return f"{float(f'{number / size:.3g}'):.15g}{unit}"
    return f"{number:.3g}"


def tell_left_out(leaderboard: Leaderboard) -> None:
    """Print what no board has, and why."""
    for name, why in leaderboard.left_out:
        console.print(f"{YELLOW}left out{END} {name}: {why}", soft_wrap=True)


def overview(board: Board) -> list[list[str]]:
    """Heading and one line a row: rank, model, what it cost."""
    k, main = board.k, AVERAGE if AVERAGE in board.standings else next(iter(board.standings))
    heading = ["rank", "model", "role", "seeds", f"mean@{k}", f"pass@{k}"]
    heading += ["truncated", "tokens", "teacher tokens", "seconds"]
    lines = [heading]
    for row, name, standing in zip(board.rows, _names(board), board.standings[main], strict=True):
        lines.append(
            [
                str(standing or "?"),
                name,
                ROLE_NAMES[row.role] or row.method,
                seeds(row),
                percent(row.mean),
                percent(row.pass_at),
                f"{100 * row.average_of('truncated'):.0f} %",
                f"{row.average_of('tokens'):.0f}",
                big(row.teacher_tokens),
                big(row.seconds),
            ]
        )
    return lines


def by_benchmark(board: Board, names: Sequence[str]) -> list[list[str]]:
    """Heading and one line a row: mean@k on each benchmark, with its rank there."""
    counts = [f"{name} n={len(board.cells[name].problems)}" for name in names]
    lines = [["model", *counts]]
    for place, (row, label) in enumerate(zip(board.rows, _names(board), strict=True)):
        cells = [
            f"{percent(row.cells[name].mean)} #{board.standings[name][place] or '?'}"
            for name in names
        ]
        lines.append([label, *cells])
    return lines


def _names(board: Board) -> list[str]:
    """Names of the rows, each with the settings in which it differs from others of its experiment."""
    return [
        f"{row.name}: {in_short(settings)}" if settings else row.name
        for row, settings in zip(board.rows, varied(board.rows), strict=True)
    ]


def title(board: Board) -> str:
    """What all rows of a board share."""
    sampling = {
        f"temperature {c.asked.temperature:g}, top-p {c.asked.top_p:g}, "
        f"{c.asked.max_new_tokens} tokens, template {c.asked.template}"
        for c in board.cells.values()
    }
    count = len(board.cells)
    over = f"{count} benchmarks" if count > 1 else next(iter(board.cells))
    return f"Protocol {board.protocol[:8]}: {over}, k={board.k}, {'; '.join(sorted(sampling))}"


def terminal(leaderboard: Leaderboard, width: int) -> RenderableType:
    """Tables for a terminal of a width; of many rows the best ones and the references."""
    parts: list[RenderableType] = []
    for board in leaderboard.boards:
        kept = _kept(board)
        parts.append(Text(title(board), style="italic"))
        whole = overview(board)
        narrow = _narrow(whole, width)
        parts.append(_rich(narrow, kept))
        if gone := [name for name in whole[0] if name not in narrow[0]]:
            parts.append(f"{DIM}In the files, as they do not fit here: {', '.join(gone)}.{END}")
        names = list(board.cells)
        fitting = _fitting(by_benchmark(board, names), width)
        for start in range(0, len(names) if len(names) > 1 else 0, fitting):
            parts.append(_rich(by_benchmark(board, names[start : start + fitting]), kept))
        if len(kept) < len(board.rows):
            parts.append(f"{DIM}{len(board.rows) - len(kept)} more rows are in the files.{END}")
    return Group(*parts, f"{DIM}{READING}{END}")


def _kept(board: Board) -> list[int]:
    always = [i for i, row in enumerate(board.rows) if row.role in ("student", "teacher")]
    return sorted({*range(min(SHOWN, len(board.rows))), *always})


def _narrow(lines: list[list[str]], width: int) -> list[list[str]]:
    """Without the columns that do not fit: the last ones first, then seeds and role; mean@k stays."""
    while (count := len(lines[0])) > 3 and sum(_widths(lines)) > width:
        gone = count - (1 if count > 5 else 2)
        lines = [line[:gone] + line[gone + 1 :] for line in lines]
    return lines


def _fitting(lines: list[list[str]], width: int) -> int:
    """How many benchmarks stand side by side, the widest taken for all."""
    name, *cells = _widths(lines)
    return max(1, (width - name) // max(cells))


def _widths(lines: list[list[str]]) -> list[int]:
    """Of each column with its share of borders and padding; names are folded."""
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    model = lines[0].index("model")
    widths[model] = min(widths[model], NAME_WIDTH)
    return [each + GAP for each in widths]


def _rich(lines: list[list[str]], kept: Sequence[int]) -> Table:
    table = Table(**STYLE)
    for column, width in zip(lines[0], _widths(lines), strict=True):
        if column == "model":
            table.add_column(column, overflow="fold", min_width=width - GAP)
        else:
            side = "left" if column == "role" else "right"
            table.add_column(column, justify=side, no_wrap=True)
    for i in kept:
        table.add_row(*lines[i + 1])
    return table


def latex(leaderboard: Leaderboard) -> str:
    """All boards with every row, for a paper."""
    return as_latex(_latex_parts(leaderboard))


def _latex_parts(leaderboard: Leaderboard) -> Iterator[RenderableType]:
    for board in leaderboard.boards:
        everything = range(len(board.rows))
        yield title(board)
        yield _rich(overview(board), everything)
        if len(board.cells) > 1:
            yield _rich(by_benchmark(board, list(board.cells)), everything)
    yield READING


def markdown(leaderboard: Leaderboard) -> str:
    """All boards with every row, and what was left out."""
    return "\n".join(_markdown_lines(leaderboard)) + "\n"


def _markdown_lines(leaderboard: Leaderboard) -> Iterator[str]:
    yield "# Leaderboard"
    for board in leaderboard.boards:
        yield from ("", f"## {title(board)}", "")
        yield from _markdown_table(overview(board))
        if len(board.cells) > 1:
            yield ""
            yield from _markdown_table(by_benchmark(board, list(board.cells)))
    yield from ("", READING)
    if leaderboard.left_out:
        yield from ("", "## Left out", "")
        yield from (f"- {_cell(name)}: {_cell(why)}" for name, why in leaderboard.left_out)


def _markdown_table(lines: list[list[str]]) -> Iterator[str]:
    heading, *rest = lines
    yield "| " + " | ".join(map(_cell, heading)) + " |"
    marks = ["---" if name in ("model", "role") else "---:" for name in heading]
    yield "| " + " | ".join(marks) + " |"
    for line in rest:
        yield "| " + " | ".join(map(_cell, line)) + " |"


def _cell(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return plain.replace("<", "&lt;")
