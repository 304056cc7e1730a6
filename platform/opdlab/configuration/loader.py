"""Experiment files: found by path or name, read, overridden, checked, expanded into runs, saved."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import models_json_schema

from opdlab import credentials, plugins
from opdlab.configuration import documents, explain
from opdlab.configuration.config import Experiment, Variant
from opdlab.configuration.documents import Document, Key
from opdlab.configuration.pretrain_config import Pretraining
from opdlab.configuration.section import Section
from opdlab.configuration.several_seeds import repeats
from opdlab.datafiles import has_format
from opdlab.errors import ConfigError
from opdlab.files import find, write_whole
from opdlab.sweeps import (
    DIMENSION_KEYS,
    Choice,
    Dimension,
    Sweep,
    chosen_values,
    misnamed,
    replaced,
    tries,
)

KINDS: dict[str, type[Experiment] | type[Pretraining]] = {
    "train": Experiment,
    "pretrain": Pretraining,
}
_LINE = "command line"
_STAND_INS: dict[tuple[str, ...], Any] = {
    ("name",): "x",
    ("student",): {"path": "embedded:student"},
    ("teacher",): {"path": "embedded:teacher"},
    ("prompts",): {"type": "dataset", "path": "x.jsonl"},
    ("rollout",): {"type": "cached"},
    ("method",): {"type": "sft"},
    ("training",): {"steps": 10**9},
    ("training", "steps"): 10**9,
    ("sweep", "trials"): 1,
}
"""What takes the place of a faulty value that must be there, while the rest is checked."""
_WHOLE = ("kind", "name", "runs", "output", "tracking")  # keys of the experiment as a whole


@dataclass(frozen=True)
class _Source:
    """Values as they were written, and where each was.

    Attributes:
        data: plain values.
        document: the file; None for values that come from a program.
        moved: what does not stand at its own place in the file: path to the place in the file where it
            does, or to a name of another origin.
    """

    data: Any
    document: Document | None
    moved: Mapping[explain.Path, explain.Path | str] = field(default_factory=dict)

    def where(self, path: explain.Path) -> str:
        """Origin of a value, as messages begin: file and line, or the command line."""
        for length in range(len(path), 0, -1):
            origin = self.moved.get(path[:length])
            if isinstance(origin, str):
                return origin
            if origin is not None:
                return self.where((*origin, *path[length:]))
        if self.document is None:
            return "configuration"
        return f"{self.document.name}:{self.document.line(path)}"


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Experiment | Pretraining:
    """Read an experiment file and check all of it.

    Args:
        name_or_path: a file, or the name of a shipped experiment (`quickstart`).
        overrides: `key.path=value`, the value in YAML; list items by their number from 0.

    Raises:
        ConfigError: every fault, one a line: file, line, key, and the key that was likely meant.
    """
    path = find(str(name_or_path))
    document = documents.read(path, _shown(path))
    if document.data is None:
        raise ConfigError(f"{document.name}:1: the file is empty; an experiment was expected")
    if not isinstance(document.data, dict):
        shown = explain.show(document.data)
        raise ConfigError(f"{document.name}:1: a mapping (key: value) was expected, not {shown}")
    beside = path.parent if Path(name_or_path).is_file() else Path.cwd()
    written = _placed(_bare(document.data, document.name), beside)
    source = _override(_Source(written, document), overrides)
    source = replace(source, data=_placed(_bare(source.data, document.name), Path.cwd()))
    model = _kind(source)
    config, found, rest, gone = _validate_all(model, source)
    faults = [f"{source.where(path)}: {message}" for path, message in found]
    faults += _run_faults(source, overrides, set(faults))
    if model is Experiment:
        faults += _faults_of_a_sweep(config, rest, gone)
    if config is None or faults:
        raise ConfigError("\n".join(sorted(dict.fromkeys(faults), key=_by_line)))
    return config


def _bare(data: Any, name: str) -> Any:
    try:
        return credentials.without(data)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _placed(data: Any, folder: Path, section: str = "") -> Any:
    """The same values with files of prompts named from the root, so that a run finds them from anywhere.

    Args:
        folder: what relative names are relative to: of the file that holds them; the current one for
            those of the command line and of shipped experiments.
        section: dotted key of `data`.
    """
    if isinstance(data, Mapping):
        inside = {key: (value, f"{section}.{key}") for key, value in data.items()}
        return {key: _placed(value, folder, name) for key, (value, name) in inside.items()}
    if isinstance(data, list):
        return [_placed(value, folder, section) for value in data]
    if not isinstance(data, str) or not has_format(data):
        return data
    # Below `sweep.space` the key of a choice stands between, or nothing but a list of them.
    named = re.search(r"(^|\.)prompts(\.values(\.[^.]+)?)?\.path(\.values(\.[^.]+)?)?$", section)
    return os.path.abspath(folder / Path(data).expanduser()) if named else data


def load_experiment(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """`load`, for a file of kind `train` alone."""
    config = load(name_or_path, overrides)
    if not isinstance(config, Experiment):
        raise ConfigError(f"{name_or_path} is of kind pretrain: run it with `opdlab pretrain`")
    return config


def load_pretraining(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Pretraining:
    """`load`, for a file of kind `pretrain` alone."""
    config = load(name_or_path, overrides)
    if not isinstance(config, Pretraining):
        raise ConfigError(f"{name_or_path} is of kind train: run it with `opdlab train`")
    return config


def variants(experiment: Experiment) -> list[tuple[str, Experiment]]:
    """Name and configuration of each run; without `runs` there is one, named after the method.

    Raises:
        ConfigError: a run sets what cannot be set; `load` has found that already.
    """
    if not experiment.runs:
        return [(plugins.type_name(plugins.METHODS, experiment.method), experiment)]
    source = _Source(experiment.model_dump(mode="json"), None)
    expanded = []
    for index, run in enumerate(experiment.runs):
        config, found = _validate(Experiment, _set(source, ("runs", index, "set"), run.set))
        if not isinstance(config, Experiment):
            raise ConfigError("\n".join(f"run {run.name}: {message}" for _, message in found))
        expanded.append((run.name, config))
    return expanded


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """An experiment with other values at dotted keys, as one trial of a sweep has them.

    Raises:
        ConfigError: a value cannot be used; `load` has found that for the ends of every range.
    """
    source = _Source(experiment.model_dump(mode="json"), None)
    config, found = _validate(Experiment, _set(source, (), values))
    if not isinstance(config, Experiment):
        raise ConfigError("\n".join(message for _, message in found))
    return config


def run_names(config: Experiment | Pretraining) -> list[str]:
    """Names of the runs that a configuration stands for."""
    if isinstance(config, Pretraining):
        return [config.name]
    return [one.name for one in repeats(variants(config))]


def json_schema() -> dict[str, Any]:
    """JSON schema of experiment files of every kind, with the options of all installed plugins."""
    modes: list[Any] = [(model, "validation") for model in KINDS.values()]
    references, shared = models_json_schema(modes, ref_template="#/$defs/{model}")
    train, pretrain = (references[mode] for mode in modes)
    is_pretraining = {"properties": {"kind": {"const": "pretrain"}}, "required": ["kind"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "opdlab experiment",
        "if": is_pretraining,
        "then": pretrain,
        "else": train,
        **shared,
    }


def save_resolved(config: Section, path: Path) -> None:
    """Write a configuration, defaults included, as YAML that `load` reads to an equal one."""
    write_whole(path, documents.text(config.model_dump(mode="json")))


def _validate(
    model: type[Experiment] | type[Pretraining], source: _Source
) -> tuple[Experiment | Pretraining | None, list[explain.Found]]:
    try:
        # JSON mode is strict about types, yet takes a list for a tuple.
        return model.model_validate_json(json.dumps(source.data), strict=True), []
    except ValidationError as error:
        return None, explain.faults(error, model, source.data)


def _validate_all(
    model: type[Experiment] | type[Pretraining], source: _Source
) -> tuple[Experiment | Pretraining | None, list[explain.Found], _Source, set[str]]:
    """The configuration without its faults, all of them, what of the source is left, and whole sections
    that are not.

    Some checks are made only where others have passed. So what is at fault is taken out, with a value in
    its place where one must stand there, and the rest is checked again.
    """
    rest = _Source(copy.deepcopy(source.data), source.document, source.moved)
    told: list[explain.Found] = []
    out: list[explain.Path] = []
    while True:
        config, found = _validate(model, rest)
        known = {message for _, message in told}
        told += [one for one in found if one[1] not in known and not _follows(one, out)]
        # A section without what it needs, such as its type, is none.
        places = [path if _at(rest.data, path) else path[:1] for path, _ in found]
        new = [path for path in places if not _holds(path, out) and _take_out(rest.data, path)]
        if config is not None or not new:
            return config, told, rest, {str(path[0]) for path in out if len(path) == 1}
        out += new


def _at(data: Any, path: explain.Path) -> bool:
    """Whether a value stands at a path that can be taken out alone."""
    for key in path:
        if isinstance(data, list):
            if not isinstance(key, int) or key >= len(data):
                return False
            data = data[key]
        elif isinstance(data, dict) and key in data:
            data = data[key]
        else:
            return False
    return path[1:] != ("type",)


def _follows(found: explain.Found, out: Sequence[explain.Path]) -> bool:
    """Whether a fault may be there only because of what was taken out: it is about it, or names it."""
    path, message = found
    words = set(re.findall(r"\w+", message))
    named = any(str(gone[-1]).split(".")[-1] in words for gone in out if len(gone) > 1)
    return named or bool(path and _holds(path, out))


def _holds(path: explain.Path, out: Sequence[explain.Path]) -> bool:
    """Whether what was taken out stood at a path or below it."""
    return any(path == gone[: len(path)] for gone in out)


def _take_out(data: Any, path: explain.Path) -> bool:
    """Remove what stands at a path, or the list that it is part of; False where nothing does."""
    if path[:2] == ("sweep", "space"):
        path = path[:3]
    whole = next((n for n, key in enumerate(path) if isinstance(key, int)), len(path))
    *above, last = path[:whole] or (None,)
    place = data
    for key in above:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        return False
    stand_in = _STAND_INS.get(tuple(map(str, path[:whole])))
    if place[last] == stand_in:
        return False
    del place[last]
    if stand_in is not None:
        place[last] = stand_in
    if path[:2] == ("sweep", "space"):
        # How well a sampler fits depends on all of the space.
        data["sweep"].pop("sampler", None)
    return True


def _kind(source: _Source) -> type[Experiment] | type[Pretraining]:
    kind = source.data.get("kind", "train")
    if not isinstance(kind, str) or kind not in KINDS:
        known = list(KINDS)
        raise ConfigError(
            f"{source.where(('kind',))}: kind must be one of {', '.join(known)}, not {explain.show(kind)}."
            + explain.close(str(kind), known)
        )
    return KINDS[kind]


def _override(source: _Source, overrides: Sequence[str]) -> _Source:
    """The source with the command line's values in it."""
    data, moved, faults = copy.deepcopy(source.data), {}, []
    keys = [override.partition("=")[0] for override in overrides]
    for number, override in enumerate(overrides):
        key, equals, text = override.partition("=")
        try:
            if not equals or not key:
                raise ValueError("an override has the form key.path=value")
            if later := replaced(key, keys[number:]):
                raise ValueError(f"{later[0]} would replace it; write {key} after it")
            moved[_assign(data, key, documents.value(text))] = _LINE
        except ValueError as error:
            faults.append(f"{_LINE}: {override}: {error}")
    if faults:
        raise ConfigError("\n".join(faults))
    return _Source(data, source.document, moved)


