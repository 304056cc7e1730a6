"""The findings as one self-contained page of figures; nothing is fetched when it is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from opdlab.diagnosis.figures import (
    ahead_figure,
    fidelity_figure,
    hand_over_figure,
    horizon_figure,
    jump_figure,
    pair_figure,
)
from opdlab.diagnosis.report import horizon, number, spanned
from opdlab.files import GENERATOR

HEIGHT = 430
FIGURE = {
    "template": "plotly_white",
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
}
LEGEND = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "itemsizing": "constant"}
LEGEND_ROW = 20
"""Pixels; the legend stands below, so that one of many models does not cover their curves."""
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --dim: #56606e; --line: #e3e7ec;
--no: #a0392b; --yes: #2e7d4f; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151a; --ink: #e7eaee; --dim: #9aa5b3;
--line: #333b46; --no: #ff8d83; --yes: #5ed37f; } }
@media print { :root { --paper: #fff; --ink: #000; --dim: #444; --line: #ccc; --no: #a0392b;
--yes: #2e7d4f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { margin: .4rem 0; } .why { color: var(--dim); } .scroll { overflow-x: auto; } figure { margin: 0; }
table { border-collapse: collapse; font-size: .9rem; } td, th { padding: .25rem .7rem; text-align: right;
border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
.no { color: var(--no); font-weight: 600; } .yes { color: var(--yes); font-weight: 600; }
"""
THEME = """
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let paper = false;
  function draw() {
    const on = dark.matches && !paper, ink = on ? "#e7eaee" : "#1c2430", line = on ? "#333b46" : "#e3e7ec";
    const none = "rgba(0,0,0,0)";
    document.querySelectorAll(".js-plotly-plot").forEach((plot) => {
      const all = { paper_bgcolor: none, plot_bgcolor: none, "font.color": ink };
      for (const name of Object.keys(plot.layout).filter((one) => /^[xy]axis/.test(one)))
        for (const part of ["gridcolor", "linecolor", "zerolinecolor"]) all[`${name}.${part}`] = line;
      (plot.layout.shapes ?? []).forEach((_, n) => { all[`shapes[${n}].line.color`] = ink; });
      Plotly.relayout(plot, all);
    });
  }
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { paper = true; draw(); });
  addEventListener("afterprint", () => { paper = false; draw(); });
  draw();
})();
"""
"""Figures follow the theme of the page, and are light on paper."""


def html(found: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [f"<h1>Supervision fidelity: {escape(found['experiment'])}</h1>", head(found)]
    script: bool = True
    for title, text, figure in sections(found):
        parts.append(f"<h2>{escape(title)}</h2><p class='why'>{text}</p>")
        if not figure.data:
            continue
        height = HEIGHT + LEGEND_ROW * len(found["models"])
        figure.update_layout(**FIGURE, height=height, legend=LEGEND)
        alt = f"Figure: {title}. Its numbers stand in the text and the table above."
        parts.append(drawn(figure, alt, script, {"displaylogo": False}))
        script = False
    return document(f"Fidelity of {found['experiment']}", "\n".join(parts))


def drawn(figure: go.Figure, alt: str, script: bool, config: Mapping[str, Any]) -> str:
    """A figure as a part of a page.

    Args:
        alt: what it shows, for those who do not see it.
        script: whether the drawing program comes with it, as it must with the first of a page.
    """
    text = figure.to_html(full_html=False, include_plotlyjs=script, config=dict(config))
    return f"<figure aria-label='{escape(alt)}'>{text}</figure>"


def document(title: str, body: str) -> str:
    """A page that fetches nothing."""
    script = f"<script>{THEME}</script>" if "plotly-graph-div" in body else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"{GENERATOR}"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<link rel='icon' href='data:,'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main>{script}</body></html>\n"
    )


