"""One figure of all differences: pairs below each other on one axis with zero on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opdlab_dashboards.results import Difference, Row, with_interval

MOST = 26
"""Lines of the figure; of more differences those over all benchmarks are drawn, the tables hold all."""
APART = "differences"
"""Place of the figure on the page."""
BESIDE = 20
"""Characters of a label that stands beside its line; longer ones stand above."""


@dataclass(frozen=True)
class Pairing:
    """What b does differently from a, benchmark by benchmark."""

    a: Row
    b: Row
    differences: list[Difference]

    @property
    def title(self) -> str:
        return f"{self.b.name} minus {self.a.name}"

    @property
    def headline(self) -> Difference | None:
        """Over all benchmarks, or the only one."""
        return self.differences[-1] if self.differences else None


@dataclass(frozen=True)
class Line:
    """A difference with its name; `head` alone is a line of its own."""

    label: str
    difference: Difference | None = None


def points(difference: Difference) -> str:
    """A difference in points with its interval, in as many digits as that leaves."""
    ends = (difference.value, difference.low, difference.high)
    value, low, high = (100 * one for one in ends)
    return with_interval(value, low, high, sign=True)


def forest(lines: Sequence[Line], title: str) -> dict[str, Any]:
    """The figure, the first line on top; a marker is coloured where its difference is shown."""
    some = lines[:MOST]
    known = [(n, one.label, one.difference) for n, one in enumerate(some) if one.difference]
    each = [d for _, _, d in known]
    ends = [0.0, *(100 * end for d in each for end in (d.low, d.high))]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    beside = all(len(one.label) <= BESIDE for one in some)
    told = [f"{label}: {points(d)}" + (", shown" if d.shown else "") for _, label, d in known]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [100 * d.value for d in each],
        "y": [n for n, _, _ in known],
        "text": told,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": 9,
            "color": [("--up" if d.value > 0 else "--down") if d.shown else "--dim" for d in each],
            "symbol": ["circle" if d.shown else "circle-open" for d in each],
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "color": "--dim",
            "thickness": 1.5,
            "width": 4,
            "array": [100 * (d.high - d.value) for d in each],
            "arrayminus": [100 * (d.value - d.low) for d in each],
        },
    }
    ticks: dict[str, Any] = {"visible": False}
    notes: list[dict[str, Any]] = []
    if beside:
        labels = [one.label for one in some]
        ticks = {"tickvals": list(range(len(some))), "ticktext": labels, "ticklabelstandoff": 6}
    else:
        notes = [_label(n, one) for n, one in enumerate(some)]
    return {
        "place": APART,
        "title": title,
        "alt": f"{title}. " + "; ".join(told),
        "wide": True,
        "height": 5 + (1.25 if beside else 2.0) * len(some),
        "traces": [trace],
        "layout": {
            "showlegend": False,
            "margin": {"l": 12, "r": 12, "t": 8, "b": 44},
            "xaxis": {
                "title": {"text": "points, 95 % over problems"},
                "range": [min(ends) - margin, max(ends) + margin],
                "zeroline": True,
                "zerolinewidth": 2,
            },
            "yaxis": {
                "range": [len(some) - 0.4, -0.9],
                "showgrid": False,
                "zeroline": False,
                **ticks,
            },
            "annotations": notes,
        },
    }


def _label(n: int, line: Line) -> dict[str, Any]:
    """A line's name above it, at the left edge, so that a narrow screen has room for both."""
    return {
        "text": line.label,
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": n - 0.12 if line.difference else n,
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "weight": "normal" if line.difference else "bold"},
    }
