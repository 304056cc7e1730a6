"""On-policy distillation (OPD): the student's own answers, scored token by token by the teacher.

The objective is the reverse KL at every position of the student's trajectory,

    sum_t KL(pi_S(. | s_t) || pi_T(. | s_t)),         s_t = (x, y_<t),  y ~ pi_S,

with no gradient through the sampling of the trajectory. Two estimators of the same gradient:

    full      the whole distribution, differentiated directly
    sampled   the policy gradient of the sampled token,
              adv_t = log pi_T(y_t | s_t) - log pi_S(y_t | s_t),   loss_t = - adv_t * log pi_S(y_t | s_t)

Source: arXiv:2605.30833, section 2 (there as a cost, with the sign turned); MiniLLM, arXiv:2306.08543.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opdlab.methods.base import Method
from opdlab.methods.divergences import at, clip_advantage, policy_gradient, reverse_kl
from opdlab.records import Questions, Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class OPD(Method):
    """On-policy distillation by reverse KL."""

    support: Literal["sampled", "full"] = option(
        "sampled",
        "How much of the teacher's distribution is used: the sampled token, or all of it.",
    )
    advantage_clip: float | None = option(
        None, "Keep the sampled token's advantage within +- this, in nats; null for no limit.", gt=0
    )
    ratio_cap: float | None = option(
        None,
        "Correct the sampled token's term for a rollout that is not quite the student's by the "
        "importance ratio, cut here; null is right when the student itself samples in the step.",
        gt=0,
    )

    @property
    def full(self) -> bool:
        return self.support == "full"

    def questions(self, rollout: Rollout) -> Questions:
        return Questions(rollout.candidates[:, :0], full=self.full)

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        advantage = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        none = rollout.candidates[:, :0]
        return Supervision(
            rollout.token,
            rollout.log_prob,
            advantage,
            none,
            none.to(advantage),
            metrics={"advantage": advantage.mean()},
        )

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        if teacher is not None:
            return reverse_kl(student, teacher)
        return policy_gradient(
            at(student, supervision.token),
            supervision.advantage,
            supervision.log_prob,
            self.ratio_cap,
        )
