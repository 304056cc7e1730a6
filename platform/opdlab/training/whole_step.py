"""A step seen whole: the answers and scores of its parts, and of all devices, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from opdlab.peers import gathered
from opdlab.records import Rollout, TeacherScores
from opdlab.scoring import join
from opdlab.shapes import Tensor


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


def joined_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts on the host, one below the other; groups are numbered on."""
    if len(parts) == 1:
        return parts[0]
    first, width = parts[0], max(one.tokens.shape[1] for one in parts)

    def all_of(name: str) -> Any:
        found = [getattr(one, name) for one in parts]
        return None if found[0] is None else torch.cat(found)

    names = ("prompt_lengths", "response_lengths", "ended", "log_prob", "entropy", "candidates")
    names += ("seeds", "candidate_log_prob", "outcome")
    return replace(
        first,
        **{name: all_of(name) for name in names},
        tokens=torch.cat([_padded(one.tokens, width, one.pad_id) for one in parts]),
        group=None if first.group is None else _numbered_on(parts),
    )


def _padded(tokens: Tensor, width: int, filler: int) -> Tensor:
    missing = width - tokens.shape[1]
    return torch.nn.functional.pad(tokens, (0, missing), value=filler)


def _numbered_on(parts: Sequence[Rollout]) -> Tensor:
    groups, count = [], 0
    for one in parts:
        assert one.group is not None
        groups.append(one.group + count)
        count += int(one.group.max()) + 1
    return torch.cat(groups)
