"""The figures of a card as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from opdlab.bench.gpu.figures import Figure
from opdlab.diagnosis import FIGURE, document

_BAR = 34
_MET, _SHORT, _FREE = "#2e7d4f", "#a0392b", "#4a6fa5"


def html(found: Mapping[str, Any]) -> str:
    """The whole page: shares of ceilings as bars, then every figure."""
    where, top = found["machine"], found["ceilings"]
    parts = [
        f"<h1>{escape(where['device'])}</h1><p class='why'>{escape(_line(where))}; a large product: "
        f"{top['product'] / 1e12:,.3g} TFLOP/s, a large copy: {top['bandwidth'] / 1e12:,.3g} TB/s</p>",
        "<h2>Shares of what the card can do</h2><p class='why'>green: the goal is reached; red: it is "
        "not; blue: no goal</p>",
        _shares(found["measured"]),
        "<h2>All figures</h2><div class='scroll'><table><tr><th>case</th><th>figure</th><th>goal</th>"
        "<th></th></tr>",
        *_rows(found["measured"]),
        "</table></div>",
    ]
    return document(f"opdlab on {where['device']}", "\n".join(parts))


def _line(where: Mapping[str, Any]) -> str:
    return f"{where['driver']}, torch {where['torch']}, {where['dtype']}, opdlab {where['opdlab']}"


def _figures(measured: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    for key, one in measured.items():
        for told in one["figures"]:
            yield key, Figure(**told)


def _shares(measured: Mapping[str, Any]) -> str:
    shown = [(key, one) for key, one in _figures(measured) if one.unit == "share"]
    colors = {True: _MET, False: _SHORT, None: _FREE}
    figure = go.Figure(
        go.Bar(
            x=[one.value for _, one in shown],
            y=[f"{key}<br>{one.name}" for key, one in shown],
            text=[one.text() for _, one in shown],
            marker_color=[colors[one.met] for _, one in shown],
            orientation="h",
        )
    )
    goals = [(f"{key}<br>{one.name}", one.goal) for key, one in shown if one.goal is not None]
    figure.add_scatter(
        x=[goal for _, goal in goals],
        y=[name for name, _ in goals],
        mode="markers",
        marker={"symbol": "line-ns-open", "size": 18, "color": "#1c2430"},
        name="goal",
    )
    figure.update_layout(**FIGURE, height=120 + _BAR * len(shown), showlegend=False)
    figure.update_xaxes(range=[0, 1.05], tickformat=".0%")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})


def _rows(measured: Mapping[str, Any]) -> Iterator[str]:
    for key, one in measured.items():
        if "error" in one:
            yield f"<tr><td>{escape(key)}</td><td class='no'>{escape(one['error'])}</td></tr>"
    for key, figure in _figures(measured):
        sign = "" if figure.goal is None else "&le; " if figure.at_most else "&ge; "
        goal = "" if figure.goal is None else Figure("", figure.goal, figure.unit).text()
        mark = {True: "yes", False: "no", None: ""}[figure.met]
        yield (
            f"<tr><td>{escape(key)}</td><td>{escape(figure.name)}</td><td>{sign}{goal}</td>"
            f"<td class='{mark}'>{figure.text()}</td></tr>"
        )