def scrolled(table: str, label: str) -> str:
    """A table that is moved sideways where it is wider than the screen, by keys as well."""
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(label)}'>{table}</div>"
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
        first, *rest = cells
        others = "".join(f"<td>{cell}</td>" for cell in rest)
        rows.append(f"<tr><th scope='row'>{first}</th>{others}</tr>")
    header = "".join(f"<th scope='col'>{column}</th>" for column in columns)
    table = f"<table><tr>{header}</tr>{''.join(rows)}</table>"
    return (
        f"<p class='why'>Teacher {escape(found['teacher'])}; n = {found['problems']} problems. "
        "F(t) is the teacher's largest next-token probability after t tokens of a response. Intervals are "
        "95 %, over problems. Early and late are an answer's own first and last quarter, and the fall is "
        "from one to the other within answers; the horizon is the last position, in tokens, with an F(t) "
        f"above {found['least']:g}.</p>" + scrolled(table, "models with their fidelity")
    )


NOT = "<span class='no'>not identified</span>"


def sections(found: Mapping[str, Any]) -> Iterator[tuple[str, str, go.Figure]]:
    """Title, text and figure of each measurement."""
    yield "Fidelity by position", fits_text(found), fidelity_figure(found)
    yield "Prefix hand-over", hand_over_text(found), hand_over_figure(found)
    yield "Jump of confidence", jump_text(found), jump_figure(found)
    yield "Effective horizon", horizon_text(found), horizon_figure(found)
    yield "One-step discriminability", ahead_text(found), ahead_figure(found)
    yield "Pair distance", pair_text(found), pair_figure(found)


def fits_text(found: Mapping[str, Any]) -> str:
    lines = [
        f"{escape(name)}: {escape(one['fit']['text'])}" for name, one in found["models"].items()
    ]
    lines += [
        f"{escape(name)} less control, {escape(one['drift']['text'])}"
        for name, one in found["models"].items()
        if "drift" in one
    ]
    lines += [
        f"{escape(found['students'][0])} to {escape(name)}: {escape(one['text'])}"
        for name, moved in found["shifts"].items()
        for one in moved.values()
    ]
    return (
        "Along the curves: n problems whose answers reach a bin. Where others have ended, those that are "
        "left are a choice: long answers, which may be the wrong ones. So the fall is within answers, "
        "changes are over problems and positions that both models reach, "
        "and shown only where they are after correction for all of them (Bonferroni), and the sigmoid is "
        "fitted to how F moves within problems.<br>"
        "F = b + A / (1 + exp(eps (t - t_star))), t in thousands of tokens.<br>"
        + "<br>".join(lines)
    )


def hand_over_text(found: Mapping[str, Any]) -> str:
    lines = []
    for name, one in found["models"].items():
        together = one["accuracy_with_fidelity"]
        said = (
            f"within problems accuracy and F at the cut correlate with r = {together['r']:.2f} over "
            f"{together['cuts']} cuts"
            if together["r"] is not None
            else f"no correlation of accuracy with F ({escape(together['why'])})"
        )
        lines.append(f"{escape(name)}: {said}")
    return (
        "The teacher finishes responses from a cut on; n are those longer than the cut. At cut 0 it "
        "answers by itself; dotted: its accuracy there on the problems whose responses reach a cut, so "
        "that what is only a choice of problems shows as such.<br>" + "<br>".join(lines)
    )


def jump_text(found: Mapping[str, Any]) -> str:
    return (
        f"The teacher's mean largest probability over {found['window']} states of its own "
        f"continuation, minus that over the last {found['window']} states of the prefix it took over; "
        "n are hand-overs with as many on both sides."
    )


def horizon_text(found: Mapping[str, Any]) -> str:
    return (
        f"The last position with F(t) above {found['least']:g}, as it moves within problems; students in "
        f"the order of their training; n = {found['problems']} problems each. At least: all that "
        "was seen lies within."
    )


def ahead_text(found: Mapping[str, Any]) -> str:
    lines = []
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
    return (
        f"How far apart the teacher's confidence is after one of the student's {found['top_k']} likeliest "
        "tokens and after another. Lookahead has something to go by where this is large, also where the "
        "teacher's own entropy is high.<br>" + "<br>".join(lines)
    )


def pair_text(found: Mapping[str, Any]) -> str:
    lines = []
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
    return "Log-probabilities of the student's tokens by student and teacher.<br>" + "<br>".join(
        lines
    )
