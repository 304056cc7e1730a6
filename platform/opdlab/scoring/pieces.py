"""Scores of a rollout's parts put together again."""

from __future__ import annotations

from typing import Any

import torch

from opdlab.records import TeacherScores
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
