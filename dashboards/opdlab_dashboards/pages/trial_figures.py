"""Figures of a sweep: trials across all keys, key by key, in their order, and what the keys explain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opdlab_dashboards.results import Row, Swept, short
from opdlab_dashboards.results.swept import Trial

ABSENT = -0.12
"""Height at which a trial without a key crosses its axis, below the smallest value."""
INTERVAL = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": "--dim"}
PLACE = "trials"
LONGEST = 24
"""Characters of a text beside an axis."""

Told = dict[str, Any]


def figures(sweep: Swept, rows: Mapping[int, Row]) -> Iterator[Told]:
    """All of them that there are data for.

    Args:
        rows: what was measured of a trial, by its number.
    """
    some = sweep.drawn
    keys = [key for key in sweep.keys if len(_seen(some, key)) > 1]
    if keys and len(some) > 1:
        yield _across(sweep, keys)
        yield from (_slice(sweep, key) for key in keys)
    yield from _importance(sweep)
    if some:
        yield _history(sweep, rows)
    if some and len(sweep.objectives) > 1:
        yield _against(sweep)


def _seen(trials: Sequence[Trial], key: str) -> list[Any]:
    return list(dict.fromkeys(t.params[key] for t in trials if t.params.get(key) is not None))


class Scale:
    """Where on an axis from 0 to 1 the values of a key stand."""

    def __init__(self, values: Sequence[Any], log: bool):
        words = any(isinstance(v, str | bool) for v in values)
        # Names keep the order in which the space has them.
        self.values: list[Any] = list(dict.fromkeys(values)) if words else sorted(values)
        self.words = words
        self.log = log and not words and self.values[0] > 0

    def at(self, value: Any) -> float:
        """0 for the smallest, 1 for the largest."""
        if self.words:
            return self.values.index(value) / max(len(self.values) - 1, 1)
        low, high = (self._moved(self.values[end]) for end in (0, -1))
        return (self._moved(value) - low) / (high - low) if high > low else 0.5

    def _moved(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Places with the values that stand there."""
        told = self.values if self.words else [self.values[0], self.values[-1]]
        return [(self.at(value), in_figure(value)) for value in told]


def in_figure(value: Any) -> str:
    """A value where there is little room: of a long text the beginning."""
    text = short(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _scale(sweep: Swept, key: str) -> Scale:
    told = sweep.space.get(key, {})
    found = _seen(sweep.drawn, key)
    listed = [value for value in told.get("values", []) if value in found]
    return Scale(listed or found, bool(told.get("log")))


def _across(sweep: Swept, keys: Sequence[str]) -> Told:
    """A line a trial, from key to key to what came out; the best over all others."""
    scales = {key: _scale(sweep, key) for key in keys}
    metrics = [metric for metric, _ in sweep.objectives]
    of_metrics = [
        Scale([trial.values[n] for trial in sweep.drawn], False) for n in range(len(metrics))
    ]
    traces = []
    count = len(sweep.drawn)
    for place, trial in reversed(list(enumerate(sweep.drawn))):
        chosen = [trial.params.get(key) for key in keys]
        heights = [
            ABSENT if value is None else scales[key].at(value)
            for key, value in zip(keys, chosen, strict=True)
        ]
        heights += [scale.at(v) for scale, v in zip(of_metrics, trial.values, strict=True)]
        words = [
            *(
                f"{sweep.named(key)} {short(value)}"
                for key, value in zip(keys, chosen, strict=True)
            ),
            *(f"{metric} {v:.4g}" for metric, v in zip(metrics, trial.values, strict=True)),
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "trials": [trial.number],
                "x": list(range(len(heights))),
                "y": heights,
                "text": [f"trial {trial.number}: {word}" for word in words],
                "hovertemplate": "%{text}<extra></extra>",
                "heat": 1 - place / max(count - 1, 1),
                "line": {"width": 3.5 if place == 0 else 1.3},
            }
        )
    names = [*map(sweep.named, keys), *metrics]
    absent = any(ABSENT in trace["y"] for trace in traces)
    marks = [
        _mark(x, height, word)
        for x, scale in enumerate([*scales.values(), *of_metrics])
        for height, word in scale.marks
    ]
    low = ABSENT if absent else 0
    return {
        "place": PLACE,
        "title": "Parallel coordinates: a line a trial"
        + (", at the bottom where it lacks a key" if absent else ""),
        "alt": f"{count} trials across {', '.join(names)}. Darker lines came out better by {sweep.metric}; "
        f"the thick one is trial {sweep.drawn[0].number}, the best. The table of trials has all values.",
        "wide": True,
        "traces": traces,
        "layout": {
            "showlegend": False,
            "margin": {"l": 24, "r": 60, "t": 30, "b": 12},
            "xaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "side": "top",
                "range": [-0.25, len(names) - 0.6],
                "gridcolor": "--dim",
                "fixedrange": True,
            },
            "yaxis": {"visible": False, "range": [low - 0.06, 1.06], "fixedrange": True},
            "annotations": marks,
        },
    }


