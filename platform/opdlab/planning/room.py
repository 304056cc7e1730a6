"""Whether a training fits where it is started; and what would have helped where it did not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from opdlab.configuration import Experiment, loader
from opdlab.console import gib
from opdlab.errors import ConfigError, DataError, OutOfReachError, OutOfRoomError
from opdlab.modelling import models
from opdlab.planning.cards import Card
from opdlab.planning.footprint import footprint
from opdlab.planning.lengths import assumed, longest_prompt
from opdlab.planning.phases import PHASES, Site, Step, averaged, memory
from opdlab.planning.proposal import as_written, proposed
from opdlab.training import ranks

_GIB = 1 << 30
# Of the device's memory: where a rough count is below, a plan would only cost time.
_SMALL = 0.02
# Numbers that a layer keeps of a token for the backward pass, in units of its width: more than any does.
_KEPT = 64


def this_card(experiment: Experiment, workers: int = 1) -> Card:
    """The device that a training of this experiment would take here, or its share of it.

    Args:
        workers: trainings at a time.
    """
    training = experiment.training
    kind = models.device(training.accelerator)
    if kind == "cuda":
        sharing = -(-workers * training.devices // max(1, torch.cuda.device_count()))
        size = torch.cuda.get_device_properties(0).total_memory
        return Card(torch.cuda.get_device_name(), size // sharing)
    # Processes of one machine share its memory.
    return Card("CPU", psutil.virtual_memory().total // (training.devices * workers), kind="cpu")


def require_room(experiment: Experiment, workers: int = 1) -> None:
    """Refuse to begin a training that cannot fit by its plan.

    Args:
        workers: trainings at a time, which may share a device.

    Raises:
        ConfigError: naming what is needed, what there is, and settings that fit.
    """
    if ranks.rank(experiment.training):
        return
    try:
        runs = [run for _, run in loader.variants(experiment)]
        at_a_time = min(workers, sum(run.training.seeds for run in runs))
        card = this_card(experiment, at_a_time)
        if max(_roughly(run, assumed(run)) for run in runs) < _SMALL * card.memory:
            return
        longest = longest_prompt(experiment)
        written = as_written(experiment, longest, card, None)
        if written.fits:
            return
        run, config = written.largest
        needed = written.peak(config)
        found = proposed(written, experiment)
    except (OutOfReachError, DataError):
        # Training names what is missing.
        return
    fitting = f"with {' '.join(found.words)} it fits" if found else "no other settings make it fit"
    if at_a_time > 1:
        fewer = f"take fewer --workers than {at_a_time}"
        fitting = f"{fewer}, or {fitting}" if found else fewer
    raise ConfigError(
        f"{experiment.name}: run {run} needs {gib(needed)} by its plan, and {card.name} has "
        f"{gib(card.room)} for it; {fitting}. `opdlab plan` shows where the memory goes; "
        "--anyway trains all the same"
    )


def _roughly(run: Experiment, longest: int) -> int:
    """Bytes of a training, counted in no time."""
    step, student = Step.of(run, longest), footprint(run.student)
    teachers = [footprint(one) for one in run.taught_here]
    weights = 4 * student.weights + sum(one.weights for one in teachers)
    if run.training.average != "none":
        weights += student.parameters * averaged(step.stored)
    passing = [
        step.sampled * student.cache,
        step.updated * _KEPT * student.width * student.layers,
        *(step.rows * _KEPT * one.width for one in teachers),
    ]
    return weights + 4 * step.length * max(passing)


@contextmanager
def explaining(experiment: Experiment) -> Iterator[None]:
    """Where the memory does not suffice, say what the plan foresaw and what would have helped.

    Raises:
        OutOfRoomError: with all of that.
    """
    try:
        yield
    except OutOfRoomError as error:
        said = _foreseen(experiment, error.phase)
        raise OutOfRoomError(error.phase, f"{error.said}\n{said}") from error


def _foreseen(experiment: Experiment, phase: str) -> str:
    """Of the run that needs most in a phase."""
    longest = longest_prompt(experiment)
    runs = dict(loader.variants(experiment))
    found = {name: _needed(run, longest, phase) for name, run in runs.items()}
    run = max(found, key=lambda name: found[name])
    config = runs[run]
    now = f"The plan counts {found[run] / _GIB:,.2f} GiB while {phase} (run {run})"
    helped = [
        f"{key}={value} ({after / _GIB:,.2f} GiB)"
        for key, value in _remedies(config, longest, phase).items()
        if (after := _needed(_with(config, {key: value}), longest, phase)) < found[run]
    ]
    if not helped:
        return f"{now}. Smaller models, shorter answers or a larger device would help."
    return f"{now}. What would have helped, by its count: {', or '.join(helped)}."


def _with(config: Experiment, values: dict[str, Any]) -> Experiment:
    try:
        return loader.with_values(config, values)
    except ConfigError:
        return config


def _needed(run: Experiment, longest: int, phase: str) -> int:
    """Bytes of a phase, with what is held throughout."""
    name = PHASES.get(phase)
    found = memory(run, longest, Site.here(run.training)).values()
    return max(
        sum(one.held.values()) + one.passing.get(name or "", max(one.passing.values()))
        for one in found
    )


def _remedies(run: Experiment, longest: int, phase: str) -> dict[str, Any]:
    step = Step.of(run, longest)
    if phase == "sampling":
        return {"training.rollout_rows": max(1, step.sampled // 2), "teacher.offload": True}
    if phase == "scoring":
        return {"teacher.offload": True}
    return {
        "training.activation_checkpointing": "layers",
        "training.update_tokens": max(1, step.updated // 2) * step.length,
        "training.head_chunk": max(1, run.training.head_chunk // 4),
        "teacher.offload": True,
    }
