"""Sums over a vocabulary: in float32 whatever a model computes in, finite where it rules an entry out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from opdlab.shapes import Float, Tensor

FLOOR = -1e37
"""Stands for a logit of minus infinity: its probability is 0, and 0 times it is 0."""

LARGEST = 1e9
"""Nats that no loss of finite logits reaches; `FLOOR` times a probability of `NEGLIGIBLE` and more does."""

NEGLIGIBLE = math.log(LARGEST / -FLOOR)
"""Log-probability below which an entry that the other model rules out counts as ruled out by both."""


def in_float32(logits: Float[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
    """Logits in float32, without minus infinity; gradients flow.

    A row that rules out every entry is no distribution, and NaN.
    """
    logits = logits.float()
    if logits.device.type != "cpu":
        # Looking for one would wait for the device. Not a step of autograd: such an entry has no gradient.
        logits.data.clamp_(min=FLOOR)
        return logits
    # NaN in one row is the smallest of all, and hides what other rows rule out: it must not spread there.
    finite = logits.numel() == 0 or bool(logits.detach().amin() > -torch.inf)
    if finite:
        return logits
    nothing = logits.detach().amax(-1, keepdim=True) == -torch.inf
    return logits.clamp(min=FLOOR).masked_fill(nothing, torch.nan)


def unbounded(nats: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Infinite where one distribution rules out what the other does not, and a divergence has no bound."""
    return nats.masked_fill(nats.detach() > LARGEST, torch.inf)


def rule_out_alike(log_p: Float[Tensor, "*n V"], log_q: Float[Tensor, "*n V"]) -> None:
    """Rule out, in place, what one distribution rules out and the other gives next to nothing.

    `FLOOR` times a probability between 0 and `NEGLIGIBLE` would be a divergence that is neither infinite
    nor none. Not a step of autograd: the gradient of such a probability is as small as it is.
    """
    if log_p.device.type == "cpu" and not any(_rules_out(x.detach()) for x in (log_p, log_q)):
        return
    for one, other in ((log_p, log_q), (log_q, log_p)):
        # Looking for one would wait for another device.
        one.data.masked_fill_(
            (one.detach() < NEGLIGIBLE).logical_and_(other.detach() < FLOOR / 2), FLOOR
        )


def _rules_out(log_p: Float[Tensor, "*n V"]) -> bool:
    """Whether an entry has a logit of `FLOOR`, or a row is not a number: a smallest entry hides nothing."""
    return log_p.numel() > 0 and not bool(log_p.amin() >= FLOOR / 2)


def expectation(p: Float[Tensor, "*n V"], x: Float[Tensor, "*n V"]) -> Float[Tensor, "*n"]:
    """Sum of p times x over the vocabulary; autocast would take it in half precision."""
    with torch.autocast(p.device.type, enabled=False):
        return torch.linalg.vecdot(p, x)


def log_prob(logit: Float[Tensor, "*n"], log_total: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Log-probability of a token by its logit; minus infinity where the model rules it out."""
    return (logit - log_total).masked_fill(logit <= FLOOR / 2, -torch.inf)


@contextmanager
def new_tensors_in_float32() -> Iterator[None]:
    """Within, torch makes numbers in float32; Lightning's `bf16-true` has them made in bfloat16.

    Not for several threads at once: the setting is the process's.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