def _mark(x: int, height: float, word: str) -> Told:
    return {
        "x": x,
        "y": height,
        "text": word,
        "xanchor": "left",
        "xshift": 4,
        "showarrow": False,
        "font": {"size": 11},
        "bgcolor": "--paper",
        "opacity": 0.85,
    }


def _dots(
    some: Sequence[Trial], x: Sequence[Any], y: Sequence[float], hover: str, **more: Any
) -> Told:
    """A trace with a marker a trial."""
    return {
        "type": "scatter",
        "mode": "markers",
        "trials": [trial.number for trial in some],
        "x": x,
        "y": y,
        "hovertemplate": f"{hover}<extra></extra>",
        "marker": {"size": 7, "color": "--link"},
        **more,
    }


def _slice(sweep: Swept, key: str) -> Told:
    """What came out over the values of one key."""
    some = [trial for trial in sweep.drawn if trial.params.get(key) is not None]
    told = sweep.space.get(key, {})
    scale = _scale(sweep, key)
    axis: Told = {"type": "log" if told.get("log") else "linear"}
    if scale.words:
        names = {str(value): in_figure(value) for value in scale.values}
        ticks = {"tickvals": list(names), "ticktext": list(names.values())}
        order = {"categoryorder": "array", "categoryarray": list(names)}
        axis = {"type": "category", **order, **ticks}
    if axis["type"] == "log":
        axis |= {"tickformat": "~g", "minexponent": 6}
        if max(t.params[key] for t in some) >= 10 * min(t.params[key] for t in some):
            axis["dtick"] = 1
    values = [str(t.params[key]) if scale.words else t.params[key] for t in some]
    unit, outcome = _outcome(sweep, some)
    return {
        "place": PLACE,
        "title": _named(sweep, key),
        "alt": f"{sweep.metric} of {len(some)} trials against {key}; the table of trials has the values.",
        "slice": True,
        "traces": [
            _dots(
                some,
                values,
                outcome,
                "%{text}, %{y:.4g}",
                text=[f"trial {t.number}: {sweep.named(key)} {short(t.params[key])}" for t in some],
            )
        ],
        "layout": {
            "showlegend": False,
            "margin": {"l": 40, "r": 8, "t": 6, "b": 28},
            "xaxis": {**axis, "title": {"text": ""}},
            "yaxis": {"title": {"text": unit}},
        },
    }


def _named(sweep: Swept, key: str) -> str:
    """A key's own name with the trials that have it, since only shares of the same trials compare."""
    when = sweep.space.get(key, {}).get("when", {})
    return (
        f"{sweep.named(key)} ({', '.join(f'{sweep.named(k)} = {in_figure(v)}' for k, v in when.items())})"
        if when
        else sweep.named(key)
    )


def _outcome(sweep: Swept, some: Sequence[Trial]) -> tuple[str, list[float]]:
    """The first objective of trials; in % where it is a share of right answers."""
    scored = sweep.metric.rpartition("/")[2].startswith(("mean_at", "pass_at"))
    unit = f"{sweep.metric}, %" if scored else sweep.metric
    return unit, [trial.values[0] * (100 if scored else 1) for trial in some]