def _assign(root: dict[str, Any], key: str, value: Any) -> explain.Path:
    """Put a value at a dotted key, making missing sections; returns the path of what is new.

    Raises:
        ValueError: the key goes through something that has no keys, or past the end of a list.
    """
    place: Any = root
    path: list[Key] = []
    parts = key.split(".")
    made: explain.Path = ()
    while True:
        step, parts = _step(place, parts, path, value)
        path.append(step)
        if not parts:
            break
        if isinstance(place, dict) and place.get(step) is None:
            place[step] = {}
            made = made or tuple(path)
        place = place[step]
    place[step] = value
    return made or tuple(path)


def _step(place: Any, parts: list[str], path: Sequence[Key], value: Any) -> tuple[Key, list[str]]:
    """The key or index to go to from a place at `path`, and the parts of the key that are left.

    Args:
        value: what is to be put at the end of the parts.
    """
    name = explain.dotted(path)
    if isinstance(place, list):
        if not parts[0].isdecimal() or int(parts[0]) >= len(place):
            raise ValueError(f"{name} is a list of {len(place)}; name one by its number from 0")
        return int(parts[0]), parts[1:]
    if not isinstance(place, dict):
        raise ValueError(f"{name} is no section, so {name}.{parts[0]} cannot be set")
    dotted = _has_dotted_keys(path)
    for length in range(len(parts), 0, -1):
        joined, left = ".".join(parts[:length]), parts[length:]
        if joined in place and not (dotted and left and _stands_beside(path, left, value)):
            return joined, left
    if dotted:
        # A section here would replace the experiment's own, and with it all that it sets.
        return ".".join(parts), []
    return parts[0], parts[1:]


