"""What a training step tells about itself, on however many devices.

A device gives each figure with its weight: how many tokens, answers or groups it is a mean of. A step is
the figures of all devices together, so that the same step has the same figures on one and on eight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from opdlab.errors import PluginError
from opdlab.files import PARTS
from opdlab.modelling import TokenLosses
from opdlab.records import Rollout, Supervision, TeacherScores
from opdlab.shapes import Float, Tensor
from opdlab.training.hacking import longest_repeat

POSITION_BINS = 8
NGRAM = 4
SUMMED = ("response_tokens", "leaves", "teacher_tokens")
OF_THE_STEP = ("gradient_norm", "learning_rate", "updated_share")
SECONDS = "seconds/"
OWN = {"loss", "loss_share", "tokens_per_second", "accuracy", *SUMMED, *OF_THE_STEP}
"""Names of what is recorded beside the figures of the answers."""

Figure = tuple[float, float]
"""A number, and how much it weighs in a mean; counts and seconds weigh 1."""


def whole_step(devices: Sequence[Mapping[str, Figure]]) -> dict[str, float]:
    """The figures of a step from those of its devices.

    Means are weighed, counts are summed; of seconds it is the mean, as devices work at the same time. NaN
    where nothing has weight.
    """
    names = dict.fromkeys(name for device in devices for name in device)
    record: dict[str, float] = {}
    for name in names:
        found = [device[name] for device in devices if name in device]
        if name in OF_THE_STEP:
            record[name] = found[-1][0]
        elif name in SUMMED:
            record[name] = sum(value for value, _ in found)
        elif name.startswith(SECONDS):
            record[name] = sum(value for value, _ in found) / len(devices)
        else:
            weight = sum(weight for _, weight in found)
            total = sum(value * weight for value, weight in found if weight)
            record[name] = total / weight if weight else math.nan
    seconds = sum(record[part] for part in PARTS)
    record["tokens_per_second"] = record["response_tokens"] / seconds
    return record


def mean_of(values: Tensor) -> Figure:
    """Mean of what is there, and how much that is; NaN says that there is no value."""
    known = values[~values.isnan()]
    return (float(known.float().mean()), float(len(known))) if len(known) else (math.nan, 0.0)


def step_metrics(
    rollout: Rollout,
    scores: TeacherScores,
    supervision: Supervision,
    losses: TokenLosses,
    max_new_tokens: int,
    sampler: str = "student",
) -> dict[str, Figure]:
    """Figures of one device's answers; on the teacher's answers without what would be the student's word.

    `reverse_kl` is KL(student || teacher) in nats, exact where the method has the teacher's whole
    distribution, else its unbiased estimate from the sampled tokens. `fidelity` is the teacher's largest
    next-token probability after each sampled token. Both also come by position in the response:
    `fidelity/t0000-0015` is the mean over positions 0 to 15.
    """
    sampled_kl = rollout.log_prob - scores.log_prob
    kl = losses.reverse_kl if losses.reverse_kl is not None else sampled_kl
    T, B = float(len(rollout.token)), float(len(rollout.response_lengths))
    told = mean_of(scores.entropy)
    metrics: dict[str, Figure] = {
        "reverse_kl": (float(kl.mean()), T),
        "reverse_kl_sampled": (float(sampled_kl.mean()), T),
        "entropy": (float(rollout.entropy.mean()), T),
        "fidelity": mean_of(scores.fidelity),
        "response_length": (float(rollout.response_lengths.float().mean()), B),
        "truncated_share": (float((~rollout.ended).float().mean()), B),
        "eos_rate": (float(rollout.ended.float().mean()), B),
        "repetition_rate": repetition_rate(rollout),
        "longest_repeat": (float(longest_repeat(rollout)), B),
        "teacher_score_share": (float(scores.log_prob.isfinite().float().mean()), T),
        "response_tokens": (T, 1.0),
    }
    if told[1]:  # a teacher behind a server does not tell it
        metrics["teacher_entropy"] = told
    if taken := sorted({*OWN, *metrics} & supervision.metrics.keys()):
        raise PluginError(
            f"the method's metric {taken[0]!r} has the name of one that every training records; give it "
            "another, in the `metrics` of what `supervise` returns"
        )
    for name, value in supervision.metrics.items():
        several = isinstance(value, Tensor) and value.ndim == 1
        figure = mean_of(value) if several else (float(value), T)
        if figure[1]:
            metrics[name] = figure
    if sampler == "teacher":
        if losses.reverse_kl is None:
            del metrics["reverse_kl"]
        del metrics["reverse_kl_sampled"]
        metrics["entropy"] = (float(losses.entropy.mean()), T)
    metrics |= by_position("fidelity", scores.fidelity, rollout, max_new_tokens)
    if "reverse_kl" in metrics:
        metrics |= by_position("reverse_kl", kl, rollout, max_new_tokens)
    return metrics


def by_position(
    name: str, values: Float[Tensor, "T"], rollout: Rollout, max_new_tokens: int
) -> dict[str, Figure]:
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
            (sums[i] / counts[i]).item(),
            counts[i].item(),
        )
        for i in counts.nonzero()[:, 0].tolist()
    }


def repetition_rate(rollout: Rollout) -> Figure:
    """Share of 4-grams of a response that have occurred before in it, over all responses.

    A student that learns to repeat itself inflates the teacher's confidence; this is where it shows.
    """
    T = len(rollout.token)
    if T <= NGRAM:
        return 0.0, 0.0
    # A 4-gram and its row as one row of numbers; equal rows are repetitions.
    grams = rollout.token.unfold(0, NGRAM, 1)
    rows = rollout.row.unfold(0, NGRAM, 1)
    inside = rows[:, 0] == rows[:, -1]
    keyed = torch.cat([rows[inside, :1], grams[inside]], dim=1)
    if len(keyed) == 0:
        return 0.0, 0.0
    return 1 - len(keyed.unique(dim=0)) / len(keyed), float(len(keyed))
