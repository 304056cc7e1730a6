"""Answers of a store of scores, in place of sampled ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opdlab.errors import DataError
from opdlab.evaluation import Subject
from opdlab.prompts import ScoredSource
from opdlab.records import Prompt, Rollout
from opdlab.sampling import Recorded, assemble, scored
from opdlab.scores import Scores
from opdlab.transfers import to_device


def require_ends(prompts: ScoredSource, ends: Sequence[int]) -> None:
    """Refuse answers that end by other tokens than the student's.

    Raises:
        DataError: naming both.
    """
    told = prompts.scores.manifest
    if set(told.eos_ids) != set(ends):
        raise DataError(
            f"{prompts.scores.folder} holds answers that end by token {told.eos_ids}, and this student "
            f"ends by {list(ends)} (eos_token_id of its generation_config.json); set the same there, or "
            "score the answers again"
        )


def stored_rollout(
    prompts: ScoredSource,
    asked: Sequence[Prompt],
    subject: Subject,
    seeds: Sequence[int],
    group: int,
) -> Rollout:
    """Answers of a store as a rollout.

    Where the store holds what the student said of them when it wrote them, that is taken; else it is what
    the student says of them now.

    Args:
        group: candidates at each position.
    """
    require_ends(prompts, subject.eos_ids)
    rows = [int(prompt.problem.extra["stored"]) for prompt in asked]
    device, scores = subject.model.device, prompts.scores
    tokens = [prompt.tokens for prompt in asked]
    responses = [to_device(scores.tensor("response", row), device) for row in rows]
    if scores.manifest.student_told:
        recorded = recorded_of(scores, rows, group)
    else:
        recorded = scored(subject.model, tokens, responses, subject.vocabulary, group)
    return assemble(tokens, responses, recorded, seeds, subject.eos_ids, subject.pad_id)


def recorded_of(scores: Scores, rows: Sequence[int], group: int) -> Recorded:
    """What the student said of some answers when they were scored.

    Args:
        group: candidates at each position; where the store holds none, they are -1.
    """

    def whole(name: str) -> torch.Tensor:
        return torch.cat([scores.tensor(name, row) for row in rows])

    log_prob = whole("student_log_prob")
    ids = torch.full((len(log_prob), group), -1)
    values = torch.full((len(log_prob), group), -torch.inf)
    start = 0
    for row in rows if group else ():
        places = start + scores.tensor("candidate_at", row).long()
        ids[places] = scores.tensor("candidates", row)[:, :group]
        values[places] = scores.tensor("candidate_log_prob", row)[:, :group]
        start += len(scores.tensor("student_log_prob", row))
    return Recorded(log_prob, whole("student_entropy"), ids, values)