def _has_dotted_keys(path: Sequence[Key]) -> bool:
    """Whether the mapping at a path has keys of the experiment, dots included, as its own keys."""
    match list(path):
        case ["runs", int(), "set"] | ["sweep", "space"] | ["sweep", "space", _, "when"]:
            return True
    return False


def _stands_beside(path: Sequence[Key], left: Sequence[str], value: Any) -> bool:
    """Whether a longer key is another one: `method.top_k` beside `method`, and no part of it.

    Args:
        left: the parts that the longer key has more.
    """
    if path[-1] == "when":
        return True
    return path[-1] == "space" and left[0] not in DIMENSION_KEYS and isinstance(value, dict)


def _run_faults(source: _Source, overrides: Sequence[str], known: set[str]) -> list[str]:
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
            expanded = _set(source, ("runs", index, "set"), run.set)
        except ConfigError as error:
            place, _, text = str(error).partition(": ")
            faults.append(f"{place}: run {run.name}: {text}")
            continue
        config, found = _validate(Experiment, expanded)
        for path, message in found:
            if f"{expanded.where(path)}: {message}" not in known:
                faults.append(f"{expanded.where(path)}: run {run.name}: {message}")
        if isinstance(config, Experiment):
            at = source.where(("runs", index, "set"))
            faults += [f"{at}: run {run.name}: {fault}" for fault in _odd_seeds(source, config)]
        if isinstance(config, Experiment) and config.evaluation.benchmarks:
            ways[index, run.name] = config.measured_by()
    return faults + _measured_apart(source, ways)


