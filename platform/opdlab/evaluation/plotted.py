"""Differences as a forest plot in a file: SVG and PDF for a paper, PNG for a slide."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from opdlab.evaluation.comparison import LEVEL

SHOWN_BETTER, SHOWN_WORSE, OPEN = "#1a7f37", "#b3261e", "#5a6472"
WIDTH, LINE, AROUND = 6.4, 0.26, 0.8
"""Inches of the figure, of a line, and of what is above and below the lines."""


def forest(differences: Mapping[str, Sequence[Any]], over: str, kind: str) -> bytes:
    """All pairs below each other, a line a benchmark, on one axis with zero on it.

    Args:
        differences: as in `Comparison.differences`.
        over: what the intervals are over, such as `problems`.
        kind: `svg`, `png` or `pdf`; the same differences give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    several = len(differences) > 1
    lines: list[tuple[str, Any]] = []
    for pair, each in differences.items():
        if several:
            lines.append((pair, None))
        lines += [(one.benchmark, getattr(one, "mean", one)) for one in each]
    with mpl.rc_context({"svg.hashsalt": "opdlab", "font.size": 9, "text.usetex": False}):
        figure = Figure(figsize=(WIDTH, AROUND + LINE * len(lines)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=OPEN, linewidth=1)
        for place, (_, one) in enumerate(lines):
            if one is not None:
                _line(axes, place, one)
        axes.set_yticks(range(len(lines)), [_plain(label) for label, _ in lines])
        for tick, (_, one) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if one is None else "normal")
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_xlabel(f"points of mean@k, 95 % over {over}; filled: shown at 5 %")
        if not several:
            axes.set_title(_plain(next(iter(differences))), fontsize=10)
        made = io.BytesIO()
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
        figure.savefig(made, format=kind, dpi=200, metadata=undated)
    return made.getvalue()


def _plain(text: str) -> str:
    """A name as it is: a dollar begins no formula."""
    return text.replace("$", r"\$")


def _line(axes: Any, place: int, one: Any) -> None:
    """A difference with its interval; its bounds, dotted, where some samples could not be graded."""
    if one.value is None:
        ends = [100 * one.worst, 100 * one.best]
        axes.plot(ends, [place, place], color=OPEN, linestyle=":", linewidth=1.4)
        return
    shown = one.p_holm < LEVEL
    colour = (SHOWN_BETTER if one.value > 0 else SHOWN_WORSE) if shown else OPEN
    value, low, high = (100 * x for x in (one.value, one.low, one.high))
    axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
    face = colour if shown else "white"
    axes.plot([value], [place], "o", color=colour, markerfacecolor=face, markersize=5)
