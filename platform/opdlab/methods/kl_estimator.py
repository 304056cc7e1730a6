"""Sampled estimators of a KL divergence (k1, k2, k3), each delivered the way that has the right gradient.

With r = pi_T(y) / pi_S(y) at the sampled token y ~ pi_S,

    k1 = - log r            k2 = (log r)^2 / 2            k3 = r - 1 - log r

An estimator of the *value* of KL(student || teacher) need not have its *gradient*. Of the expected
gradients,

    k1, policy gradient     reverse KL                    k1, back-propagated     zero
    k2, policy gradient     that of no divergence         k2, back-propagated     reverse KL
    k3, policy gradient     reverse KL - forward KL       k3, back-propagated     forward KL

only three are a divergence's; the others are refused. Source of the estimators: J. Schulman,
"Approximating KL divergence" (2020); the gradients are proved by enumeration (`opdlab doctor
objective`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opdlab.methods.base import Contract
from opdlab.methods.divergences import at, clip_advantage
from opdlab.methods.sampled import SampledMethod, supervision_of
from opdlab.records import Rollout, Supervision, TeacherScores, option
from opdlab.shapes import Float, Tensor

RIGHT = {
    ("k1", "policy_gradient"): "reverse",
    ("k2", "backpropagation"): "reverse",
    ("k3", "backpropagation"): "forward",
}
WRONG = {
    ("k1", "backpropagation"): "its expected gradient is zero: it trains nothing",
    ("k2", "policy_gradient"): "its expected gradient is that of no divergence",
    ("k3", "policy_gradient"): "its expected gradient is the reverse KL's minus the forward KL's",
    ("top_k", "policy_gradient"): (
        "a detached sum over the top-k does not depend on the sampled token, so its expected gradient is "
        "zero: it trains nothing"
    ),
    ("top_k", "backpropagation"): "a top-k KL is differentiated by `type: opd, support: top_k`",
}


@dataclass(frozen=True)
class KLEstimator(SampledMethod):
    """A KL divergence by k1, k2 or k3 of the sampled token; wrong combinations are refused."""

    direction: Literal["reverse", "forward"] = option(
        "reverse", "`reverse` is KL(student || teacher), `forward` is KL(teacher || student)."
    )
    estimator: Literal["k1", "k2", "k3", "top_k"] = option("k2", "What is computed at a token.")
    delivery: Literal["policy_gradient", "backpropagation"] = option(
        "backpropagation",
        "`policy_gradient` uses it, detached, as a reward; `backpropagation` differentiates it.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        way = (self.estimator, self.delivery)
        if way in WRONG:
            raise ValueError(
                f"estimator: {self.estimator} by {self.delivery} is refused: {WRONG[way]}"
            )
        if RIGHT[way] != self.direction:
            raise ValueError(
                f"direction: {self.estimator} by {self.delivery} descends the {RIGHT[way]} KL, not "
                f"the {self.direction} KL"
            )
        if self.delivery == "backpropagation":
            self.refuse_limits("what is differentiated has no advantage and no ratio to limit")

    @property
    def contract(self) -> Contract:
        name = "bounded_log_ratio" if self.advantage_clip else f"{self.direction}_kl"
        return Contract(
            f"{self.direction} KL",
            "sampled",
            self.estimator,
            "policy gradient" if self.delivery == "policy_gradient" else "back-propagation",
            gradient={name: 1.0},
            condition="the student's own samples",
        )

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        advantage = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        return supervision_of(rollout, advantage)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        if self.estimator == "k1":
            return self.sampled_loss(student, supervision)
        # The teacher's log-probability, from the advantage that was measured when sampling.
        teacher_log_prob = supervision.advantage + supervision.log_prob
        log_ratio = teacher_log_prob - at(student, supervision.token)
        if self.estimator == "k2":
            return log_ratio.square() / 2
        return log_ratio.exp() - 1 - log_ratio
