"""The pieces that methods are made of: one divergence or estimator each, with the gradient it has."""

from __future__ import annotations

import torch

from opdlab.shapes import Float, Int, Tensor


def reverse_kl(student: Float[Tensor, "T V"], teacher: Float[Tensor, "T V"]) -> Float[Tensor, "T"]:
    """KL(student || teacher) at each position, in nats, from log-probabilities.

    Gradient to `student` only, and exact: no sampling is involved.
    Source: MiniLLM, arXiv:2306.08543, eq. 1, at one position.
    """
    return (student.exp() * (student - teacher)).sum(-1)


def at(log_probs: Float[Tensor, "T V"], token: Int[Tensor, "T"]) -> Float[Tensor, "T"]:
    """Log-probability of one token a position."""
    return log_probs.gather(-1, token[:, None])[:, 0]


def policy_gradient(
    log_prob: Float[Tensor, "T"],
    advantage: Float[Tensor, "T"],
    sampled_log_prob: Float[Tensor, "T"],
    ratio_cap: float | None = None,
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
    """
    if ratio_cap is not None:
        ratio = (log_prob.detach() - sampled_log_prob).exp().clamp(max=ratio_cap)
        advantage = ratio * advantage
    return -advantage * log_prob


def clip_advantage(advantage: Float[Tensor, "T"], limit: float | None) -> Float[Tensor, "T"]:
    """Advantages kept within +-limit, in nats; None leaves them alone."""
    return advantage if limit is None else torch.clamp(advantage, -limit, limit)
