"""What is wrong with the runs of an experiment, beyond what is wrong with all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from opdlab.configuration.checking import validate
from opdlab.configuration.config import Experiment, Variant
from opdlab.configuration.section import replaced
from opdlab.configuration.source import Source, set_values
from opdlab.errors import ConfigError

WHOLE = ("kind", "name", "runs", "output", "tracking")  # keys of the experiment as a whole


def run_faults(source: Source, overrides: Sequence[str], known: set[str]) -> list[str]:
    """What is wrong with the runs of an experiment beyond what is wrong with all of it."""
    try:
        runs = TypeAdapter(list[Variant]).validate_python(source.data.get("runs", []))
    except ValidationError:
        return []
    faults, ways = [], {}
    for index, run in enumerate(runs):
        for key in run.set:
            at = source.where(("runs", index, "set", key))
            told = [*_unsettable(key, overrides, index), *_lost_keys(key, run.set)]
            faults += [f"{at}: run {run.name}: {fault}" for fault in told]
        try:
            expanded = set_values(source, ("runs", index, "set"), run.set)
        except ConfigError as error:
            place, _, text = str(error).partition(": ")
            faults.append(f"{place}: run {run.name}: {text}")
            continue
        config, found = validate(Experiment, expanded)
        for path, message in found:
            if f"{expanded.where(path)}: {message}" not in known:
                faults.append(f"{expanded.where(path)}: run {run.name}: {message}")
        if isinstance(config, Experiment):
            at = source.where(("runs", index, "set"))
            faults += [f"{at}: run {run.name}: {fault}" for fault in _odd_seeds(source, config)]
        if isinstance(config, Experiment) and config.evaluation.benchmarks:
            ways[index, run.name] = config.measured_by()
    return faults + _measured_apart(source, ways)


def _odd_seeds(source: Source, run: Experiment) -> list[str]:
    """Why a run's seeds cannot be paired with those of the other runs."""
    data = source.data
    shared = data["training"].get("seeds", 1) if isinstance(data.get("training"), dict) else 1
    if run.training.seeds != shared:
        return ["training.seeds is the same for all runs; set it for the whole experiment"]
    if shared > 1 and run.seed != data.get("seed", 0):
        return ["with training.seeds above 1 all runs have the same seeds; leave seed out"]
    return []


def _measured_apart(source: Source, ways: Mapping[tuple[int, str], Mapping[str, Any]]) -> list[str]:
    """Runs that would be measured in another way than the first, and so could not be compared with it."""
    if not ways:
        return []
    (first, name), expected = next(iter(ways.items()))
    faults = []
    for (index, other), found in ways.items():
        odd = [key for key in expected if expected[key] != found.get(key)]
        if odd and index != first:
            remedy = (
                "set evaluation.max_new_tokens for all of them"
                if odd == ["rollout.max_new_tokens"]
                else "give all runs one way, or make them two experiments"
            )
            at = source.where(("runs", index, "set"))
            faults.append(
                f"{at}: run {other} would be measured in another way than run {name}, by "
                f"{', '.join(odd)}, and could not be compared with it; {remedy}"
            )
    return faults


def _unsettable(key: str, overrides: Sequence[str], index: int) -> list[str]:
    first, last = key.split(".")[0], key.split(".")[-1]
    if first in WHOLE:
        return [f"{first} belongs to the whole experiment; a run cannot set it"]
    if last == "type":
        section = key.removesuffix(".type")
        return [f"replace the whole section, {section}: {{type: ...}}, not only its type"]
    lost = [one for one in overrides if f"{one.partition('=')[0]}.".startswith(f"{key}.")]
    return [
        f"sets {key}, so {one} on the command line would be lost; override runs.{index}.set.{one}"
        for one in lost
    ]


def _lost_keys(key: str, values: Mapping[str, Any]) -> list[str]:
    """Keys of a run that a later one, which names the whole section, would replace."""
    return [
        f"{later} would replace what {key} has set; write {key} after it"
        for later in replaced(key, values)
    ]
