"""The figures of a card as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from opdlab.bench.gpu.figures import Figure
from opdlab.console import shown
from opdlab.diagnosis import FIGURE, document, drawn, scrolled

# Pixels of a bar with its two lines of text, and of what surrounds all of them.
_BAR, _AROUND, _LETTERS = 54, 90, 12
_MET, _SHORT, _FREE = "#2e7d4f", "#a0392b", "#4a6fa5"
_PARTS = ("#4a6fa5", "#2e7d4f", "#7fb08f", "#b9d3c1", "#a0392b", "#8a94a3")
_OF_STEP = "of the step"
NO_DRIVER = "none"
"""In the file, of a machine without a card."""
_BARE = {"displayModeBar": False}
_NAMES = ("figure", "goal", "measured")
_HEADER = f"<tr>{''.join(f'<th scope=col>{name}</th>' for name in _NAMES)}</tr>"
_WRAPPED = "style='white-space: normal; text-align: left'"


def html(found: Mapping[str, Any]) -> str:
    """The whole page: shares of ceilings and parts of steps as bars, then every figure."""
    where, top = found["machine"], found["ceilings"]
    parts = [
        f"<h1>{_text(where['device'])}</h1><p class='why'>{_text(_line(where))}; a large product: "
        f"{top['product'] / 1e12:,.3g} TFLOP/s, a large copy: {top['bandwidth'] / 1e12:,.3g} TB/s</p>",
        "<h2>Shares of what the card can do</h2><p class='why'>green: the goal is reached; red: it is "
        "not; blue: no goal. A line marks the goal.</p>",
        drawn(_shares(found["measured"]), "Figure: shares. All figures stand below.", True, _BARE),
        "<h2>Where the time of a training step goes</h2>",
        drawn(_steps(found["measured"]), "Figure: parts. All figures stand below.", False, _BARE),
        "<h2>All figures</h2>",
        scrolled(f"<table>{_HEADER}{''.join(_rows(found['measured']))}</table>", "all figures"),
    ]
    return document(f"opdlab on {shown(where['device'])}", "\n".join(parts))


def _text(foreign: str) -> str:
    """Words of the file, which may be another's: neither markup nor control characters."""
    return escape(shown(foreign))


def _line(where: Mapping[str, Any]) -> str:
    driver = "" if where["driver"] == NO_DRIVER else f"{where['driver']}, "
    return f"{driver}torch {where['torch']}, {where['dtype']}, opdlab {where['opdlab']}"


def _figures(measured: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    for key, one in measured.items():
        for told in one["figures"]:
            yield key, Figure(**told)


def _shares(measured: Mapping[str, Any]) -> go.Figure:
    shares = [(key, one) for key, one in _figures(measured) if one.unit == "share"]
    colors = {True: _MET, False: _SHORT, None: _FREE}
    figure = go.Figure()
    figure.add_bar(
        x=[one.value for _, one in shares],
        y=list(range(len(shares))),
        width=0.3,
        marker_color=[colors[one.met] for _, one in shares],
        orientation="h",
        hoverinfo="x",
    )
    for place, (_, one) in enumerate(shares):
        if one.goal is not None:
            ends = {"y0": place - 0.22, "y1": place + 0.22}
            figure.add_shape(type="line", x0=one.goal, x1=one.goal, **ends, line_color="#1c2430")
    labels = [
        f"{_text(key)}<br>{_text(one.name)}: <b>{_text(one.text())}</b>" for key, one in shares
    ]
    return _laid(figure, labels)


def _steps(measured: Mapping[str, Any]) -> go.Figure:
    """Each method's step as one bar of its parts."""
    steps: dict[str, dict[str, float]] = {}
    for key, one in _figures(measured):
        if one.unit == _OF_STEP:
            method, _, part = one.name.partition(": ")
            steps.setdefault(f"{_text(key)}<br><b>{_text(method)}</b>", {})[part] = one.value
    figure = go.Figure()
    names = list(dict.fromkeys(part for parts in steps.values() for part in parts))
    for number, name in enumerate(names):
        figure.add_bar(
            x=[parts.get(name, 0.0) for parts in steps.values()],
            y=list(range(len(steps))),
            width=0.3,
            name=_text(name),
            marker_color=_PARTS[number % len(_PARTS)],
            orientation="h",
        )
    figure.update_layout(barmode="stack")
    return _laid(figure, list(steps), legend=True)


def _laid(figure: go.Figure, labels: Sequence[str], legend: bool = False) -> go.Figure:
    """Labels above their bars, so that they have room on a narrow screen."""
    for place, label in enumerate(labels):
        figure.add_annotation(
            text=label,
            x=0,
            y=place - 0.18,
            xref="paper",
            showarrow=False,
            align="left",
            font_size=_LETTERS,
            xanchor="left",
            yanchor="bottom",
        )
    height = _AROUND + _BAR * len(labels) + (_BAR if legend else 0)
    figure.update_layout(**{**FIGURE, "height": height, "showlegend": legend})
    figure.update_layout(margin={"l": 4, "r": 4, "t": 10, "b": 40})
    below = {"orientation": "h", "y": 0, "yanchor": "bottom", "yref": "container"}
    figure.update_layout(legend={**below, "traceorder": "normal"})
    figure.update_xaxes(range=[0, 1.05], tickformat=".0%", fixedrange=True)
    figure.update_yaxes(range=[len(labels) - 0.5, -1], visible=False, fixedrange=True)
    return figure


def _rows(measured: Mapping[str, Any]) -> Iterator[str]:
    """Each case as a line of its own, and below it its figures, so that all fits a narrow screen."""
    for key, one in measured.items():
        yield f"<tr><th colspan='3' scope='colgroup' {_WRAPPED}>{_text(key)}</th></tr>"
        if "error" in one:
            yield f"<tr><td colspan='3' class='no' {_WRAPPED}>{_text(one['error'])}</td></tr>"
        for told in one["figures"]:
            figure = Figure(**told)
            mark = {True: "yes", False: "no", None: ""}[figure.met]
            yield (
                f"<tr><td {_WRAPPED}>{_text(figure.name)}</td><td>{_text(figure.goal_text())}</td>"
                f"<td class='{mark}'>{_text(figure.text())}</td></tr>"
            )
