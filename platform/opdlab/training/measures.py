"""What a training step tells about itself: a flat mapping of names to numbers."""

from __future__ import annotations

import math

import torch

from opdlab.head import TokenLosses
from opdlab.records import Rollout, Supervision, TeacherScores
from opdlab.shapes import Float, Tensor
from opdlab.training.hacking import longest_repeat

POSITION_BINS = 8
NGRAM = 4


def step_metrics(
    rollout: Rollout,
    scores: TeacherScores,
    supervision: Supervision,
    losses: TokenLosses,
    max_new_tokens: int,
    sampler: str = "student",
) -> dict[str, float]:
    """Metrics of one micro-batch; on the teacher's answers without what would be the student's word.

    `reverse_kl` is KL(student || teacher) in nats, exact where the method has the teacher's whole
    distribution, else its unbiased estimate from the sampled tokens. `fidelity` is the teacher's largest
    next-token probability after each sampled token. Both also come by position in the response:
    `fidelity/t0000-0015` is the mean over positions 0 to 15.
    """
    sampled_kl = rollout.log_prob - scores.log_prob
    kl = losses.reverse_kl if losses.reverse_kl is not None else sampled_kl
    lengths = rollout.response_lengths.float()
    tensors = {
        "reverse_kl": kl.mean(),
        "reverse_kl_sampled": sampled_kl.mean(),
        "entropy": rollout.entropy.mean(),
        "teacher_entropy": scores.entropy.mean(),
        "fidelity": scores.fidelity.nanmean(),
        "response_length": lengths.mean(),
        "truncated_share": (~rollout.ended).float().mean(),
        "eos_rate": rollout.ended.float().mean(),
        "repetition_rate": repetition_rate(rollout),
        "longest_repeat": torch.tensor(longest_repeat(rollout)),
        "teacher_score_share": scores.log_prob.isfinite().float().mean(),
        **supervision.metrics,
    }
    metrics = {name: float(value) for name, value in tensors.items()}
    metrics |= {"response_tokens": float(len(rollout.token)), "leaves": float(scores.leaves)}
    if sampler == "teacher":
        if losses.reverse_kl is None:
            del metrics["reverse_kl"]
        del metrics["reverse_kl_sampled"]
        metrics["entropy"] = float(losses.entropy.mean())
    metrics |= by_position("fidelity", scores.fidelity, rollout, max_new_tokens)
    if "reverse_kl" in metrics:
        metrics |= by_position("reverse_kl", kl, rollout, max_new_tokens)
    return metrics


def by_position(
    name: str, values: Float[Tensor, "T"], rollout: Rollout, max_new_tokens: int
) -> dict[str, float]:
    """Mean of a per-token value in equal bins of the position; bins without tokens are left out.

    NaN says that there is no value; infinity is one, and shows.
    """
    width = math.ceil(max_new_tokens / POSITION_BINS)
    bins = rollout.position // width
    known = ~values.isnan()
    sums = torch.zeros(POSITION_BINS, device=values.device, dtype=torch.float32)
    counts = torch.zeros_like(sums)
    sums.index_add_(0, bins[known], values[known].float())
    counts.index_add_(0, bins[known], torch.ones_like(values[known], dtype=torch.float))
    # As many digits in every name, so that pages which sort names as text show the bins in their order.
    digits = max(4, len(str(width * POSITION_BINS - 1)))
    return {
        f"{name}/t{i * width:0{digits}d}-{(i + 1) * width - 1:0{digits}d}": (
            sums[i] / counts[i]
        ).item()
        for i in counts.nonzero()[:, 0].tolist()
    }


def repetition_rate(rollout: Rollout) -> Float[Tensor, ""]:
    """Share of 4-grams of a response that have occurred before in it, over all responses.

    A student that learns to repeat itself inflates the teacher's confidence; this is where it shows.
    """
    T = len(rollout.token)
    if T <= NGRAM:
        return torch.zeros(())
    # A 4-gram and its row as one row of numbers; equal rows are repetitions.
    grams = rollout.token.unfold(0, NGRAM, 1)
    rows = rollout.row.unfold(0, NGRAM, 1)
    inside = rows[:, 0] == rows[:, -1]
    keyed = torch.cat([rows[inside, :1], grams[inside]], dim=1)
    if len(keyed) == 0:
        return torch.zeros(())
    return 1 - torch.tensor(len(keyed.unique(dim=0)) / len(keyed))
