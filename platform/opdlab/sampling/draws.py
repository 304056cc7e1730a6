"""Drawing tokens: seeded uniforms, inverse-CDF choice, and what is recorded of each distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from opdlab.errors import DataError
from opdlab.modelling import FLOOR, expectation, log_prob
from opdlab.sampling.wide_nucleus import from_wide_nucleus
from opdlab.shapes import Float, Int, Tensor

# splitmix64's constants (Steele, Lea, Flood, OOPSLA 2014), as signed 64-bit numbers.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64, 1)
_SHIFTS = (30, 27, 31)

# A vocabulary above _WIDE is searched by blocks first: a running sum over 32,000 entries takes 25 times
# as long as sums of blocks and a running sum over one of them.
_WIDE = 4096
_BLOCK = 128
# Entries of a row that a nucleus is looked for in, before all are sorted: sorting 152,000 takes 19 times
# as long as finding and sorting these.
_LARGEST = 1024


def mixed(bits: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """splitmix64's finaliser: a changed bit of the input changes each bit of the output half the time."""
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=True):
        # The mask makes the shift of a signed number a logical one.
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * multiplier
    return bits


def uniforms(seeds: Int[Tensor, "*#n"], positions: Int[Tensor, "*#n"]) -> Float[Tensor, "..."]:
    """Uniform numbers in [0, 1), each a pure function of a seed and a position; the shapes broadcast.

    No state and no order: a row draws the same numbers alone, in any batch, and after a resume.
    Float64 with 53 random bits, so that no token is too unlikely to be drawn.
    """
    bits = mixed(mixed(seeds + _GOLDEN) + (positions + 1) * _GOLDEN)
    return ((bits >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


@dataclass(frozen=True, eq=False)
class Weighed:
    """Next-token distributions, not normalised.

    Attributes:
        shifted: logits less the largest of the row. `Float[B V]`
        weights: their exponentials. `Float[B V]`
    """

    shifted: Float[Tensor, "B V"]
    weights: Float[Tensor, "B V"]


def weigh(logits: Float[Tensor, "B V"]) -> Weighed:
    """In float32; float32 logits are overwritten."""
    logits = logits.float()
    shifted = logits.sub_(logits.amax(-1, keepdim=True))
    return Weighed(shifted, shifted.exp())


def choose(
    weighed: Weighed, uniform: Float[Tensor, "B one"], temperature: float, top_p: float
) -> Int[Tensor, "B one"]:
    """One token a row by inverting the cumulative distribution at `uniform`.

    `temperature` 0 takes the most likely token. `top_p` below 1 keeps the shortest list of most
    likely tokens whose probabilities reach it. A token of probability 0 is never drawn.
    """
    if temperature == 0:
        return weighed.shifted.argmax(-1, keepdim=True)
    weights = weighed.weights
    if temperature != 1:
        weights = (weighed.shifted / temperature).exp_()
    if top_p == 1:
        return _invert(weights, uniform)
    return _from_nucleus(weights, uniform, top_p)


def _from_nucleus(
    weights: Float[Tensor, "B V"], uniform: Float[Tensor, "B one"], top_p: float
) -> Int[Tensor, "B one"]:
    """A token of the nucleus, most likely entries first and equal ones in their order.

    The largest entries alone are sorted. A row whose nucleus they do not hold is sorted whole where that is
    quick, and searched by the size of its entries on a CPU.
    """
    enough = top_p * weights.sum(-1, keepdim=True)
    if weights.shape[-1] <= _LARGEST:
        return _from_sorted(*weights.sort(stable=True, descending=True), uniform, enough)
    columns = weights.topk(_LARGEST, -1, sorted=False).indices.sort(-1).values
    largest, order = weights.gather(-1, columns).sort(stable=True, descending=True)
    found = _from_sorted(largest, columns.gather(-1, order), uniform, enough)
    # Of entries equal to the smallest of them, which are among them is chance: none may be needed.
    clear = largest.masked_fill(largest == largest[:, -1:], 0).sum(-1, True, dtype=torch.float64)
    wider = (clear < enough)[:, 0].nonzero()[:, 0]
    if weights.device.type == "cpu":
        for row in wider.tolist():
            found[row] = from_wide_nucleus(weights[row], uniform[row], enough[row])
    elif len(wider):
        whole = weights[wider].sort(stable=True, descending=True)
        found[wider] = _from_sorted(*whole, uniform[wider], enough[wider])
    return found


def _from_sorted(
    weights: Float[Tensor, "B n"],
    order: Int[Tensor, "B n"],
    uniform: Float[Tensor, "B one"],
    enough: Float[Tensor, "B one"],
) -> Int[Tensor, "B one"]:
    before = weights.cumsum(-1, dtype=torch.float64) - weights
    return order.gather(-1, _invert(weights.masked_fill(before >= enough, 0), uniform))


def _invert(weights: Float[Tensor, "B V"], uniform: Float[Tensor, "B one"]) -> Int[Tensor, "B one"]:
    """The token in whose share of the row's total weight `uniform` falls."""
    if weights.shape[-1] <= _WIDE:
        return _find(weights.cumsum(-1, dtype=torch.float64), uniform)
    sums = _by_block(weights, torch.sum)
    cumulative = sums.cumsum(-1, dtype=torch.float64)
    block = _find(cumulative, uniform)
    # How far `uniform` reaches into the share of its block.
    left = cumulative.gather(-1, block) - cumulative[:, -1:] * uniform
    inside = (1 - left / sums.gather(-1, block)).clamp_(0, 1 - 2**-53)
    columns = _columns(block)
    found = _find(_take(weights, columns, 0.0).cumsum(-1, dtype=torch.float64), inside)
    return columns.gather(-1, found)


def _find(
    cumulative: Float[Tensor, "B n"], uniform: Float[Tensor, "B one"]
) -> Int[Tensor, "B one"]:
    # In float64, uniform < 1 keeps the target below the total, so what is found has weight; only NaN
    # weights reach the clamp.
    target = cumulative[:, -1:] * uniform
    found = torch.searchsorted(cumulative, target, right=True)
    return found.clamp_(max=cumulative.shape[-1] - 1)


def _by_block(x: Float[Tensor, "B V"], reduce: Callable[..., Tensor]) -> Float[Tensor, "B blocks"]:
    whole = x.shape[-1] // _BLOCK * _BLOCK
    reduced = reduce(x[:, :whole].unflatten(-1, (-1, _BLOCK)), -1)
    if whole == x.shape[-1]:
        return reduced
    return torch.cat([reduced, reduce(x[:, whole:], -1, keepdim=True)], -1)


def _columns(blocks: Int[Tensor, "B n"]) -> Int[Tensor, "B entries"]:
    within = torch.arange(_BLOCK, device=blocks.device)
    return (blocks[..., None] * _BLOCK + within).flatten(1)


def _take(
    x: Float[Tensor, "B V"], columns: Int[Tensor, "B entries"], beyond: float
) -> Float[Tensor, "B entries"]:
    """Entries of x, `beyond` for those that a last, shorter block does not have."""
    last = x.shape[-1] - 1
    return x.gather(-1, columns.clamp(max=last)).masked_fill_(columns > last, beyond)


@dataclass(frozen=True, eq=False)
class Recorded:
    """What is kept of the distributions that tokens were drawn from.

    Attributes:
        log_prob: of the token, nats. `Float[T]`
        entropy: nats. `Float[T]`
        candidates: the most likely tokens, most likely first. `Int[T K]`
        candidate_log_prob: theirs, nats. `Float[T K]`
    """

    log_prob: Float[Tensor, "T"]
    entropy: Float[Tensor, "T"]
    candidates: Int[Tensor, "T K"]
    candidate_log_prob: Float[Tensor, "T K"]

    def __getitem__(self, order: Int[Tensor, "t"]) -> Recorded:
        """The same of some tokens."""
        parts = (self.log_prob, self.entropy, self.candidates, self.candidate_log_prob)
        return Recorded(*(part[order] for part in parts))


def record(weighed: Weighed, tokens: Int[Tensor, "T one"], top_k: int) -> Recorded:
    """Log-probability, entropy and candidates at temperature 1; overwrites entries of minus infinity.

    Raises:
        DataError: more candidates are asked for than there are entries.
    """
    shifted, weights = weighed.shifted.clamp_(min=FLOOR), weighed.weights
    total = weights.sum(-1)
    log_total = total.log()
    candidates = _most_likely(shifted, top_k)
    return Recorded(
        log_prob(shifted.gather(-1, tokens)[:, 0], log_total),
        log_total - expectation(weights, shifted) / total,
        candidates,
        shifted.gather(-1, candidates) - log_total[:, None],
    )


def _most_likely(shifted: Float[Tensor, "T V"], top_k: int) -> Int[Tensor, "T K"]:
    size = shifted.shape[-1]
    if top_k > size:
        raise DataError(
            f"rollout: {top_k} candidates (top_k) are asked for, but there are {size} tokens to choose "
            f"from; ask for {size} at most"
        )
    if size <= max(_WIDE, top_k * _BLOCK):
        return shifted.topk(top_k, -1).indices
    # The K largest entries are in the K blocks with the largest maxima.
    columns = _columns(_by_block(shifted, torch.amax).topk(top_k, -1).indices)
    return columns.gather(-1, _take(shifted, columns, -torch.inf).topk(top_k, -1).indices)


def concatenate(parts: Iterable[Recorded]) -> Recorded:
    """The parts end to end."""
    parts = list(parts)
    return Recorded(
        torch.cat([part.log_prob for part in parts]),
        torch.cat([part.entropy for part in parts]),
        torch.cat([part.candidates for part in parts]),
        torch.cat([part.candidate_log_prob for part in parts]),
    )
