"""A run that is trained with several seeds: its trainings, and which of them are one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opdlab.configuration.config import Experiment
from opdlab.seeds import training_name


@dataclass(frozen=True)
class Repeat:
    """One training: of the run `run`, with one seed."""

    name: str
    run: str
    config: Experiment


def repeats(variants: Sequence[tuple[str, Experiment]]) -> list[Repeat]:
    """The trainings of each run, one a seed; those of one run stand together.

    With one seed a training is named as its run, with several `RUN-SEED`.
    """
    found = []
    for run, config in variants:
        for seed in seeds(config):
            name = training_name(run, seed) if config.training.seeds > 1 else run
            found.append(Repeat(name, run, _seeded(config, seed)))
    return found


def seeds(config: Experiment) -> range:
    """Seeds of a run's trainings."""
    return range(config.seed, config.seed + config.training.seeds)


def _seeded(config: Experiment, seed: int) -> Experiment:
    training = config.training.model_copy(update={"seeds": 1})
    return config.model_copy(update={"seed": seed, "training": training})
