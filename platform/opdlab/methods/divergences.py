"""The pieces that methods are made of: one divergence or estimator each, with the gradient it has."""

from __future__ import annotations

import math

import torch

from opdlab.shapes import Float, Int, Tensor

SMALLEST_TAIL = 1e-4
"""Probability of all tokens outside a teacher's top K, at least: it is known to about 1e-7."""


def reverse_kl(student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"]) -> Float[Tensor, "T"]:
    """KL(student || teacher) at each position, in nats, from log-probabilities.

    Gradient to `student` only, and exact: no sampling is involved.
    Source: MiniLLM, arXiv:2306.08543, eq. 1, at one position.

    Returns:
        Nats per token, at least 0 apart from rounding.
    """
    return (student.exp() * (student - teacher)).sum(-1)


def forward_kl(student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"]) -> Float[Tensor, "T"]:
    """KL(teacher || student) at each position, in nats, from log-probabilities; exact."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def generalised_jsd(
    student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"], beta: float
) -> Float[Tensor, "T"]:
    """Generalised Jensen-Shannon divergence at each token, in nats.

    beta KL(teacher || m) + (1 - beta) KL(student || m), with m = beta teacher + (1 - beta) student.
    Divided by beta it tends to the forward KL for small beta, by 1 - beta to the reverse KL for beta
    near 1. Source: GKD, arXiv:2306.13649, eq. 1.

    Returns:
        Nats per token; gradient to `student` only.
    """
    mixed = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * forward_kl(mixed, teacher) + (1 - beta) * reverse_kl(student, mixed)


def top_k_with_tail(
    student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"], top_k: int
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
    """Log-probabilities of the student's most likely tokens, and of all the others as one, last.

    A divergence between these is a true one, with its minimum where both agree on all K + 1; without
    the last it would push probability out of the top (or, made to sum to 1, not see it leave).

    Returns:
        Student and teacher, each with K + 1 columns; gradient to the student's only.
    """
    places = student.detach().topk(min(top_k, student.shape[-1] - 1), dim=-1).indices
    return _with_tail(student, places), _with_tail(teacher, places)


def teachers_top_k_with_tail(
    student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"], top_k: int
) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
    """The same for the teacher's most likely tokens, which are all that a served teacher returns.

    A divergence between these is never above that of the whole distributions: moving probability among the
    tokens of the tail costs nothing. A tail of less than `SMALLEST_TAIL` counts as that much, because a
    server's tail is 1 minus a sum of float32 numbers, whose logarithm would be rounding.

    Returns:
        Student and teacher, each with K + 1 columns; gradient to the student's only.
    """
    places = teacher.topk(min(top_k, teacher.shape[-1] - 1), dim=-1).indices
    return _with_tail(student, places), no_smaller_tail(_with_tail(teacher, places))


def no_smaller_tail(teacher: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
    """A teacher's likeliest tokens with its tail, last, of `SMALLEST_TAIL` at least."""
    tail = teacher[:, -1:].clamp(min=math.log(SMALLEST_TAIL))
    return torch.cat([teacher[:, :-1], tail], dim=-1)


def _with_tail(log_probs: Float[Tensor, "T V"], places: Int[Tensor, "T k"]) -> Tensor:
    # The tail is summed over its own tokens: 1 minus the top loses all digits where the top is sure.
    tail = log_probs.scatter(-1, places, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probs.gather(-1, places), tail], dim=-1)


def at(log_probs: Float[Tensor, "T V"], token: Int[Tensor, "T"]) -> Float[Tensor, "T"]:
    """Log-probability of one token a position."""
    return log_probs.gather(-1, token[:, None])[:, 0]


def policy_gradient(
    log_prob: Float[Tensor, "T"],
    advantage: Float[Tensor, "T"],
    sampled_log_prob: Float[Tensor, "T"],
    ratio_cap: float | None = None,
    ratio_clip: float | None = None,
) -> Float[Tensor, "T"]:
    """REINFORCE loss of the sampled tokens, `- w * advantage * log pi_S(y)`.

    Its expected gradient over y ~ pi_S is minus that of the expected advantage. The value of the loss
    means nothing; only its gradient does.

    Args:
        log_prob: log pi_S(y_t) now; carries the gradient.
        advantage: detached; higher makes y_t more likely.
        sampled_log_prob: log-probability when y_t was sampled.
        ratio_cap: with a number, w is the importance ratio pi_now / pi_sampled, cut there and detached
            (truncated importance sampling, arXiv:1802.01561, section 4.1); with None w = 1, which is
            right when the sampler is the student itself.
        ratio_clip: with a number, the ratio itself is differentiated, and a token whose ratio has left
            1 +- this in the direction of its advantage gets no gradient (PPO, arXiv:1707.06347, eq. 7).

    Returns:
        One loss per token, in the unit of the advantage.
    """
    if ratio_clip is not None:
        ratio = (log_prob - sampled_log_prob).exp()
        kept = ratio.clamp(1 - ratio_clip, 1 + ratio_clip)
        return -torch.minimum(ratio * advantage, kept * advantage)
    if ratio_cap is not None:
        ratio = (log_prob.detach() - sampled_log_prob).exp().clamp(max=ratio_cap)
        advantage = ratio * advantage
    return -advantage * log_prob


def clip_advantage(advantage: Float[Tensor, "T"], limit: float | None) -> Float[Tensor, "T"]:
    """Advantages kept within +-limit, in nats; None leaves them alone."""
    return advantage if limit is None else torch.clamp(advantage, -limit, limit)
