"""A step seen whole: the answers and scores of its parts, and of all devices, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from opdlab.peers import gathered
from opdlab.records import Rollout, TeacherScores
from opdlab.scoring import join, joined_rollouts


@dataclass(frozen=True)
class Place:
    """Where in a training this process stands: its rank among so many, and its device."""

    rank: int
    world: int
    device: torch.device


def whole_rollout(rollout: Rollout, place: Place) -> tuple[Rollout, slice]:
    """The answers of all devices, those of rank 0 first, and which of their tokens are this one's."""
    everyones = gathered(rollout.host, alone=place.world == 1)
    start = sum(len(one.token) for one in everyones[: place.rank])
    return joined_rollouts(everyones), slice(start, start + len(rollout.token))


def whole_scores(scores: TeacherScores, place: Place) -> TeacherScores:
    """The teacher's words on them, in the same order, without its distributions."""
    own = scores.host.numbers if place.world > 1 else scores.host
    return joined_scores(gathered(own, alone=place.world == 1))


def joined_scores(parts: Sequence[TeacherScores]) -> TeacherScores:
    """Scores of parts of a step, one after the other."""
    if len(parts) == 1:
        return parts[0]
    ends = torch.tensor([len(one.log_prob) for one in parts]).cumsum(0).tolist()
    places = [
        torch.arange(end - len(one.log_prob), end) for one, end in zip(parts, ends, strict=True)
    ]
    return join(list(zip(parts, places, strict=True)))
