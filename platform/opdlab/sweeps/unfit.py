"""What a trial of a sweep may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opdlab.configuration import Experiment

OWN_SEEDS = "training.seeds: a sweep names the seeds of each trial in sweep.seeds"
ONE_MACHINE = "training.nodes: a trial of a sweep trains on one machine; start the sweep on each"
DEVICES = (
    "training.devices: workers have devices as the experiment's own trials need; it cannot vary"
)


def unfit_trials(config: Experiment, trial: Experiment) -> list[str]:
    """What a trial of this sweep has that no trial may: another way of measuring, other devices."""
    before, now = config.measured_by(), trial.measured_by()
    faults = []
    if odd := [key for key in before if before[key] != now.get(key)]:
        faults.append(
            f"{', '.join(odd)}: trials would be measured in different ways and could not be compared"
        )
    if trial.training.nodes > 1:
        faults.append(ONE_MACHINE)
    if trial.training.devices != config.training.devices:
        faults.append(DEVICES)
    if trial.training.seeds > 1:
        faults.append(OWN_SEEDS)
    return faults
