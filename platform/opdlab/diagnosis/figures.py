"""The figures of a diagnosis, one a measurement; each names its n where it is drawn or in its legend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from opdlab.diagnosis.findings import FEWEST_HANDED
from opdlab.diagnosis.report import horizon
from opdlab.diagnosis.sigmoid import NAMES, sigmoid

COLOURS = ("#c0392b", "#2c6fbb", "#8e44ad", "#d68910", "#16a085", "#7f8c8d")
OWN = "#2e8b57"
CURVE_POINTS = 200
LABELS = 6
"""Numbers of problems written along a curve."""


def colour(found: Mapping[str, Any], name: str) -> str:
    """A model's colour in every figure."""
    if found["models"][name]["own"]:
        return OWN
    return COLOURS[found["students"].index(name) % len(COLOURS)]


def band(rows: Any, x: str, value: str, tint: str, name: str) -> go.Scatter:
    """An interval as a shaded band, behind its curve."""
    ends = [*(row[f"{value}_high"] for row in rows), *(row[f"{value}_low"] for row in rows[::-1])]
    places = [*(row[x] for row in rows), *(row[x] for row in rows[::-1])]
    red, green, blue = (int(tint[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=places,
        y=ends,
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
    )


def fidelity_figure(found: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for name, one in found["models"].items():
        tint = colour(found, name)
        rows = [{**r, "mean_low": r["low"], "mean_high": r["high"]} for r in one["curve"]]
        figure.add_trace(band(rows, "position", "mean", tint, name))
        figure.add_trace(
            go.Scatter(
                x=[row["position"] for row in rows],
                y=[row["mean"] for row in rows],
                customdata=[[row["tokens"], row["problems"]] for row in rows],
                hovertemplate="t %{x:.0f}: F %{y:.3f}<br>n = %{customdata[0]} tokens of "
                "%{customdata[1]} problems",
                text=thinned([f"n={row['problems']}" for row in rows]),
                textposition="top center" if one["own"] else "bottom center",
                textfont={"size": 10, "color": tint},
                mode="lines+markers+text",
                name=f"{name} (n = {one['tokens']:,} tokens)",
                line={"color": tint},
                legendgroup=name,
            )
        )
        if one["fit"]["identified"]:
            figure.add_trace(fitted(one, rows, tint, name))
    figure.update_xaxes(title="position in the response t, tokens")
    figure.update_yaxes(title="F(t), mean of a bin")
    return figure


def thinned(labels: Sequence[str]) -> list[str]:
    """Every few of the labels, and always the last: what few answers reach must show as such."""
    step = max(1, len(labels) // LABELS)
    last = len(labels) - 1
    return [one if (last - place) % step == 0 else "" for place, one in enumerate(labels)]


def fitted(one: Mapping[str, Any], rows: Any, tint: str, name: str) -> go.Scatter:
    """The sigmoid over what was seen."""
    t = np.linspace(rows[0]["position"], rows[-1]["position"], CURVE_POINTS)
    values = sigmoid(t / 1000, *(one["fit"]["values"][key] for key in NAMES))
    return go.Scatter(
        x=t.tolist(),
        y=values.tolist(),
        mode="lines",
        line={"color": tint, "dash": "dash"},
        name=f"{name}, sigmoid",
        legendgroup=name,
    )


def by_cut(found: Mapping[str, Any], value: str, count: str) -> go.Figure:
    """A value with its interval by cut."""
    figure = go.Figure()
    for name, one in found["models"].items():
        rows = [
            r for r in one["hand_over"] if math.isfinite(r[value]) and r[count] >= FEWEST_HANDED
        ]
        tint = colour(found, name)
        whole = [row for row in rows if math.isfinite(row[f"{value}_low"])]
        figure.add_trace(band(whole, "cut", value, tint, name))
        figure.add_trace(
            go.Scatter(
                x=[row["cut"] for row in rows],
                y=[row[value] for row in rows],
                text=[f"n={row[count]}" for row in rows],
                cliponaxis=False,
                mode="lines+markers+text",
                textposition="bottom center" if one["own"] else "top center",
                textfont={"size": 10, "color": tint},
                name=name,
                line={"color": tint},
                legendgroup=name,
            )
        )
    figure.update_xaxes(title="tokens of the response kept at the hand-over", rangemode="tozero")
    return figure


def hand_over_figure(found: Mapping[str, Any]) -> go.Figure:
    figure = by_cut(found, "accuracy", "n")
    for name in found["students"]:
        rows = [r for r in found["models"][name]["hand_over"] if r["n"] >= FEWEST_HANDED]
        figure.add_trace(
            go.Scatter(
                x=[row["cut"] for row in rows],
                y=[row["accuracy_from_nothing"] for row in rows],
                mode="lines",
                line={"color": colour(found, name), "dash": "dot", "width": 1},
                name=f"{name}, the same problems from cut 0",
                legendgroup=name,
            )
        )
    figure.update_yaxes(title="accuracy of the finished answer", range=[-0.05, 1.1])
    return figure


def jump_figure(found: Mapping[str, Any]) -> go.Figure:
    figure = by_cut(found, "jump", "jumps")
    figure.update_yaxes(title="rise of the teacher's confidence")
    return figure


def horizon_figure(found: Mapping[str, Any]) -> go.Figure:
    names = [
        name for name in found["models"] if math.isfinite(found["models"][name]["horizon"]["value"])
    ]
    ends = [found["models"][name]["horizon"] for name in names]
    figure = go.Figure(
        go.Scatter(
            x=names,
            y=[end["value"] for end in ends],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(0.0, end["high"] - end["value"]) for end in ends],
                "arrayminus": [max(0.0, end["value"] - end["low"]) for end in ends],
            },
            text=[horizon(end) for end in ends],
            textposition="middle right",
            mode="markers+text",
            marker={"size": 11, "color": [colour(found, name) for name in names]},
        )
    )
    figure.update_yaxes(title="t_eff, tokens", rangemode="tozero")
    return figure


def cloud(points: Any, tint: str, name: str) -> go.Scattergl:
    """A scatter of single tokens."""
    return go.Scattergl(
        x=[point[0] for point in points],
        y=[point[1] for point in points],
        mode="markers",
        marker={"size": 4, "color": tint, "opacity": 0.25},
        name=f"{name} ({len(points):,} shown)",
        legendgroup=name,
    )


def ahead_figure(found: Mapping[str, Any]) -> go.Figure:
    """D_ahead against the teacher's local entropy."""
    figure = go.Figure()
    for name, one in found["models"].items():
        seen, tint = one["ahead"], colour(found, name)
        if "points" not in seen:
            continue
        figure.add_trace(cloud(seen["points"], tint, name))
        figure.add_trace(
            go.Scatter(
                x=[row["entropy"] for row in seen["bins"]],
                y=[row["ahead"] for row in seen["bins"]],
                mode="lines+markers",
                line={"color": tint, "width": 3},
                name=f"{name}, mean",
                legendgroup=name,
            )
        )
    figure.update_xaxes(title="the teacher's entropy before the token, nats")
    figure.update_yaxes(title="D_ahead")
    return figure


def pair_figure(found: Mapping[str, Any]) -> go.Figure:
    """Log-probabilities of teacher against student."""
    figure = go.Figure()
    for name in found["students"]:
        seen = found["models"][name]["pair"]
        if "points" in seen:
            figure.add_trace(cloud(seen["points"], colour(found, name), name))
    figure.update_xaxes(title="student's log-probability, nats")
    figure.update_yaxes(title="teacher's log-probability, nats")
    return figure
