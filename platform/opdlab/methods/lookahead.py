"""The parts of the Lookahead Group Reward: where it acts, which candidates compete, and what they earn."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opdlab.records import Rollout, Supervision
from opdlab.shapes import Bool, Float, Int, Tensor


def uncertain(
    entropy: Float[Tensor, "T"], threshold: float, share: float | None
) -> Bool[Tensor, "T"]:
    """Return the positions where the student is uncertain enough to be helped.

    Args:
        entropy: of the student, nats.
        threshold: what it must exceed.
        share: instead, the part of all positions that are taken, those of highest entropy.
    """
    if share is None:
        return entropy > threshold
    wanted = round(share * len(entropy))
    taken = torch.zeros_like(entropy, dtype=torch.bool)
    taken[entropy.topk(wanted).indices] = True
    return taken & (entropy > 0)


def within_mass(rollout: Rollout, mass: float | None, at_least: int = 2) -> Bool[Tensor, "T K"]:
    """The fewest candidates, likeliest first, that hold so much of the student's probability; None: all."""
    if mass is None:
        return torch.ones_like(rollout.candidates, dtype=torch.bool)
    assert rollout.candidate_log_prob is not None
    p = rollout.candidate_log_prob.exp()
    before = p.cumsum(-1) - p  # held by the likelier ones
    order = torch.arange(p.shape[-1], device=p.device)
    return (before < mass) | (order < at_least)


@dataclass(frozen=True, eq=False)
class Earned:
    """What looking ahead is worth.

    Attributes:
        sampled: reward of each sampled token. `Float[T]`
        candidates: reward of each candidate, 0 where there is none. `Float[T K]`
        metrics: numbers worth a curve; `confidence_spread` is the paper's D_ahead.
    """

    sampled: Float[Tensor, "T"]
    candidates: Float[Tensor, "T K"]
    metrics: dict[str, Tensor]

    def weighed(self, weight: float, limit: float | None) -> Earned:
        """Rewards kept within +-limit, where there is one, times a weight."""
        sampled, candidates = self.sampled, self.candidates
        if limit is not None:
            sampled, candidates = (r.clamp(-limit, limit) for r in (sampled, candidates))
        return Earned(weight * sampled, weight * candidates, self.metrics)


def group_rewards(
    confidence: Float[Tensor, "T K"],
    sampled: Float[Tensor, "T"],
    grouped: Bool[Tensor, "T K"],
    floor: float,
) -> Earned:
    """Return confidences, and the sampled token's, standardised within the groups of `grouped`.

    The deviation is the population's, and at least `floor`, so that agreement is not amplified to noise. A
    group of fewer than two earns 0; so does NaN (no next step).
    """
    active = grouped.sum(-1) >= 2
    group = confidence.where(grouped, torch.nan)
    mean = group.nanmean(-1, keepdim=True)
    deviation = (group - mean).square().nanmean(-1).sqrt()
    scale = deviation.clamp(min=floor)
    reward = ((sampled - mean[:, 0]) / scale).where(active & sampled.isfinite(), 0.0)
    rewards = ((group - mean) / scale[:, None]).where(grouped & active[:, None], 0.0)
    metrics = figures(reward, active)
    if active.any():
        high = group.nan_to_num(-torch.inf).amax(-1)
        low = group.nan_to_num(torch.inf).amin(-1)
        metrics |= {
            "confidence_spread": (high - low).where(active, torch.nan),
            "confidence_deviation": deviation.where(active, torch.nan),
            "flat_group_share": (deviation < floor).float().where(active, torch.nan),
            "group_size": grouped.sum(-1).float().where(active, torch.nan),
        }
    return Earned(reward, rewards, metrics)


def potential_difference(
    sampled: Float[Tensor, "T"], active: Bool[Tensor, "T"], rollout: Rollout
) -> Earned:
    """Return c_t(y_t) - c_(t-1)(y_(t-1)): the rise of the teacher's confidence by a token.

    0 where not active or at EOS. What is subtracted was known before the token, so among tokens with a next
    step it is a baseline: it changes the variance and not the direction. Before the first token it is 0.
    """
    before = torch.cat([sampled.new_zeros(1), sampled[:-1]]).where(rollout.position > 0, 0.0)
    reward = (sampled - before).where(active & ~rollout.is_eos, 0.0)
    none = reward[:, None].expand(-1, rollout.candidates.shape[1]) * 0
    return Earned(reward, none, figures(reward, active))


def figures(reward: Float[Tensor, "T"], active: Bool[Tensor, "T"]) -> dict[str, Tensor]:
    """Where rewards were given, and of what size; token by token, NaN where none was given."""
    return {
        "active_share": active.float(),
        "reward": reward.where(active, torch.nan),
        "reward_size": reward.abs().where(active, torch.nan),
    }


def shuffle(
    confidence: Float[Tensor, "T K"],
    sampled: Float[Tensor, "T"],
    candidates: Int[Tensor, "T K"],
    rollout: Rollout,
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T"]]:
    """Return confidences permuted among each group's candidates, the sampled token's among them.

    A token outside the group takes a random member's: its own would carry the whole signal.
    """
    generator = torch.Generator().manual_seed(rollout.stream)
    keys = torch.rand(candidates.shape, generator=generator, dtype=torch.float32).to(confidence)
    keys = keys.masked_fill(candidates < 0, torch.inf)  # who left the group stays last
    places = (candidates < 0).to(torch.int8).argsort(dim=-1, stable=True)
    shuffled = torch.empty_like(confidence)
    shuffled.scatter_(-1, places, confidence.gather(-1, keys.argsort(dim=-1, stable=True)))
    is_sampled = candidates == rollout.token[:, None]
    own = shuffled.where(is_sampled, 0.0).sum(-1)
    # Members stand in any place, so the first one of a permuted group is one by chance.
    borrowed = shuffled.gather(-1, places[:, :1])[:, 0]
    borrowed = borrowed.where(sampled.isfinite(), torch.nan)  # no next step after an EOS
    return shuffled, torch.where(is_sampled.any(-1), own, borrowed)


def expected_loss(student: Float[Tensor, "T V"], supervision: Supervision) -> Float[Tensor, "T"]:
    """The expected policy gradient over the group: each candidate by its share of the group, detached."""
    present = supervision.candidates >= 0
    log_probs = student.gather(-1, supervision.candidates.clamp(min=0))
    weight = log_probs.detach().exp() * present
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)
    return -(weight * supervision.candidate_advantage * log_probs).sum(-1)
