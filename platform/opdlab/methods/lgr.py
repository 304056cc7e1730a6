"""The Lookahead Group Reward (LGR): OPD plus the teacher's confidence one step ahead.

Where the student is uncertain, the teacher is asked, for each of the student's top-K candidates, how
certain it would be after that candidate. Standardised within the group, that is a reward:

    v_1..v_K  = top-K tokens of pi_S(. | s_t)                      where  H(pi_S(. | s_t)) > threshold
    c(v)      = max_u pi_T(u | s_t, v)
    r(v)      = (c(v) - mean_k c(v_k)) / max(std_k c(v_k), floor)
    adv_t     = log pi_T(y_t | s_t) - log pi_S(y_t | s_t) + reward_weight * r(y_t)

The paper prints the reward next to a cost, which taken literally punishes confidence; its text says the
opposite, and so does this file.

Where the paper is silent: the deviation is the population's, with a floor, so that agreement gets no
amplified rounding; a candidate that ends the response (it has no next step), or that the student rules
out, leaves the group; a sampled token outside it is measured by the group's mean and deviation.

Beyond the paper, off by default: `base`, `active_share`, `probability_mass`, `reward: potential`,
`reward_clip`, `lookahead` (see `opdlab.methods.followed`).

Source: arXiv:2605.30833, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from opdlab.methods import lookahead
from opdlab.methods.base import Contract
from opdlab.methods.followed import FollowedMethod
from opdlab.methods.needs import Needs
from opdlab.records import Questions, Rollout, Supervision, TeacherScores, is_one_of, option
from opdlab.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class LGR(FollowedMethod):
    """On-policy distillation with the Lookahead Group Reward."""

    variant: Literal["sampled", "topk"] = option(
        "sampled", "Who gets the reward: the sampled token, or all candidates by probability."
    )
    top_k: int = option(8, "Candidates at each active position (K).", ge=2)
    probability_mass: float | None = option(
        None,
        "Use fewer candidates where fewer already hold this much of the student's probability.",
        gt=0,
        le=1,
    )
    entropy_threshold: float = option(
        0.2, "Positions with a student entropy above this are active, in nats (tau).", ge=0
    )
    active_share: float | None = option(
        None, "Instead of tau: the share of the batch's positions that are active.", gt=0, le=1
    )
    reward: Literal["group", "potential"] = option(
        "group",
        "Confidence relative to the group, or its increase over the confidence before the token.",
    )
    reward_weight: float = option(1.0, "Weight of the reward (gamma).")
    reward_clip: float | None = option(None, "Clip the reward to +- this.", gt=0)
    confidence: Literal["max_prob", "sampled_prob", "entropy", "perplexity"] = option(
        "max_prob", "How the teacher's confidence is measured."
    )
    deviation_floor: float = option(
        0.05, "Smallest standard deviation by which a group's confidences are divided.", gt=0
    )
    control: Literal["none", "shuffled"] = option(
        "none", "`shuffled` permutes each group's confidences: the reward without its signal."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_weight < 0:
            raise ValueError("reward_weight: below 0 it punishes confidence, the paper's misprint")
        if self.reward == "potential" and (self.variant == "topk" or self.control != "none"):
            raise ValueError("reward: potential has no group; set variant: sampled, control: none")
        if self.lookahead > 1 and (self.confidence, self.reward) != ("max_prob", "group"):
            raise ValueError("lookahead: past one step set confidence: max_prob, reward: group")

    @property
    def group(self) -> int:
        return 0 if self.reward == "potential" else self.top_k

    @property
    def needs(self) -> Needs:
        return replace(self.below.needs, confidence=self.confidence, steps=self.lookahead)

    @property
    def weighs_sampled(self) -> bool:
        return self.variant == "sampled"  # else it is an expectation over the group

    @property
    def contract(self) -> Contract:
        below = self.below.contract
        known = self.control == "none" and self.active_share is None  # else it depends on the batch
        raised = "raise_lookahead" if self.variant == "sampled" else "raise_group_lookahead"
        policy_gradient = below.delivery == "policy gradient" and self.variant == "sampled"
        return Contract(
            f"{below.direction}, {self.reward} lookahead reward raised",
            below.support,
            f"{below.estimator}, confidence {self.ahead}",
            "policy gradient" if policy_gradient else "both",
            baseline="mean of the group" if self.reward == "group" else "confidence before",
            normalisation="deviation of the group" if self.reward == "group" else "none",
            gradient={**below.gradient, raised: self.reward_weight} if known else {},
        )

    def questions(self, rollout: Rollout) -> Questions:
        asked = self.active(rollout)[:, None] & ~is_one_of(rollout.candidates, rollout.eos_ids)
        asked = asked & rollout.possible & lookahead.within_mass(rollout, self.probability_mass)
        candidates = rollout.candidates.masked_fill(~asked, -1)
        return replace(super().questions(rollout), candidates=candidates, measure=self.confidence)

    def active(self, rollout: Rollout) -> Bool[Tensor, "T"]:
        """Positions where the student is uncertain and somebody could get the reward."""
        found = lookahead.uncertain(rollout.entropy, self.entropy_threshold, self.active_share)
        return found & ~rollout.is_eos if self.variant == "sampled" else found

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        candidates = self.questions(rollout).candidates
        confidence, sampled = scores.confidence, scores.sampled_confidence
        if self.control == "shuffled":
            confidence, sampled = lookahead.shuffle(confidence, sampled, candidates, rollout)
        if self.reward == "potential":
            earned = lookahead.potential_difference(sampled, self.active(rollout), rollout)
        else:
            floor = self.deviation_floor
            earned = lookahead.group_rewards(confidence, sampled, candidates >= 0, floor)
        earned = earned.weighed(self.reward_weight, self.reward_clip)
        advantage, metrics = self.base_advantage(rollout, scores)
        rewards = earned.candidates
        if self.variant == "sampled":
            advantage = advantage + earned.sampled
            candidates, rewards = candidates[:, :0], rewards[:, :0]
        kept = (advantage, candidates, rewards, {**earned.metrics, **metrics})
        return Supervision(rollout.token, rollout.log_prob, *kept)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        loss = super().token_loss(student, teacher, supervision)
        if self.variant == "topk":
            loss = loss + lookahead.expected_loss(student, supervision)
        return loss
