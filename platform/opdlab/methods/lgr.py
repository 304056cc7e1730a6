"""The Lookahead Group Reward (LGR): OPD plus the teacher's confidence one step ahead.

Where the student is uncertain, the teacher is asked, for each of the student's top-K candidates, how
certain it would be after that candidate. Standardised within the group, that is a reward:

    v_1..v_K  = top-K tokens of pi_S(. | s_t)                      where  H(pi_S(. | s_t)) > threshold
    c(v)      = max_u pi_T(u | s_t, v)
    r(v)      = (c(v) - mean_k c(v_k)) / max(std_k c(v_k), floor)
    adv_t     = log pi_T(y_t | s_t) - log pi_S(y_t | s_t) + reward_weight * r(y_t)

The paper prints the reward next to a cost, which taken literally punishes confidence; its text says the
opposite, and so does this file: higher confidence, higher advantage. Over `support: full` the first two
terms are the exact gradient of the reverse KL and only the reward is a policy gradient.

Choices the paper leaves open: the deviation is that of the population, with a floor, so that a group whose
confidences agree gets (nearly) no reward in place of amplified rounding; a candidate that ends the
response has no next step, leaves the group and gets no term; a sampled token outside the group is
compared with the group's mean and deviation.

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
        "sampled", "Who gets the reward: the sampled token, or every candidate by its probability."
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
        "none", "`shuffled` permutes the confidences within each group: the reward without its signal."
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
        active = (rollout.entropy > self.entropy_threshold) & ~rollout.is_eos
        asked = active[:, None] & ~is_one_of(rollout.candidates, rollout.eos_ids)
        candidates = rollout.candidates.where(asked, torch.tensor(-1).to(rollout.candidates))
        seed = int(rollout.seeds.sum()) % 2**31
        return Questions(candidates, self.confidence, self.full, seed)

    def supervise(self, rollout: Rollout, scores: TeacherScores) -> Supervision:
        candidates = self.questions(rollout).candidates
        grouped = candidates >= 0
        active = grouped.sum(-1) >= 2
        confidence, sampled = scores.confidence, scores.sampled_confidence
        if self.control == "shuffled":
            confidence, sampled = shuffle(confidence, sampled, candidates, rollout)
        group = confidence.where(grouped, torch.nan)
        mean = group.nanmean(-1)
        deviation = (group - mean[:, None]).square().nanmean(-1).sqrt()
        scale = deviation.clamp(min=self.deviation_floor)
        reward = ((sampled - mean) / scale).where(active, 0.0)
        rewards = ((group - mean[:, None]) / scale[:, None]).where(grouped & active[:, None], 0.0)

        distillation = clip_advantage(scores.log_prob - rollout.log_prob, self.advantage_clip)
        advantage = torch.zeros_like(distillation) if self.full else distillation
        if self.variant == "sampled":
            advantage = advantage + self.reward_weight * reward
            candidates, rewards = candidates[:, :0], rewards[:, :0]
        spread = (group.nan_to_num(-torch.inf).amax(-1) - group.nan_to_num(torch.inf).amin(-1))[active]
        flat = deviation[active] < self.deviation_floor
        metrics = {
            "advantage": distillation.mean(),
            "active_share": active.float().mean(),
            "flat_group_share": flat.float().mean(),
            "confidence_spread": spread.mean(),
            "confidence_deviation": deviation[active].mean(),
            "reward": reward[active].mean(),
            "reward_deviation": reward[active].std(correction=0),
        }
        return Supervision(
            rollout.token,
            rollout.log_prob,
            advantage,
            candidates,
            self.reward_weight * rewards,
            {name: value for name, value in metrics.items() if value.isfinite()},
        )

    def token_loss(
        self,
        student: Float[Tensor, "T V"],
        teacher: Float[Tensor, "T V"] | None,
        supervision: Supervision,
    ) -> Float[Tensor, "T"]:
        log_prob = at(student, supervision.token)
        loss = policy_gradient(
            log_prob, supervision.advantage, supervision.log_prob, self.ratio_cap
        )
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
    # Candidates that left the group keep their places at the end of both orders.
    keys = keys.masked_fill(candidates < 0, torch.inf)
    source = keys.argsort(-1)
    target = (candidates < 0).to(torch.int8).argsort(-1, stable=True)
    shuffled = torch.empty_like(confidence).scatter(-1, target, confidence.gather(-1, source))
    is_sampled = candidates == rollout.token[:, None]
    own = shuffled.where(is_sampled, 0.0).sum(-1)
    return shuffled, torch.where(is_sampled.any(-1), own, sampled)
