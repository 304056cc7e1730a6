"""Evaluations of a student that several processes train: each draws a share of the answers.

The leader's store takes the answers of all, and the leader grades them. An answer depends on its seed and
on the weights, not on who draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from opdlab.configuration import Experiment
from opdlab.console import check_stop
from opdlab.evaluation import ALONE, Share, Subject, evaluate
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.peers import gathered
from opdlab.training.module import Distillation
from opdlab.training.pair import working


def lead(config: Experiment, owner: Owner, run: Path) -> Share:
    """Have the followers draw their shares of an evaluation; returns this process's."""
    if not _shared(config):
        return ALONE
    gathered((owner, run), alone=False)
    return share()


def follow(
    config: Experiment,
    opened: Callable[[Path], AbstractContextManager[Subject]],
    check: Callable[..., None],
) -> None:
    """Draw this process's share of the leader's next evaluation.

    Args:
        opened: what is evaluated, by the run's folder.
        check: called now and then; it may raise to stop.
    """
    if _shared(config):
        owner, run = gathered(None, alone=False)[0]
        with opened(run) as subject:
            evaluate(subject, config.evaluation, owner, run / "samples", check, share=share())


@contextmanager
def trained(module: Distillation, config: Experiment, run: Path) -> Iterator[Subject]:
    """The student after the last step, on the accelerator; a sharded one is read from the run's folder."""
    subject = module.subject
    if module.exported is not None:
        model = models.load_model(str(run / "model"), None, config.student.dtype)
        subject = replace(subject, model=model)
    with working(subject.model, config):
        yield subject


def _shared(config: Experiment) -> bool:
    """Whether the followers draw, too: a server is asked by the leader alone."""
    return config.training.world > 1 and not config.rollout.served


def share() -> Share:
    """What this process draws of an evaluation by all."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return Share(rank, size, _meet)


def _meet() -> None:
    try:
        gathered(None, alone=False)
    finally:
        check_stop()  # a signal to all may have ended the others first
