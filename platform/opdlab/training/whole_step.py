"""A step seen whole: the answers and scores of its parts, and of all devices, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from opdlab.peers import gathered
from opdlab.records import Problem, Rollout, TeacherScores
from opdlab.scoring import join, joined_rollouts


@dataclass(frozen=True)
class Place:
    """Where in a training this process stands: its rank among so many, and its device."""

    rank: int
    world: int
    device: torch.device


def whole_rollout(
    rollout: Rollout | None, problems: Sequence[Problem], place: Place
) -> tuple[Rollout, slice, Problem]:
    """The answers of all devices, those of rank 0 first, which of their tokens are this one's, and the
    problem of the first.

    Args:
        rollout: None where this device has none.
        problems: of its rows.
    """
    own = None if rollout is None else (rollout.host, problems[0])
    everyones = gathered(own, alone=place.world == 1)
    there = [one for one in everyones if one is not None]
    start = sum(len(one[0].token) for one in everyones[: place.rank] if one is not None)
    mine = slice(start, start + (0 if rollout is None else len(rollout.token)))
    return joined_rollouts([one for one, _ in there]), mine, there[0][1]


def whole_scores(scores: TeacherScores | None, place: Place) -> TeacherScores:
    """The teacher's words on them, in the same order, without its distributions.

    Args:
        scores: None where this device has no answers.
    """
    own = None if scores is None else scores.host.numbers if place.world > 1 else scores.host
    return joined_scores([one for one in gathered(own, alone=place.world == 1) if one is not None])


def joined_scores(parts: Sequence[TeacherScores]) -> TeacherScores:
    """Scores of parts of a step, one after the other."""
    if len(parts) == 1:
        return parts[0]
    ends = torch.tensor([len(one.log_prob) for one in parts]).cumsum(0).tolist()
    places = [
        torch.arange(end - len(one.log_prob), end) for one, end in zip(parts, ends, strict=True)
    ]
    return join(list(zip(parts, places, strict=True)))
