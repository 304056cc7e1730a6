"""Findings in the terminal and as metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from opdlab.console import BOLD, DIM, END
from opdlab.evaluation import STYLE


def tables(found: Mapping[str, Any]) -> Iterator[Table | str]:
    """The gist: fall, boundary, horizon, pair of every model; then accuracy by cut."""
    yield overview(found)
    for name, one in found["models"].items():
        yield f"{BOLD}{name}{END} sigmoid: {one['fit']['text']}"
        if "drift" in one:
            yield f"{BOLD}{name}{END} less control, {one['drift']['text']}"
    for name, moved in found["shifts"].items():
        said = "; ".join(one["text"] for one in moved.values())
        yield f"{BOLD}{found['students'][0]} to {name}{END}: {said}"
    yield hand_overs(found)


def overview(found: Mapping[str, Any]) -> Table:
    """One row a model."""
    title = f"Supervision fidelity, n = {found['problems']} problems, 95 % intervals over them"
    table = Table(title=title, **STYLE)
    table.add_column("prefixes of")
    columns = ("tokens", "F early", "F late", "fall", f"horizon F > {found['least']:g}")
    for column in (*columns, "D_ahead", "r with entropy", "pair r"):
        table.add_column(column, justify="right", overflow="fold")
    for name, one in found["models"].items():
        fall, ahead, pair = one["fall"], one["ahead"], one.get("pair", {})
        table.add_row(
            name,
            f"{one['tokens']:,}",
            f"{fall['early']:.3f}",
            f"{fall['late']:.3f}",
            spanned(fall["value"], fall["low"], fall["high"], "+.2f"),
            horizon(one["horizon"]),
            number(ahead.get("mean")),
            number(ahead.get("rank_r"), "+.2f"),
            number(pair.get("r")),
        )
    return table


def horizon(found: Mapping[str, Any]) -> str:
    """The effective horizon in tokens; where all that was seen lies within, it is at least that."""
    if not math.isfinite(found["value"]):
        return "-"
    return f"{'at least ' if found['at_end'] else ''}{found['value']:.0f}"


def hand_overs(found: Mapping[str, Any]) -> Table:
    """Accuracy and jump of confidence by cut, a column a model."""
    table = Table(title="Accuracy in % where the teacher takes over; below it the jump", **STYLE)
    table.add_column("cut", justify="right")
    for name in found["models"]:
        table.add_column(name, justify="right")
    columns = [{row["cut"]: row for row in one["hand_over"]} for one in found["models"].values()]
    for cut in sorted({cut for column in columns for cut in column}):
        table.add_row(str(cut), *(handed(column.get(cut)) for column in columns))
    return table


def handed(row: Mapping[str, Any] | None) -> str:
    """One cell: accuracy with its interval and n, and the jump of confidence."""
    if row is None or not math.isfinite(row["accuracy"]):
        return "-"
    value, low, high = (100 * row[f"accuracy{end}"] for end in ("", "_low", "_high"))
    text = f"{value:.0f} [{low:.0f},{high:.0f}] {DIM}n={row['n']}{END}"
    return f"{text}\n{row['jump']:+.3f}" if math.isfinite(row["jump"]) else text


def spanned(value: float, low: float, high: float, form: str) -> str:
    """A value with its interval."""
    if not math.isfinite(value):
        return "-"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:{form}}"


def metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """What is worth a number in a tracker; parameters of a fit only where it is identified."""
    values: dict[str, float] = {}
    for name, one in found["models"].items():
        place = (
            "own" if one["own"] else "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
        )
        own = {"fall": one["fall"]["value"]}
        # A horizon that only ends where answers do is no horizon: it has a name of its own.
        end = one["horizon"]
        own["horizon_at_least" if end["at_end"] else "horizon"] = end["value"]
        own |= {f"accuracy_at_{row['cut']}": row["accuracy"] for row in one["hand_over"]}
        if one["fit"]["identified"]:
            own |= {**one["fit"]["values"], "r_squared": one["fit"]["r_squared"]}
        if "r" in one.get("pair", {}):
            own |= {"pair_r": one["pair"]["r"], "pair_slope": one["pair"]["slope"]}
        moved = found["shifts"].get(name, {})
        if "drift" in one:
            own["late_less_control"] = one["drift"]["value"]
        own |= {
            f"{what}_change": change["value"]
            for what, change in moved.items()
            if not change.get("bound")
        }
        values |= {f"{place}/{key}": float(value) for key, value in own.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}
