"""The findings as one self-contained page of figures; nothing is fetched when it is opened."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from opdlab.diagnosis.findings import FEWEST_HANDED
from opdlab.diagnosis.report import horizon, number, spanned
from opdlab.fidelity import NAMES, sigmoid

COLOURS = ("#c0392b", "#2c6fbb", "#8e44ad", "#d68910", "#16a085", "#7f8c8d")
OWN = "#2e8b57"
FIGURE = {
    "height": 430,
    "template": "plotly_white",
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
}
CURVE_POINTS = 200
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 62rem; margin: 2rem auto;
padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { margin: .4rem 0; } .why { color: #56606e; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .25rem .7rem; text-align: right;
border-bottom: 1px solid #e3e7ec; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
.no { color: #a0392b; font-weight: 600; } .yes { color: #2e7d4f; font-weight: 600; }
"""


def html(found: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [f"<h1>Supervision fidelity: {escape(found['experiment'])}</h1>", head(found)]
    script: bool = True
    for title, text, figure in sections(found):
        parts.append(f"<h2>{escape(title)}</h2><p class='why'>{text}</p>")
        if figure is None:
            continue
        figure.update_layout(**FIGURE, legend={"orientation": "h", "y": 1.12, "x": 0})
        parts.append(
            figure.to_html(full_html=False, include_plotlyjs=script, config={"displaylogo": False})
        )
        script = False
    body = "\n".join(parts)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<link rel='icon' href='data:,'>"
        f"<title>Fidelity of {escape(found['experiment'])}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def head(found: Mapping[str, Any]) -> str:
    """What was measured, and the gist as a table."""
    columns = (
        "prefixes of",
        "responses",
        "tokens",
        "F early",
        "F late",
        "fall of F",
        "horizon",
        "sigmoid",
    )
    rows = []
    for name, one in found["models"].items():
        fall, fit = one["fall"], one["fit"]
        known = "<span class='yes'>identified</span>" if fit["identified"] else NOT
        cells = (
            escape(name),
            f"{one['responses']:,}",
            f"{one['tokens']:,}",
            number(fall["early"]),
            number(fall["late"]),
            spanned(fall["value"], fall["low"], fall["high"], "+.3f"),
            horizon(one["horizon"]),
            known,
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{column}</th>" for column in columns)
    return (
        f"<p class='why'>Teacher {escape(found['teacher'])}; n = {found['problems']} problems. "
        "F(t) is the teacher's largest next-token probability after t tokens of a response. Intervals are "
        "95 %, over problems. Early and late are the first and the last quarter of the positions; the "
        f"horizon is the last position, in tokens, with a mean F above {found['least']:g}.</p>"
        f"<div class='scroll'><table><tr>{header}</tr>{''.join(rows)}</table></div>"
    )


NOT = "<span class='no'>not identified</span>"


def sections(found: Mapping[str, Any]) -> Iterator[tuple[str, str, go.Figure | None]]:
    """Title, text and figure of each measurement."""
    yield "Fidelity by position", fits_text(found), fidelity_figure(found)
    yield "Prefix hand-over", hand_over_text(found), hand_over_figure(found)
    yield "Jump of confidence", jump_text(found), jump_figure(found)
    yield "Effective horizon", horizon_text(found), horizon_figure(found)
    yield "One-step discriminability", *ahead(found)
    yield "Pair distance", *pair(found)


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
                mode="lines+markers",
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


def fits_text(found: Mapping[str, Any]) -> str:
    lines = [
        f"{escape(name)}: {escape(one['fit']['text'])}" for name, one in found["models"].items()
    ]
    lines += [
        f"{escape(found['students'][0])} to {escape(name)}: {escape(moved['text'])}"
        for name, moved in found["shifts"].items()
    ]
    return "F = b + A / (1 + exp(eps (t - t_star))), t in thousands of tokens.<br>" + "<br>".join(
        lines
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
                mode="lines+markers+text",
                textposition="bottom center" if one["own"] else "top center",
                textfont={"size": 10, "color": tint},
                name=name,
                line={"color": tint},
                legendgroup=name,
            )
        )
    figure.update_xaxes(title="tokens of the response kept at the hand-over")
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


def hand_over_text(found: Mapping[str, Any]) -> str:
    lines = []
    for name, one in found["models"].items():
        together = one["accuracy_with_fidelity"]
        said = (
            f"accuracy and F at the cut correlate with r = {together['r']:.2f} over {together['cuts']} cuts"
            if together["r"] is not None
            else f"no correlation of accuracy with F ({escape(together['why'])})"
        )
        lines.append(f"{escape(name)}: {said}")
    return (
        "The teacher finishes responses from a cut on; n are those longer than the cut. At cut 0 it "
        "answers by itself; dotted: its accuracy there on the problems whose responses reach a cut, so "
        "that what is only a choice of problems shows as such.<br>" + "<br>".join(lines)
    )


def jump_figure(found: Mapping[str, Any]) -> go.Figure:
    figure = by_cut(found, "jump", "jumps")
    figure.update_yaxes(title="rise of the teacher's confidence")
    return figure


def jump_text(found: Mapping[str, Any]) -> str:
    return (
        f"The teacher's mean largest probability over {found['window']} states of its own continuation, "
        f"less that over the last {found['window']} states of the prefix it took over; n are hand-overs "
        "with as many on both sides."
    )


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
            textposition="bottom center",
            mode="markers+text",
            marker={"size": 11, "color": [colour(found, name) for name in names]},
        )
    )
    figure.update_yaxes(title="t_eff, tokens", rangemode="tozero")
    return figure


