"""Rows of the vocabulary that a loss holds at a time, found by computing it on a few small ones."""

from __future__ import annotations

from typing import Literal

import torch

from opdlab.configuration import Experiment, stored
from opdlab.methods import Method
from opdlab.modelling import Listed, Rows, rows_at_a_time, token_losses
from opdlab.planning.footprint import Held
from opdlab.planning.stored_teacher import tells_states
from opdlab.plugins import returned
from opdlab.records import Supervision
from opdlab.sampling import FAILURES
from opdlab.shapes import Float, Tensor

Told = Literal["nothing", "tokens", "everything"]
"""Of the teacher's distribution: nothing, some of its tokens, all of it."""
ID, FLOAT = 8, 4
"""Bytes of a token that is told, in memory: its id, and its log-probability."""
_USUAL = 8
"""Rows of losses over whole distributions, where one of a method cannot be computed by itself."""
_FEW, _ENTRIES = 16, 1024


def told_to(run: Experiment) -> Told:
    """What the loss of a run reads of the teacher's distributions."""
    if not run.method.full:
        return "nothing"
    whole = run.teacher.is_here or tells_states(run)
    return "everything" if whole or not run.method.listed else "tokens"


def told_bytes(run: Experiment) -> int:
    """Of the teacher's tokens that are told at one position, by a store or a server."""
    manifest = None if run.teacher.scores is None else stored(run.teacher.scores)
    if manifest is None:
        return run.method.needs.top_k * (ID + FLOAT)
    kind = manifest.kind_of
    return (kind.size + (kind.name == "top_k")) * (ID + FLOAT)


def loss_bytes(
    method: Method, told: Told, vocabulary: int, device: torch.device, chunk: int
) -> int:
    """That a loss takes at a time beside the head's weights, of `chunk` tokens at most."""
    together, few = rows_at_a_time(vocabulary, device, chunk)
    # Projected together are the student's logits, with their gradient, and the teacher's.
    projected = 3 if told == "everything" else 2
    others = rows_held(method, told) - projected
    return round(FLOAT * vocabulary * (projected * together + others * min(few, together)))


def rows_held(method: Method, told: Told) -> float:
    """Numbers that a loss with its gradient holds at a time, for each logit of the student."""
    try:
        return held(method, told, _ENTRIES, _FEW, _FEW) / (_FEW * _ENTRIES * FLOAT)
    except FAILURES:
        return _USUAL


def held(method: Method, told: Told, entries: int, together: int, few: int) -> int:
    """Bytes that the loss of some rows holds at a time, their gradient included."""
    count = 2 * together
    none, empty = torch.zeros(count), torch.zeros(count, 0)
    supervision = Supervision(none.long(), none, none, empty.long(), empty)
    listed = None
    if told == "tokens":
        ids = torch.arange(8).expand(count, -1)
        listed = Listed(ids, torch.full(ids.shape, -3.0), none - 1)

    def teacher(part: slice) -> Float[Tensor, "C V"]:
        return torch.zeros(part.stop - part.start, entries)

    head = torch.nn.Linear(1, entries, bias=False)
    rows = Rows(
        student=head,
        teacher=teacher if told == "everything" else None,
        listed=listed,
        supervision=supervision,
        token_loss=returned.TokenLoss(method, "token_loss" if listed is None else "listed_loss"),
        weights=none + 1,
        at_a_time=(together, few),
    )
    hidden = torch.zeros(count, 1, requires_grad=True)
    with torch.enable_grad(), Held(head) as counted:
        token_losses(rows, hidden, list(head.parameters())).loss.sum().backward()
    return counted.peak
