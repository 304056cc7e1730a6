"""Prompts that a server refuses for ever, or the teacher's their answers: a step goes on without them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from opdlab.errors import RefusedError
from opdlab.peers import gathered
from opdlab.records import Problem, Rollout
from opdlab.scoring import part

LOG = logging.getLogger("opdlab")
REFUSED_FILE = "refused.jsonl"
"""In the folder of a run: step, problem and reason of each prompt that a step went on without."""
MOST = 0.5
"""Share of the prompts of a step that may be left out; on one device, of those asked for at once."""


def without_refused(
    error: RefusedError, asked: Sequence[Problem], group: int, alone: bool = True
) -> tuple[Rollout | None, list[int], list[dict[str, str]]]:
    """The answers that there are, of which rows, and the prompts that are left out, with the reason.

    Args:
        error: has the answers of the other rows.
        asked: the problem of each row; those of a group stand together.
        alone: see `left_out`; without answers there is None if this device is one of several.

    Raises:
        RefusedError: more are left out than a step can do without, or none was answered.
    """
    if error.answered is None and alone:
        raise error
    rows, refused = left_out(error, asked, group, alone=alone)
    if error.answered is None or not rows:
        return None, [], refused
    answered = [row for row in range(len(asked)) if row not in error.rows]
    places = {row: place for place, row in enumerate(answered)}
    return only(error.answered.host, [places[row] for row in rows], group), rows, refused


def left_out(
    error: RefusedError, asked: Sequence[Problem], group: int, earlier: int = 0, alone: bool = True
) -> tuple[list[int], list[dict[str, str]]]:
    """Rows that a step goes on with, and the prompts that it leaves out, with the reason.

    A prompt is left out as a whole: of a group without one answer the others would be compared wrongly.

    Args:
        asked: the problem of each row; those of a group stand together.
        earlier: prompts that the step goes on without already, which are none of `asked`.
        alone: whether no other device has a part of the step; else `require_enough` decides for all.

    Raises:
        RefusedError: more are left out than a step can do without.
    """
    why = error.rows if alone or not error.ended else error.of_all
    gone = {row // group for row in why}
    lacking, prompts = earlier + len(gone), earlier + len(asked) // group
    if alone and (error.ended or lacking > MOST * prompts):
        raise error
    reasons = {row // group: said for row, said in reversed(why.items())}
    refused = [
        {"problem": asked[one * group].named, "reason": reasons[one]} for one in sorted(gone)
    ]
    LOG.warning("%s. The step continues without %d of its %d prompts", error, lacking, prompts)
    return [row for row in range(len(asked)) if row // group not in gone], refused


def require_enough(error: RefusedError | None, lacking: int, prompts: int) -> None:
    """Refuse a step of several devices that lacks most of its prompts; every device comes here.

    Args:
        error: of this device, whose others hear of it.
        lacking: prompts of this device that the step goes on without.
        prompts: of the whole step.

    Raises:
        RefusedError: more are left out than a step can do without.
    """
    if sum(gathered(lacking, alone=False)) > MOST * prompts and error is not None:
        raise error


def only(rollout: Rollout, rows: Sequence[int], group: int) -> Rollout:
    """Some rows of a rollout, whole groups of it."""
    kept, tokens = part(rollout, torch.tensor(rows))
    known, graded = rollout.candidate_log_prob, rollout.outcome is not None
    return replace(
        kept,
        candidate_log_prob=None if known is None else known[tokens],
        group=torch.arange(len(rows) // group).repeat_interleave(group) if graded else None,
        outcome=rollout.outcome[rows] if rollout.outcome is not None else None,
    )