def _odd_seeds(source: _Source, run: Experiment) -> list[str]:
    """Why a run's seeds cannot be paired with those of the other runs."""
    data = source.data
    shared = data["training"].get("seeds", 1) if isinstance(data.get("training"), dict) else 1
    if run.training.seeds != shared:
        return ["training.seeds is the same for all runs; set it for the whole experiment"]
    if shared > 1 and run.seed != data.get("seed", 0):
        return ["with training.seeds above 1 all runs have the same seeds; leave seed out"]
    return []


def _measured_apart(
    source: _Source, ways: Mapping[tuple[int, str], Mapping[str, Any]]
) -> list[str]:
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


def _faults_of_a_sweep(config: Any, rest: _Source, gone: set[str]) -> list[str]:
    """What is wrong with keys and ranges of a sweep, also where it does not fit to the rest of the file.

    Args:
        config: the experiment without its faults, None where a rule between its sections is broken.
        gone: sections that were at fault, in whose place others stand.
    """
    if isinstance(config, Experiment):
        return [] if config.sweep is None else _sweep_faults(rest, config, config.sweep, gone)
    alone = {key: value for key, value in rest.data.items() if key not in ("sweep", "runs")}
    base, *_ = _validate_all(Experiment, _Source(alone, rest.document, rest.moved))
    try:
        sweep = Sweep.model_validate_json(json.dumps(rest.data.get("sweep")), strict=True)
    except ValidationError:
        return []
    return _sweep_faults(rest, base, sweep, gone) if isinstance(base, Experiment) else []


