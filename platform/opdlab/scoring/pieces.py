"""Rollouts and the scores of their parts put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from opdlab.records import Rollout, TeacherScores
from opdlab.shapes import Int, Tensor
from opdlab.transfers import to_device, to_host


def join(pieces: list[tuple[TeacherScores, Int[Tensor, "_"]]]) -> TeacherScores:
    """Scores of groups of rows, each with where its tokens were, in the rollout's order."""
    pieces = [(scores.host, to_host([place])[0]) for scores, place in pieces]
    order = torch.cat([place for _, place in pieces]).argsort()

    def all_of(name: str) -> Any:
        parts = [getattr(scores, name) for scores, _ in pieces]
        if parts[0] is None:
            return None
        # Of several teachers, each with a device: the first one's.
        whole = torch.cat([part.to(parts[0].device) for part in parts])
        return whole[to_device(order, whole.device)]

    names = ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence", "hidden")
    names += ("top_ids", "top_log_prob")
    return TeacherScores(
        **{name: all_of(name) for name in names},
        seconds={
            name: sum(scores.seconds[name] for scores, _ in pieces) for name in ("trunk", "leaves")
        },
        leaves=sum(scores.leaves for scores, _ in pieces),
    )


def joined_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts on the host, one below the other; groups are numbered on."""
    if len(parts) == 1:
        return parts[0]
    first, width = parts[0], max(one.tokens.shape[1] for one in parts)

    def all_of(name: str) -> Any:
        found = [getattr(one, name) for one in parts]
        return None if found[0] is None else torch.cat(found)

    names = ("prompt_lengths", "response_lengths", "ended", "log_prob", "entropy", "candidates")
    names += ("seeds", "candidate_log_prob", "outcome", "sampled_log_prob")
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
