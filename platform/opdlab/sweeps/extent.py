"""The trials of a sweep that take the most work, found before any of them runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from opdlab.configuration import Experiment, loader
from opdlab.errors import ConfigError
from opdlab.sweeps.settings import Sweep
from opdlab.sweeps.space import Dimension, chosen_values, ends, tries

MOST_CORNERS = 64
"""Combinations of ends that are looked at; each is checked as an experiment, which takes a while."""
SIZED = ("training", "rollout", "method")
"""Sections that decide how much work a training is."""
RATES = ("learning_rate", "weight_decay", "average_decay", "temperature", "top_p", "clip", "weight")
"""Endings of keys in them that do not, of which there may be many."""


def outermost(config: Experiment, sweep: Sweep) -> list[Experiment]:
    """Trials at the ends of all keys that decide the work, the experiment itself where none can be.

    Work grows or falls with each of these keys, so the most of any trial is at some of the ends.
    """
    found = []
    for chosen in _corners(sweep.space):
        try:
            found.append(loader.with_values(config, chosen_values(sweep.space, chosen)))
        except ConfigError:
            continue  # a combination that no trial can have
    return found or [config]


def _corners(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    needed = {name for name in space if _sized(name)}
    needed |= {other for name in needed for other in _above(space, name)}
    sized = {name: one for name, one in space.items() if name in needed}
    listed = ends(sized, MOST_CORNERS)
    if listed is not None:
        return listed
    single = (
        point for name in sized for end in sized[name].ends() for point in tries(sized, name, end)
    )
    return [point for point, _ in zip(single, range(MOST_CORNERS), strict=False)]


def _sized(name: str) -> bool:
    return name.split(".")[0] in SIZED and not name.endswith(RATES)


def _above(space: Mapping[str, Dimension], name: str) -> Iterator[str]:
    """Keys that a key depends on."""
    for other in space[name].when:
        yield other
        yield from _above(space, other)
