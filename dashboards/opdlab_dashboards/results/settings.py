"""What tells runs of one experiment or sweep apart: the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opdlab.identity import learned
from opdlab_dashboards.results.measured import Measured
from opdlab_dashboards.results.rows import Row

GENERAL = ("type", "path")
"""Last parts of keys that say nothing by themselves."""
LONGEST = 40


def varied(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By row, the dotted keys in which rows of its experiment or sweep differ, with its values.

    Keys of a method are compared among runs of that method. Its name, which every table tells, is not among
    them, nor are keys that some runs lack.
    """
    each = [_settings(row) for row in rows]
    values: dict[tuple[str, ...], set[str]] = {}
    for row, settings in zip(rows, each, strict=True):
        for key, value in settings.items():
            values.setdefault(_shared(row, key), set()).add(repr(value))
    return [
        {key: value for key, value in settings.items() if len(values[_shared(row, key)]) > 1}
        for row, settings in zip(rows, each, strict=True)
    ]


def in_short(settings: Mapping[str, Any]) -> str:
    """Settings in one line, such as `top_k 10, reward_weight 1.85`."""
    lasts = [key.rpartition(".")[2] for key in settings]
    names = [
        key if last in GENERAL or lasts.count(last) > 1 else last
        for key, last in zip(settings, lasts, strict=True)
    ]
    return ", ".join(f"{n} {_text(v)}" for n, v in zip(names, settings.values(), strict=True))


def _settings(row: Row) -> dict[str, Any]:
    if row.role != "run":
        return {}
    told = learned(row.runs[0].config, paths=True)
    return {key: value for key, value in sorted(_leaves(told)) if key != "method.type"}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shared(row: Row, key: str) -> tuple[str, ...]:
    """Equal for values that are compared with each other."""
    return _experiment(row.runs[0]), row.method if key.startswith("method.") else "", key


def _experiment(run: Measured) -> str:
    """The study of a sweep, or the name of an experiment, whichever of its executions it was."""
    execution = run.execution
    return str(execution.trial.get("study", execution.experiment)) if execution else ""


def _text(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
