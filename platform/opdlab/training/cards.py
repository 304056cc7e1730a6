"""What each of several workers has of its own: cards, by the environment of its processes, and a server."""

from __future__ import annotations

import os

from opdlab.configuration import Experiment, Training
from opdlab.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def here(training: Training) -> list[str]:
    """Names of the CUDA devices that trainings may use here; none where they would run on a CPU."""
    import torch

    if training.accelerator == "cpu" or not torch.cuda.is_available():
        return []
    named = os.environ.get(VISIBLE)
    if named is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",") if name.strip()]


def require_server_each(config: Experiment, workers: int) -> None:
    """Refuse several workers whose students would be served by one server.

    Raises:
        ConfigError: they would send their weights to it.
    """
    if workers > 1 and getattr(config.rollout, "weights_folder", None):
        raise ConfigError(
            f"rollout.url: {workers} workers would send the weights of {workers} students to one server, "
            "and it serves one; take --workers 1, or an engine in this process"
        )


def taken(training: Training) -> int:
    """Cards that a training counts on: those that it trains on, and up to that of its teachers."""
    kind, _, number = (training.teacher_device or "").partition(":")
    return max(training.devices, int(number or 0) + 1 if kind == "cuda" else 1)


def shared_out(cards: list[str], workers: int, each: int | None, training: Training) -> list[str]:
    """The cards of every worker, as `CUDA_VISIBLE_DEVICES` names them; "" for whatever there is.

    Args:
        cards: that are here.
        each: cards of a worker, of which no other has any; None for what a trial takes, and where there
            are fewer cards in all, several workers share some.

    Raises:
        ConfigError: there are too few, or a trial takes more than its worker has.
    """
    least = taken(training)
    wanted = least if each is None else each
    of_teachers = least > training.devices
    setting = "training.teacher_device" if of_teachers else "training.devices"
    needs = f"a trial {'takes' if of_teachers else 'trains on'} {least} devices"
    if each is not None and least > each:
        raise ConfigError(
            f"--devices-per-worker: {needs} ({setting}), and its worker would have {each}; give each as "
            "many"
        )
    if not cards:
        return [""] * workers
    found = f"{len(cards)} are here ({', '.join(cards)})"
    if wanted > len(cards):
        if each is not None:
            setting, needs = "--devices-per-worker", f"a worker would have {each} devices"
        raise ConfigError(f"{setting}: {needs}, and {found}")
    if each is not None and workers * wanted > len(cards):
        raise ConfigError(
            f"{workers} workers with {wanted} devices each need {workers * wanted}, and {found}; start at "
            f"most {len(cards) // wanted} workers, or leave --devices-per-worker out to let them share "
            "devices"
        )
    groups = len(cards) // wanted
    return [",".join(cards[number % groups * wanted :][:wanted]) for number in range(workers)]