def horizon_text(found: Mapping[str, Any]) -> str:
    return (
        f"The last position with a mean fidelity above {found['least']:g}, students in the order of their "
        f"training; n = {found['problems']} problems each. At least: all that was seen lies within."
    )


def ahead(found: Mapping[str, Any]) -> tuple[str, go.Figure | None]:
    """D_ahead against the teacher's local entropy."""
    figure, lines = go.Figure(), []
    for name, one in found["models"].items():
        seen = one["ahead"]
        if "points" not in seen:
            lines.append(f"{escape(name)}: not measured, {escape(seen['why'])} (n = {seen['n']})")
            continue
        r = spanned(seen["rank_r"], seen["rank_r_low"], seen["rank_r_high"], "+.2f")
        lines.append(
            f"{escape(name)}: mean D_ahead {seen['mean']:.3f}, rank correlation with entropy {r}, "
            f"n = {seen['n']:,} positions of {seen['problems']} problems"
        )
        figure.add_trace(cloud(seen["points"], colour(found, name), name))
        figure.add_trace(
            go.Scatter(
                x=[row["entropy"] for row in seen["bins"]],
                y=[row["ahead"] for row in seen["bins"]],
                mode="lines+markers",
                line={"color": colour(found, name), "width": 3},
                name=f"{name}, mean",
                legendgroup=name,
            )
        )
    figure.update_xaxes(title="the teacher's entropy before the token, nats")
    figure.update_yaxes(title="D_ahead")
    text = (
        f"How far apart the teacher's confidence is after one of the student's {found['top_k']} likeliest "
        "tokens and after another. Lookahead has something to go by where this is large, also where the "
        "teacher's own entropy is high.<br>" + "<br>".join(lines)
    )
    return text, figure if figure.data else None


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


def pair(found: Mapping[str, Any]) -> tuple[str, go.Figure | None]:
    """Log-probabilities of teacher against student."""
    figure, lines = go.Figure(), []
    for name in found["students"]:
        seen = found["models"][name]["pair"]
        if "points" not in seen:
            lines.append(f"{escape(name)}: not measured, {escape(seen['why'])} (n = {seen['n']})")
            continue
        r = spanned(seen["r"], seen["r_low"], seen["r_high"], ".3f")
        lines.append(
            f"{escape(name)}: Pearson r {r}, slope {seen['slope']:.3f}, n = {seen['n']:,} tokens of "
            f"{seen['problems']} problems"
        )
        figure.add_trace(cloud(seen["points"], colour(found, name), name))
    figure.update_xaxes(title="student's log-probability, nats")
    figure.update_yaxes(title="teacher's log-probability, nats")
    text = "Log-probabilities of the student's tokens by student and teacher.<br>" + "<br>".join(
        lines
    )
    return text, figure if figure.data else None
