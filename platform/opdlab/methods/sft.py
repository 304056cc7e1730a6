"""Supervised fine-tuning on the teacher's answers: the off-policy baseline of distillation.

The teacher writes the answers, and the student learns to say them:

    loss_t = - log pi_S(y_t | s_t),  y ~ pi_T      or, in full, KL(pi_T(. | s_t) || pi_S(. | s_t))

Both have the expected gradient of the forward KL on the teacher's own prefixes; the student never meets
its own. At another temperature or top-p the sampled token teaches the distribution that it was drawn
from, which is what learning from such answers means; full support still teaches the teacher's own.
Source: sequence-level knowledge distillation, arXiv:1606.07947.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opdlab.methods.base import Contract, Method
from opdlab.methods.divergences import at, forward_kl
from opdlab.methods.needs import Needs
from opdlab.methods.sampled import supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class SFT(Method):
    """Supervised fine-tuning on answers that the teacher writes."""

    support: Literal["sampled", "full"] = option(
        "sampled",
        "How much of the teacher's distribution is used: the token it wrote, or all of it.",
    )

    @property
    def sampler(self) -> Literal["student", "teacher"]:
        return "teacher"

    @property
    def needs(self) -> Needs:
        return Needs(self.support, answers=True, linear=True)

    @property
    def corrected(self) -> bool:
        return True

    @property
    def contract(self) -> Contract:
        return Contract(
            "forward KL on the teacher's answers",
            self.support,
            "exact" if self.full else "negative log-likelihood",
            "back-propagation",
            gradient={"teacher_forward_kl": 1.0},
            condition=""
            if self.full
            else "KL to the distribution that answers are drawn from: temperature and top-p included",
        )

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        return supervision_of(rollout, rollout.log_prob.new_ones(len(rollout.log_prob)))

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        if teacher is not None:
            return forward_kl(student, teacher)
        return -at(student, supervision.token)

    def listed_loss(
        self,
        student: Float[Tensor, "T N"],
        teacher: Float[Tensor, "T N"],
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        return forward_kl(student, teacher)
