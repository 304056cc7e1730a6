"""Weights that set right what a loss expects of answers that an older student sampled.

In a given state, the expectation over tokens of the older student, each weighed by the ratio of
probabilities, is that over the student's own; the states stay those that the older one visited. Where an
advantage depends on later tokens as well, the ratio is that of the whole answer, and nothing is left of the
older student. Truncated weights are biased, and keep the variance in bounds.

Source: arXiv:1802.01561, section 4.1.
"""

from __future__ import annotations

import torch

from opdlab.methods.base import Method
from opdlab.records import Rollout
from opdlab.shapes import Float, Tensor

TRUNCATION = 2.0
"""Largest weight."""


def ratios(method: Method, rollout: Rollout) -> Float[Tensor, "T"]:
    """Probability of each token, or of its answer, under the student now over that when it was sampled."""
    assert rollout.sampled_log_prob is not None
    difference = rollout.log_prob - rollout.sampled_log_prob
    if method.of_answers:
        whole = difference.new_zeros(len(rollout.tokens)).index_add(0, rollout.row, difference)
        difference = whole[rollout.row]
    return difference.exp()


def importance(
    method: Method, rollout: Rollout, truncation: float = TRUNCATION
) -> Float[Tensor, "T"]:
    """What each token's loss is multiplied by: 1 for losses that are no expectation over sampled tokens."""
    if rollout.sampled_log_prob is None or not method.own_samples:
        return torch.ones_like(rollout.log_prob)
    return ratios(method, rollout).clamp(max=truncation)