def _importance(sweep: Swept) -> Iterator[Told]:
    """Bars with their intervals, of each objective that has shares."""
    for metric, keys in sweep.importance.items():
        if not keys:
            continue
        named = list(keys.items())[::-1]
        of = f" in {metric}" if len(sweep.objectives) > 1 else ""
        told = "; ".join(f"{key} {text}" for each, key, text in sweep.shares if each == metric)
        yield {
            "place": PLACE,
            "title": f"What matters{of}: share of each key in what all explain, 95 % intervals",
            "alt": f"Importance{of} by functional ANOVA over complete trials: {told}.",
            "traces": [
                {
                    "type": "bar",
                    "orientation": "h",
                    "x": [100 * share["share"] for _, share in named],
                    "y": [_named(sweep, key) for key, _ in named],
                    "marker": {"color": "--link"},
                    "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>",
                    "error_x": {
                        **INTERVAL,
                        "color": "--ink",
                        "width": 4,
                        "array": [max(0.0, 100 * (s["high"] - s["share"])) for _, s in named],
                        "arrayminus": [max(0.0, 100 * (s["share"] - s["low"])) for _, s in named],
                    },
                }
            ],
            "layout": {
                "showlegend": False,
                "xaxis": {"range": [0, 102], "title": {"text": "%"}},
                "bargap": 0.5,
            },
        }


def _history(sweep: Swept, rows: Mapping[int, Row]) -> Told:
    """What came out in the order of the trials, with the best until then."""
    some = sorted(sweep.drawn, key=lambda trial: trial.number)
    unit, outcome = _outcome(sweep, some)
    sign = 1 if sweep.objectives[0][1] == "maximize" else -1
    best: list[float | None] = []
    for trial, value in zip(some, outcome, strict=True):
        earlier = best[-1] if best else None
        better = earlier is None or sign * value > sign * earlier
        best.append(value if trial.feasible and better else earlier)
    numbers = [trial.number for trial in some]
    error = {}
    if sweep.metric == "mean_at_k" and all(
        n in rows and rows[n].mean.value is not None for n in numbers
    ):
        scores = [rows[n].mean for n in numbers]
        error["error_y"] = {
            **INTERVAL,
            "array": [100 * (s.high or 0) - y for s, y in zip(scores, outcome, strict=True)],
            "arrayminus": [y - 100 * (s.low or 0) for s, y in zip(scores, outcome, strict=True)],
        }
    return {
        "place": PLACE,
        "title": "History: trials in their order"
        + (", with 95 % intervals over problems" if error else ""),
        "alt": f"{sweep.metric} of {len(some)} trials in the order in which they ran; the best so far: "
        f"{_steps(numbers, best)}.",
        "traces": [
            _dots(some, numbers, outcome, "trial %{x}: %{y:.4g}", name="trial", **error),
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": numbers,
                "y": best,
                "hoverinfo": "skip",
                "line": {"shape": "hv", "width": 2, "color": "--up"},
            },
        ],
        "layout": {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": unit}}},
    }


def _steps(numbers: Sequence[int], best: Sequence[float | None]) -> str:
    """Where the best so far changed, in words."""
    changes = {value: n for n, value in reversed(list(zip(numbers, best, strict=True)))}
    ordered = sorted((n, value) for value, n in changes.items() if value is not None)
    return ", ".join(f"{value:.4g} in trial {n}" for n, value in ordered) or "none"


def _against(sweep: Swept) -> Told:
    """The first two objectives against each other."""
    (one, way), (other, other_way) = sweep.objectives[:2]
    some = sweep.drawn
    return {
        "place": PLACE,
        "title": f"{other} ({other_way}) against {one} ({way})",
        "alt": f"{other} of {len(some)} trials against their {one}; the table of trials has the values.",
        "traces": [
            _dots(
                some,
                [trial.values[0] for trial in some],
                [trial.values[1] for trial in some],
                "%{text}: %{x:.4g}, %{y:.4g}",
                text=[f"trial {trial.number}" for trial in some],
            )
        ],
        "layout": {
            "showlegend": False,
            "xaxis": {"title": {"text": one}},
            "yaxis": {"title": {"text": other}},
        },
    }
