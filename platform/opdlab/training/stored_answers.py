"""Answers of a store of scores, in place of sampled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from opdlab.configuration import Experiment
from opdlab.errors import DataError
from opdlab.evaluation import Subject
from opdlab.prompts import ScoredSource
from opdlab.records import Prompt, Rollout
from opdlab.sampling import Recorded, assemble, scored
from opdlab.scores import Scores
from opdlab.shapes import Float, Tensor
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
    config: Experiment,
) -> Rollout:
    """Answers of a store as a rollout, with what a student says of them, see `said_of`."""
    require_ends(prompts, subject.eos_ids)
    rows = [int(prompt.problem.extra["stored"]) for prompt in asked]
    tokens = [prompt.tokens for prompt in asked]
    recorded = said_of(prompts.scores, rows, tokens, subject, config)
    device = subject.model.device
    responses = [to_device(prompts.scores.tensor("response", row), device) for row in rows]
    return assemble(tokens, responses, recorded, seeds, subject.eos_ids, subject.pad_id)


def said_of(
    scores: Scores,
    rows: Sequence[int],
    prompts: Sequence[tuple[int, ...]],
    subject: Subject,
    config: Experiment,
) -> Recorded:
    """What a student says of answers of a store.

    That of the student that trains, but for two things, where the store has them: a method that takes the
    answers for samples weighs them by what the student said that wrote them, and a teacher whose scores
    are on disk knows no other candidates than those of that student.
    """
    told, method, mask = scores.manifest, config.method, config.training.mask
    weighed = told.student_told and method.own_samples
    candidates = told.candidates_of
    if method.group and config.teacher.scores is not None:
        if told.student_told and candidates is not None and method.group <= candidates.top_k:
            return recorded_of(scores, rows, method.group)
    elif not method.group and weighed and mask.entropy_above is None and not mask.entropy_share:
        return recorded_of(scores, rows, 0)
    responses = [scores.tensor("response", row) for row in rows]
    found = scored(subject.model, prompts, responses, subject.vocabulary, method.group)
    if not weighed:
        return found
    before = to_device(_whole(scores, "student_log_prob", rows), found.log_prob.device)
    return replace(found, log_prob=before)


def recorded_of(scores: Scores, rows: Sequence[int], group: int) -> Recorded:
    """What the student said of some answers when they were scored.

    Args:
        group: candidates at each position; where the store holds none, they are -1.
    """
    log_prob = _whole(scores, "student_log_prob", rows)
    ids = torch.full((len(log_prob), group), -1)
    values = torch.full((len(log_prob), group), -torch.inf)
    start = 0
    for row in rows if group else ():
        places = start + scores.tensor("candidate_at", row).long()
        ids[places] = scores.tensor("candidates", row)[:, :group]
        values[places] = scores.tensor("candidate_log_prob", row)[:, :group]
        start += len(scores.tensor("student_log_prob", row))
    return Recorded(log_prob, _whole(scores, "student_entropy", rows), ids, values)


def _whole(scores: Scores, name: str, rows: Sequence[int]) -> Float[Tensor, "T"]:
    return torch.cat([scores.tensor(name, row) for row in rows])
