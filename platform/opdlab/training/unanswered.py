"""Prompts that a server refuses for ever, such as those beyond its context: a step goes on without them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from opdlab.errors import RefusedError
from opdlab.records import Prompt, Rollout
from opdlab.scoring import part

LOG = logging.getLogger("opdlab")
REFUSED_FILE = "refused.jsonl"
"""In the folder of a run: step, problem and reason of each prompt that a step went on without."""
MOST = 0.5
"""Share of the prompts of a device's part of a step that may be left out."""


def without_refused(
    error: RefusedError, asked: Sequence[Prompt], group: int
) -> tuple[Rollout, list[int], list[dict[str, str]]]:
    """The answers that there are, of which rows, and the prompts that are left out, with the reason.

    A prompt is left out as a whole: of a group without one answer the others would be compared wrongly.

    Args:
        error: has the answers of the other rows.
        asked: the prompt of each row; those of a group stand together.

    Raises:
        RefusedError: more are left out than a step can do without, or none was answered.
    """
    gone = {row // group for row in error.rows}
    if error.answered is None or len(gone) * group > MOST * len(asked):
        raise error
    reasons = {row // group: why for row, why in reversed(error.rows.items())}
    refused = [
        {"problem": asked[one * group].problem.named, "reason": reasons[one]}
        for one in sorted(gone)
    ]
    LOG.warning(
        "%s. The step goes on without %d of its %d prompts", error, len(gone), len(asked) // group
    )
    answered = [row for row in range(len(asked)) if row not in error.rows]
    rows = [row for row in answered if row // group not in gone]
    places = torch.tensor([place for place, row in enumerate(answered) if row // group not in gone])
    whole = error.answered.host
    kept, tokens = part(whole, places)
    return replace(kept, candidate_log_prob=whole.candidate_log_prob[tokens]), rows, refused
