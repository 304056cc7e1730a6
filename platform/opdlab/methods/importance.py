"""Weights that set right what a loss expects of answers that an older student sampled.

In a given state, the expectation over tokens of the older student, each weighed by the ratio of
probabilities, is that over the student's own. The states stay those that the older one visited; and where
an advantage depends on later tokens (an outcome, a return), these are the older one's as well, so that the
gradient is right to first order in the update, as it is in PPO.

Source: arXiv:1802.01561, section 4.1.
"""

from __future__ import annotations

import torch

from opdlab.methods.base import Method
from opdlab.records import Rollout
from opdlab.shapes import Float, Tensor

TRUNCATION = 2.0
"""Largest weight of a token."""


def ratios(rollout: Rollout) -> Float[Tensor, "T"]:
    """Probability of each token under the student now, over that under the one that sampled it."""
    assert rollout.sampled_log_prob is not None
    return (rollout.log_prob - rollout.sampled_log_prob).exp()


def importance(
    method: Method, rollout: Rollout, truncation: float = TRUNCATION
) -> Float[Tensor, "T"]:
    """What each token's loss is multiplied by: 1 for losses that are no expectation over sampled tokens."""
    if rollout.sampled_log_prob is None or not method.own_samples:
        return torch.ones_like(rollout.log_prob)
    return ratios(rollout).clamp(max=truncation)
