"""The Lookahead Group Reward (LGR): OPD plus the teacher's confidence one step ahead.

Where the student is uncertain, the teacher is asked, for each of the student's top-K candidates, how
certain it would be after that candidate. Standardised within the group, that is a reward:

    v_1..v_K  = top-K tokens of pi_S(. | s_t)                      where  H(pi_S(. | s_t)) > threshold
    c(v)      = max_u pi_T(u | s_t, v)
    r(v)      = (c(v) - mean_k c(v_k)) / max(std_k c(v_k), floor)
    adv_t     = log pi_T(y_t | s_t) - log pi_S(y_t | s_t) + reward_weight * r(y_t)

The paper prints the reward next to a cost, which taken literally punishes confidence; its text says the
opposite, and so does this file. Over `support: full` the reverse KL is differentiated exactly.

Where the paper is silent: the deviation is the population's, with a floor, so that a group whose
confidences agree gets no amplified rounding; a candidate that ends the response has no next step and
leaves the group; a sampled token outside the group is measured by the group's mean and deviation.

Source: arXiv:2605.30833, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from opdlab.methods.base import Method
from opdlab.methods.divergences import at, clip_advantage, policy_gradient, reverse_kl
from opdlab.records import Questions, Rollout, Supervision, TeacherScores, is_one_of, option
from opdlab.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class LGR(Method):
    """On-policy distillation with the Lookahead Group Reward."""

    support: Literal["sampled", "full"] = option(
        "sampled", "OPD's own term: by the sampled token, or the teacher's whole distribution."
    )
    variant: Literal["sampled", "topk"] = option(
        "sampled", "Who gets the reward: the sampled token, or all candidates by probability."
    )
    top_k: int = option(8, "Candidates at each active position (K).", ge=2)
    entropy_threshold: float = option(
        0.2, "Positions with a student entropy above this are active, in nats (tau).", ge=0
    )
    reward_weight: float = option(1.0, "Weight of the reward (gamma).", ge=0)
    confidence: Literal["max_prob", "sampled_prob", "entropy", "perplexity"] = option(
        "max_prob", "How the teacher's confidence is measured."
    )
    deviation_floor: float = option(
        0.05, "Smallest deviation a group's confidences are divided by.", gt=0
    )
    control: Literal["none", "shuffled"] = option(
        "none", "`shuffled` permutes each group's confidences: the reward without its signal."
    )
    advantage_clip: float | None = option(
        None, "Keep OPD's advantage, before the reward, within +- this, in nats.", gt=0
    )
    ratio_cap: float | None = option(
        None, "Importance ratio for rollouts that are not quite the student's, cut here.", gt=0
    )

    @property
    def group(self) -> int:
        return self.top_k

    @property
    def full(self) -> bool:
        return self.support == "full"

    def questions(self, rollout: Rollout) -> Questions:
        active = rollout.entropy > self.entropy_threshold
        if self.variant == "sampled":
            active = active & ~rollout.is_eos  # nobody there would get the reward
        asked = active[:, None] & ~is_one_of(rollout.candidates, rollout.eos_ids)
        candidates = rollout.candidates.masked_fill(~asked, -1)
        return Questions(candidates, self.confidence, self.full, int(rollout.seeds.sum()) % 2**31)

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        candidates = self.questions(rollout).candidates
        confidence, sampled = scores.confidence, scores.sampled_confidence
        if self.control == "shuffled":
            confidence, sampled = shuffle(confidence, sampled, candidates, rollout)
        grouped = candidates >= 0
        active = grouped.sum(-1) >= 2
        group = confidence.where(grouped, torch.nan)
        mean = group.nanmean(-1, keepdim=True)
        deviation = (group - mean).square().nanmean(-1).sqrt()
        scale = deviation.clamp(min=self.deviation_floor)
        reward = ((sampled - mean[:, 0]) / scale).where(active & ~rollout.is_eos, 0.0)
        rewards = ((group - mean) / scale[:, None]).where(grouped & active[:, None], 0.0)

        distillation = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        advantage = torch.zeros_like(distillation) if self.full else distillation
        if self.variant == "sampled":
            advantage = advantage + self.reward_weight * reward
            candidates, rewards = candidates[:, :0], rewards[:, :0]
        weighted = self.reward_weight * rewards
        metrics = {"advantage": distillation.mean(), "active_share": active.float().mean()}
        if active.any():
            high, low = group.nan_to_num(-torch.inf).amax(-1), group.nan_to_num(torch.inf).amin(-1)
            metrics |= {
                "confidence_spread": (high - low)[active].mean(),
                "confidence_deviation": deviation[active].mean(),
                "flat_group_share": (deviation[active] < self.deviation_floor).float().mean(),
                "reward": reward[active].mean(),
                "reward_deviation": reward[active].std(correction=0),
            }
        kept = (rollout.token, rollout.log_prob, advantage, candidates, weighted)
        return Supervision(*kept, metrics)

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        log_prob = at(student, supervision.token)
        sampled = supervision.log_prob
        loss = policy_gradient(log_prob, supervision.advantage, sampled, self.ratio_cap)
        if teacher is not None:
            loss = loss + reverse_kl(student, teacher)
        if self.variant == "topk":
            # The expected policy gradient over the group: each candidate by its share of it.
            present = supervision.candidates >= 0
            log_probs = student.gather(-1, supervision.candidates.clamp(min=0))
            weight = log_probs.detach().exp() * present
            weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)
            loss = loss - (weight * supervision.candidate_advantage * log_probs).sum(-1)
        return loss


def shuffle(
    confidence: Float[Tensor, "T K"],
    sampled: Float[Tensor, "T"],
    candidates: Int[Tensor, "T K"],
    rollout: Rollout,
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T"]]:
    """Permute each group's confidences among its candidates, the sampled token's with them."""
    generator = torch.Generator().manual_seed(int(rollout.seeds.sum()) % 2**31)
    keys = torch.rand(candidates.shape, generator=generator).to(confidence)
    keys = keys.masked_fill(candidates < 0, torch.inf)  # who left the group stays last
    places = (candidates < 0).to(torch.int8).argsort(dim=-1, stable=True)
    shuffled = torch.empty_like(confidence)
    shuffled.scatter_(-1, places, confidence.gather(-1, keys.argsort(dim=-1, stable=True)))
    is_sampled = candidates == rollout.token[:, None]
    own = shuffled.where(is_sampled, 0.0).sum(-1)
    return shuffled, torch.where(is_sampled.any(-1), own, sampled)
