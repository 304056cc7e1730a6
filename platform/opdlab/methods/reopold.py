"""REOPOLD: on-policy distillation with a floor under the token reward.

    adv_t = max(log pi_T(y_t | s_t) - log pi_S(y_t | s_t),  log(lambda / (1 - lambda)))

so that the few tokens which the teacher finds absurd do not rule the update. The paper's second part,
training on the tokens of highest student entropy alone, is the trainer's mask: `training.mask:
{entropy_share: 0.5}`.

Source: arXiv:2603.11137. Its schedule from exploration to refinement (a mask by reward first, by
entropy later) is not here, and its lambda and share are not known to us: the default here is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from opdlab.methods.base import Contract
from opdlab.methods.divergences import clip_advantage
from opdlab.methods.sampled import SampledMethod, supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor


@dataclass(frozen=True)
class Reopold(SampledMethod):
    """Reverse KL of the sampled token with a floor under its reward (REOPOLD)."""

    mixture: float = option(
        0.2,
        "The paper's lambda; the reward's floor is log(lambda / (1 - lambda)) nats. From 0.5 on the floor "
        "would be no lower than 0, and no token would be discouraged.",
        gt=0,
        lt=0.5,
    )

    @property
    def reward_floor(self) -> float:
        """Smallest reward of a token, in nats."""
        return math.log(self.mixture / (1 - self.mixture))

    @property
    def contract(self) -> Contract:
        return Contract(
            f"reverse KL, log-ratio no lower than {self.reward_floor:.3g}",
            "sampled",
            "k1 with a floor",
            "policy gradient",
            gradient={"bounded_log_ratio": 1.0},
            condition="the student's own samples",
        )

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        ratio = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        floored = (ratio < self.reward_floor).float()
        return supervision_of(rollout, ratio.clamp(min=self.reward_floor), floored_share=floored)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        return self.sampled_loss(student, supervision)
