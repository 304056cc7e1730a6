"""Drawing tokens: seeded uniforms, inverse-CDF choice, and what is recorded of each distribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from opdlab.shapes import Float, Int, Tensor

# splitmix64's constants (Steele, Lea, Flood, OOPSLA 2014), as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_SHIFTS = (30, 27, 31)


def _mix(bits: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """splitmix64's finaliser: every bit of the input changes each bit of the output half of the time."""
    for shift, multiplier in zip(_SHIFTS, (*_MULTIPLIERS, 1), strict=True):
        # The mask makes the shift of a signed number a logical one.
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return bits


def uniforms(seeds: Int[Tensor, "*n"], positions: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Uniform numbers in [0, 1), each a pure function of a seed and a position; the shapes broadcast.

    No state and no order: a row draws the same numbers alone, in any batch, and after a resume.
    Float64 with 53 random bits, so that no token is too unlikely to be drawn.
    """
    bits = _mix(_mix(seeds + _GOLDEN) + (positions + 1) * _GOLDEN)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def choose(
    logits: Float[Tensor, "B V"],
    uniform: Float[Tensor, "B one"],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Int[Tensor, "B one"]:
    """One token a row by inverting the cumulative distribution at `uniform`.

    `temperature` 0 takes the most likely token. `top_p` below 1 keeps the shortest list of most
    likely tokens whose probabilities reach it. A token of probability 0 is never drawn.
    """
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    weights = torch.softmax(logits if temperature == 1 else logits / temperature, -1)
    if top_p == 1:
        return _invert(weights, uniform)
    weights, order = torch.sort(weights, stable=True, descending=True)
    before = weights.cumsum(-1) - weights
    nucleus = weights.masked_fill(before >= top_p, 0)
    return order.gather(-1, _invert(nucleus, uniform))


def _invert(weights: Float[Tensor, "B V"], uniform: Float[Tensor, "B one"]) -> Int[Tensor, "B one"]:
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    # In float64, uniform < 1 keeps the target below the total, so the index is that of a token with
    # weight; only NaN weights reach the clamp.
    target = cumulative[:, -1:] * uniform
    found = torch.searchsorted(cumulative, target, right=True)
    return found.clamp_(max=weights.shape[-1] - 1)


@dataclass(frozen=True, eq=False)
class Recorded:
    """What is kept of the distributions that tokens were drawn from; leading axes are free.

    Attributes:
        log_prob: of the token, nats. `Float[*n]`
        entropy: nats. `Float[*n]`
        candidates: the most likely tokens, most likely first. `Int[*n K]`
    """

    log_prob: Float[Tensor, "*n"]
    entropy: Float[Tensor, "*n"]
    candidates: Int[Tensor, "*n K"]


def record(logits: Float[Tensor, "*n V"], tokens: Int[Tensor, "*n"], top_k: int) -> Recorded:
    """Log-probability, entropy and candidates of the distributions that `logits` give, in float32."""
    # A finite floor: an entry of minus infinity would make 0 * inf in the entropy.
    log_probs = torch.log_softmax(logits.float().clamp_min(-1e30), -1)
    return Recorded(
        log_probs.gather(-1, tokens[..., None])[..., 0],
        -(log_probs.exp() * log_probs).sum(-1),
        log_probs.topk(top_k, -1).indices,
    )


def concatenate(parts: Iterable[Recorded]) -> Recorded:
    """The parts end to end, along their one leading axis."""
    parts = list(parts)
    return Recorded(
        torch.cat([part.log_prob for part in parts]),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.candidates for part in parts]),
    )