def _sweep_faults(source: _Source, config: Experiment, sweep: Sweep, gone: set[str]) -> list[str]:
    """What is wrong with keys and ends of ranges of a sweep, each where it stands in the file."""
    faults, unfit = [], set()
    for name in sweep.space:
        at = source.where(("sweep", "space", name))
        if name.split(".")[0] in gone:
            unfit.add(name)
            continue
        if name.split(".")[0] in (*_WHOLE, "seed", "evaluation", "sweep"):
            unfit.add(name)
            faults.append(f"{at}: sweep.space: {name} is the same in all trials and cannot vary")
        elif name.endswith(".type"):
            unfit.add(name)
            faults.append(f"{at}: sweep.space: choose the whole {name[:-5]} among named values")
    for path, message in [] if "evaluation" in gone else misnamed(config, sweep):
        at = source.where(("sweep", *path))
        faults.append(f"{at}: sweep.{explain.dotted(path)}: {message}")
    space = {name: one for name, one in sweep.space.items() if name not in unfit}
    space = {name: one for name, one in space.items() if not unfit & one.when.keys()}
    for name in space:
        faults += _unusable(source, config, space, name)
    return faults


def _unusable(
    source: _Source, config: Experiment, space: Mapping[str, Dimension], name: str
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
    source: _Source, config: Experiment, space: Mapping[str, Dimension], name: str, value: Any
) -> tuple[list[str], bool]:
    """Why no trial can have a value, and whether rules between keys alone refuse it; empty if one can."""
    at = source.where(("sweep", "space", name))
    told: list[str] = []
    by_rule = False
    for chosen in tries(space, name, value):
        try:
            expanded = _set(source, ("sweep", "space"), chosen_values(space, chosen))
        except ConfigError as error:
            place, _, text = str(error).partition(": ")
            return [f"{place}: sweep.space: {text}"], False
        try:
            trial = Experiment.model_validate_json(json.dumps(expanded.data), strict=True)
        except ValidationError as error:
            if not told:
                by_rule = all(one["type"] == "value_error" for one in error.errors())
                found = explain.faults(error, Experiment, expanded.data)
                told = [f"{expanded.where(path)}: sweep.space: {fault}" for path, fault in found]
            continue
        unfit = config.unfit_trials(trial)
        if not unfit:
            return [], False
        told = told or [f"{at}: sweep.space: {fault}" for fault in unfit]
    return told, by_rule


def _unsettable(key: str, overrides: Sequence[str], index: int) -> list[str]:
    first, last = key.split(".")[0], key.split(".")[-1]
    if first in _WHOLE:
        return [f"{first} belongs to the whole experiment; a run cannot set it"]
    if last == "type":
        section = key.removesuffix(".type")
        return [f"replace the whole section, {section}: {{type: ...}}, not its type alone"]
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


def _set(source: _Source, place: explain.Path, values: Mapping[str, Any]) -> _Source:
    """The source of one run: without what makes several of it, with values that stand at `place`."""
    data = copy.deepcopy(source.data)
    data.pop("runs", None)
    data.pop("sweep", None)
    moved = dict(source.moved)
    for key, value in values.items():
        origin = (*place, key)
        try:
            path = _assign(data, key, copy.deepcopy(value))
        except ValueError as error:
            raise ConfigError(f"{source.where(origin)}: {error}") from error
        moved[path] = origin
    return _Source(data, source.document, moved)


def _shown(path: Path) -> str:
    """A file as messages name it: relative where that is shorter to read."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return str(path.resolve().relative_to(Path.cwd()) if inside else path)


def _by_line(fault: str) -> tuple[bool, int]:
    """Order of faults: by line, those of the command line last."""
    number = fault.partition(": ")[0].rpartition(":")[2]
    return (False, int(number)) if number.isdecimal() else (True, 0)
