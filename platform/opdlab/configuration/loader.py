"""Experiment files: found by path or name, read, overridden, checked, expanded into runs, saved."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from opdlab import credentials, plugins, secret_options
from opdlab.configuration import documents, explain
from opdlab.configuration.absent import absent
from opdlab.configuration.checking import validate, validate_all
from opdlab.configuration.config import AnySweep, Experiment
from opdlab.configuration.pretrain_config import Pretraining
from opdlab.configuration.run_faults import run_faults
from opdlab.configuration.section import Section, replaced
from opdlab.configuration.several_seeds import repeats
from opdlab.configuration.source import Source, assign, set_values
from opdlab.configuration.stored_scores import as_written
from opdlab.datafiles import has_format
from opdlab.errors import ConfigError
from opdlab.files import find, write_whole

KINDS: dict[str, type[Experiment] | type[Pretraining]] = {
    "train": Experiment,
    "pretrain": Pretraining,
}
_LINE = "command line"


def load(
    name_or_path: str | Path, overrides: Sequence[str] = (), there: bool = False
) -> Experiment | Pretraining:
    """Read an experiment file and check all of it.

    Args:
        name_or_path: a file, or the name of a shipped experiment (`quickstart`).
        overrides: `key.path=value`, the value in YAML; list items by their number from 0.
        there: whether models and files that it names must be there, too.

    Raises:
        ConfigError: all mistakes, one per line: file, line, key, and the key that was probably meant.
    """
    try:
        return _load(name_or_path, overrides, there)
    except ConfigError as error:
        told = "\n".join(map(explain.capped, str(error).split("\n")))
        raise (error if told == str(error) else ConfigError(told)) from error.__cause__


def _load(
    name_or_path: str | Path, overrides: Sequence[str], there: bool
) -> Experiment | Pretraining:
    path = find(str(name_or_path))
    document = documents.read(path, _shown(path))
    if document.data is None:
        raise ConfigError(f"{document.name}:1: the file is empty; an experiment was expected")
    if not isinstance(document.data, dict):
        shown = explain.show(document.data)
        raise ConfigError(f"{document.name}:1: a mapping (key: value) was expected, not {shown}")
    beside = path.parent if Path(name_or_path).is_file() else Path.cwd()
    written = _placed(_bare(document.data, document.name), beside)
    source = _override(Source(written, document), overrides)
    bare = secret_options.placed(_bare(source.data, document.name))
    source = replace(source, data=_placed(bare, Path.cwd()))
    model = _kind(source)
    config, found, rest, gone = validate_all(model, source)
    faults = [f"{source.where(path)}: {message}" for path, message in found]
    faults += run_faults(source, overrides, set(faults))
    if model is Experiment:
        faults += _faults_of_a_sweep(config, rest, gone)
    if there and isinstance(config, Experiment):
        faults += [f"{source.where(path)}: {message}" for path, message in absent(config)]
    if config is None or faults:
        told = "\n".join(sorted(dict.fromkeys(faults), key=_by_line))
        raise ConfigError(credentials.hide(secret_options.hide(told)))
    return config


def _bare(data: Any, name: str) -> Any:
    try:
        return secret_options.cut(credentials.without(data), "")
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
        if section.endswith(".benchmarks") and data.get("type") == "dataset":
            section += ".DATASET"
        inside = {key: (value, f"{section}.{key}") for key, value in data.items()}
        return {key: _placed(value, folder, name) for key, (value, name) in inside.items()}
    if isinstance(data, list):
        return [_placed(value, folder, section) for value in data]
    if not isinstance(data, str):
        return data
    # Below `sweep.space` the key of a choice stands between, or nothing but a list of them.
    named = re.search(
        r"(^|\.)(prompts(\.values(\.[^.]+)?)?(\.sources(\.\d+)?)?|benchmarks\.DATASET)"
        r"\.path(\.values(\.[^.]+)?)?$",
        section,
    )
    if re.search(r"(^|\.)grader\.(evaluate|metric|evaluate\.metric)$", section):
        there = folder / Path(data).expanduser()
        return os.path.abspath(there) if there.exists() else data
    if re.search(r"(^|\.)teacher\.scores$", section):
        there = folder / Path(data).expanduser()
        return os.path.abspath(there) if there.is_dir() else data
    if not named:
        return data
    there = folder / Path(data).expanduser()
    return os.path.abspath(there) if has_format(data) or there.is_dir() else data


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
        return [(plugins.called(plugins.METHODS, experiment.method), experiment)]
    source = Source(as_written(experiment.model_dump(mode="json")), None)
    expanded = []
    for index, run in enumerate(experiment.runs):
        config, found = validate(Experiment, set_values(source, ("runs", index, "set"), run.set))
        if not isinstance(config, Experiment):
            raise ConfigError("\n".join(f"run {run.name}: {message}" for _, message in found))
        expanded.append((run.name, config))
    return expanded


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """An experiment with other values at dotted keys, as one trial of a sweep has them.

    Raises:
        ConfigError: a value cannot be used; `load` has found that for the ends of every range.
    """
    source = Source(as_written(experiment.model_dump(mode="json")), None)
    config, found = validate(Experiment, set_values(source, (), values))
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
    told = config.model_dump(mode="json")
    write_whole(path, documents.file_text(as_written(told) if "teacher" in told else told))


def _kind(source: Source) -> type[Experiment] | type[Pretraining]:
    kind = source.data.get("kind", "train")
    if not isinstance(kind, str) or kind not in KINDS:
        known = list(KINDS)
        raise ConfigError(
            f"{source.where(('kind',))}: kind must be one of {', '.join(known)}, not {explain.show(kind)}."
            + explain.close(str(kind), known)
        )
    return KINDS[kind]


def _override(source: Source, overrides: Sequence[str]) -> Source:
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
            moved[assign(data, key, documents.value(text))] = _LINE
        except ValueError as error:
            faults.append(f"{_LINE}: {documents.short(override)}: {error}")
    if faults:
        raise ConfigError("\n".join(faults))
    return Source(data, source.document, moved)


def _faults_of_a_sweep(config: Any, rest: Source, gone: set[str]) -> list[str]:
    """What is wrong with a sweep, also where it does not fit to the rest of the file.

    Args:
        config: the experiment without its faults, None where a rule between its sections is broken.
        gone: sections that were at fault, in whose place others stand.
    """
    if isinstance(config, Experiment):
        return [] if config.sweep is None else config.sweep.faults(rest, config, gone)
    alone = {key: value for key, value in rest.data.items() if key not in ("sweep", "runs")}
    base, *_ = validate_all(Experiment, Source(alone, rest.document, rest.moved))
    try:
        sweep = plugins.strictly(AnySweep, rest.data.get("sweep"))
    except ValidationError:
        return []
    return sweep.faults(rest, base, gone) if isinstance(base, Experiment) else []


def _shown(path: Path) -> str:
    """A file as messages name it: relative where that is shorter to read."""
    inside = path.resolve().is_relative_to(Path.cwd())
    return str(path.resolve().relative_to(Path.cwd()) if inside else path)


def _by_line(fault: str) -> tuple[bool, int]:
    """Order of faults: by line, those of the command line last."""
    number = fault.partition(": ")[0].rpartition(":")[2]
    return (False, int(number)) if number.isdecimal() else (True, 0)
