"""Share of each response token in the step's mean: the normalisation, and which tokens are left out."""

from __future__ import annotations

import torch

from opdlab.configuration import Mask
from opdlab.records import Rollout
from opdlab.shapes import Bool, Float, Tensor


def token_weights(rollout: Rollout, normalisation: str, mask: Mask) -> Float[Tensor, "T"]:
    """Weights before they are divided by their sum; 0 for tokens that the mask leaves out.

    Args:
        normalisation: `token_mean`, or `sequence_mean` for the mean of each response's mean.
    """
    kept = kept_tokens(rollout, mask).to(rollout.log_prob.dtype)
    if normalisation == "token_mean":
        return kept
    in_row = torch.zeros(len(rollout.tokens), device=kept.device, dtype=kept.dtype)
    in_row.index_add_(0, rollout.row, kept)
    return kept / in_row.clamp(min=1)[rollout.row]


def kept_tokens(rollout: Rollout, mask: Mask) -> Bool[Tensor, "T"]:
    """Response tokens that carry loss."""
    kept = rollout.position >= mask.first
    if mask.last is not None:
        kept = kept & (rollout.position <= mask.last)
    if mask.entropy_above is not None:
        kept = kept & (rollout.entropy > mask.entropy_above)
    if mask.entropy_share is not None:
        # Of the tokens that the rest of the mask leaves.
        wanted = max(1, round(mask.entropy_share * int(kept.sum())))
        entropy = rollout.entropy.masked_fill(~kept, -torch.inf)
        highest = torch.zeros_like(kept)
        highest[entropy.topk(min(wanted, len(entropy))).indices] = True
        kept = kept & highest
    return kept
