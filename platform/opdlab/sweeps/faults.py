"""What is wrong with a sweep's keys, ranges and metrics, found before any trial is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from opdlab.configuration import WHOLE, Experiment, Source, explain, set_values
from opdlab.errors import ConfigError
from opdlab.plugins import strictly
from opdlab.sweeps.goals import Limit, Objective
from opdlab.sweeps.metrics import misnamed
from opdlab.sweeps.space import Choice, Dimension, chosen_values, conditions, tries
from opdlab.sweeps.unfit import unfit_trials


def of_metrics(
    source: Source, experiment: Experiment, judged: Mapping[str, Sequence[Objective | Limit]]
) -> list[str]:
    """What is wrong with the names of metrics, by the key of the sweep that holds them."""
    return [
        f"{source.where(('sweep', *path))}: sweep.{explain.dotted(path)}: {message}"
        for path, message in misnamed(experiment, judged)
    ]


def of_space(
    source: Source, experiment: Experiment, space: Mapping[str, Dimension], gone: set[str]
) -> list[str]:
    """What is wrong with keys and ends of ranges, each where it stands in the file.

    Args:
        gone: sections that were at fault, in whose place others stand.
    """
    faults: list[str] = []
    unfit: set[str] = set()
    for name in space:
        at = source.where(("sweep", "space", name))
        if name.split(".")[0] in gone:
            unfit.add(name)
        elif name.split(".")[0] in (*WHOLE, "seed", "evaluation", "sweep"):
            unfit.add(name)
            faults.append(f"{at}: sweep.space: {name} is the same in all trials and cannot vary")
        elif name.endswith(".type"):
            unfit.add(name)
            faults.append(f"{at}: sweep.space: choose the whole {name[:-5]} among named values")
    space = {name: one for name, one in space.items() if name not in unfit}
    space = {name: one for name, one in space.items() if not unfit & one.when.keys()}
    for name in space:
        faults += _unusable(source, experiment, space, name)
        faults += _alike(source, space, name)
    return faults


def _alike(source: Source, space: Mapping[str, Dimension], name: str) -> list[str]:
    """Names of a choice that stand for the same, so that their trials would come out the same."""
    dimension = space[name]
    if not isinstance(dimension, Choice) or not isinstance(dimension.values, dict):
        return []
    alone = {key: space[key] for key in (*conditions(space, name), name)}
    faults: list[str] = []
    seen: list[tuple[str, Experiment]] = []
    for value in dimension.values:
        chosen = chosen_values(alone, {**conditions(space, name), name: value})
        try:
            expanded = set_values(source, ("sweep", "space"), chosen)
            trial = strictly(Experiment, expanded.data)
        except (ConfigError, ValidationError):
            continue  # told by the check of each value
        if same := next((earlier for earlier, one in seen if one == trial), None):
            at = source.where(("sweep", "space", name, "values", value))
            faults.append(
                f"{at}: sweep.space: {name}: {value} stands for the same as {same}, so trials of both "
                "would be equal; leave one out"
            )
        seen.append((value, trial))
    return faults


def _unusable(
    source: Source, config: Experiment, space: Mapping[str, Dimension], name: str
) -> list[str]:
    """Values of a key that no trial could have, whatever else it has.

    A value that goes with some values of other keys is none of them: the trials that combine it with others
    fail with the reason. Nor is the end of a range where a rule between keys refuses it and the range holds
    values that can be used.
    """
    faults: list[str] = []
    excused: list[str] = []
    usable = False
    for value in space[name].ends():
        told, by_rule = _refusals(source, config, space, name, value)
        usable |= not told
        (excused if by_rule and not isinstance(space[name], Choice) else faults).extend(told)
    if excused and not usable:
        inner = space[name].inner()
        if all(_refusals(source, config, space, name, value)[0] for value in inner):
            faults += excused
    return faults


def _refusals(
    source: Source, config: Experiment, space: Mapping[str, Dimension], name: str, value: Any
) -> tuple[list[str], bool]:
    """Why no trial can have a value, and whether rules between keys alone refuse it; empty if one can."""
    at = source.where(("sweep", "space", name))
    told: list[str] = []
    by_rule = False
    for chosen in tries(space, name, value):
        try:
            expanded = set_values(source, ("sweep", "space"), chosen_values(space, chosen))
        except ConfigError as error:
            place, _, text = str(error).partition(": ")
            return [f"{place}: sweep.space: {text}"], False
        try:
            trial = strictly(Experiment, expanded.data)
        except ValidationError as error:
            if not told:
                by_rule = all(one["type"] == "value_error" for one in error.errors())
                found = explain.faults(error, Experiment, expanded.data)
                told = [f"{expanded.where(path)}: sweep.space: {fault}" for path, fault in found]
            continue
        unfit = unfit_trials(config, trial)
        if not unfit:
            return [], False
        told = told or [f"{at}: sweep.space: {fault}" for fault in unfit]
    return told, by_rule
