"""Reverse KL with a return: a token answers for the divergence of all that follows it, discounted.

    adv_t = sum over t' >= t of  discount^(t' - t) * (log pi_T(y_t' | s_t') - log pi_S(y_t' | s_t'))

With a discount of 1 its expected gradient is that of the KL divergence between whole answers; with 0 it
is OPD's. arXiv:2605.30833 reports discounts of 0.99 to 0.9999 as never better than OPD, with entropy
collapse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opdlab.methods.base import Contract
from opdlab.methods.divergences import clip_advantage
from opdlab.methods.sampled import SampledMethod, supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class FutureKL(SampledMethod):
    """Reverse KL of each token and, discounted, of all that follow it."""

    discount: float = option(0.99, "Discount per token.", ge=0, le=1)

    @property
    def of_answers(self) -> bool:
        return self.discount > 0

    @property
    def contract(self) -> Contract:
        gradient = {"future_reverse_kl": 1.0} if self.advantage_clip is None else {}
        return Contract(
            f"reverse KL to come, discount {self.discount:g}",
            "sampled",
            "sum of k1 from the token on",
            "policy gradient",
            gradient=gradient,
            condition="the student's own samples",
        )

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        ratio = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        return supervision_of(rollout, discounted_sum(ratio, rollout, self.discount))

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        return self.sampled_loss(student, supervision)


def discounted_sum(
    values: Float[Tensor, "T"], rollout: Rollout, discount: float
) -> Float[Tensor, "T"]:
    """Of each response token's value and those after it in its row."""
    padded = values.new_zeros(len(rollout.tokens), int(rollout.response_lengths.max()))
    padded[rollout.row, rollout.position] = values
    total = torch.zeros_like(padded[:, 0])
    for t in range(padded.shape[1] - 1, -1, -1):
        total = padded[:, t] + discount * total
        padded[:, t] = total
    return padded[rollout.row, rollout.position]
