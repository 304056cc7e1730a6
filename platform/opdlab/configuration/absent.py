"""What an experiment names and is not there, told without loading any of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from opdlab.configuration.config import Experiment
from opdlab.configuration.explain import Found
from opdlab.configuration.model_settings import Model, Teacher
from opdlab.configuration.prompt_settings import DatasetPrompts
from opdlab.datafiles import is_pattern, names_file
from opdlab.errors import DataError, ModelError, OutOfReachError
from opdlab.modelling import place_of
from opdlab.scores import read_manifest

_COMMIT = re.compile(r"[0-9a-f]{40}")


def absent(config: Experiment) -> Iterator[Found]:
    """Key and message of each model folder and file of prompts that is missing."""
    if config.teacher.scores is not None:
        try:
            read_manifest(Path(config.teacher.scores).expanduser())
        except DataError as error:
            yield ("teacher", "scores"), f"teacher.scores: {error}"
    for key, model in _models(config):
        if isinstance(model, Teacher) and model.scores is not None:
            continue
        try:
            place_of(model.path, model.revision)
        except (ModelError, OutOfReachError) as error:
            yield (*key, "path"), f"{'.'.join(map(str, key))}.path: {error}"
    if not isinstance(config.prompts, DatasetPrompts):
        return
    for number, source in enumerate(config.prompts.resolved()):
        here, path = Path(source.path).expanduser(), source.path
        if names_file(path) and not here.exists() and not is_pattern(path):
            key = ("prompts", "sources", number) if config.prompts.sources else ("prompts",)
            where = ".".join(map(str, key))
            yield (*key, "path"), f"{where}.path: there is no file {here.absolute()}"


def moving(config: Experiment) -> Iterator[str]:
    """A note on each revision that may be another one tomorrow."""
    named = [(key, one.revision) for key, one in _models(config)]
    if isinstance(config.prompts, DatasetPrompts):
        named += [(("prompts",), one.revision) for one in config.prompts.resolved()]
    for key, revision in named:
        if revision is not None and not _COMMIT.fullmatch(revision):
            yield (
                f"{'.'.join(map(str, key))}.revision: {revision!r} is not a commit (40 hexadecimal "
                "digits), so it may name other files tomorrow; "
                "put the commit there before a run that counts"
            )


def _models(config: Experiment) -> list[tuple[tuple[str | int, ...], Model]]:
    found: list[tuple[tuple[str | int, ...], Model]] = [
        (("student",), config.student),
        (("teacher",), config.teacher),
    ]
    return found + [(("specialists", i), one) for i, one in enumerate(config.specialists)]
