"""Whether uniform numbers, laid out by call, row and step, know anything of each other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.stats import chi2, norm

from opdlab.shapes import Float, Int, Tensor

NEAR = 8
"""Steps of a row whose numbers are compared."""
PAIRS = 500
"""Pairs below which a sum of products is not looked at: it is not yet normal."""


def independent(
    number: Float[Tensor, "T"], variance: Float[Tensor, "T"], group: Int[Tensor, "T"]
) -> float:
    """Probability that numbers of mean 0 which know nothing of their group agree so much, or so little,
    within groups.

    The products of all pairs within a group, over the group's variance, against the chi-square whose
    variance they have.
    """
    _, member, size = group.unique(return_inverse=True, return_counts=True)

    def summed(x: Float[Tensor, "T"]) -> Float[Tensor, "G"]:
        return x.new_zeros(len(size)).index_add_(0, member, x)

    whole = summed(variance)
    agreed = (summed(number).square() - summed(number.square())) / whole
    degrees = float((1 - summed(variance.square()) / whole.square()).sum())
    if degrees < 1:
        return 1.0
    found = float(agreed.sum()) + degrees
    return min(1.0, 2 * float(min(chi2.sf(found, degrees), chi2.cdf(found, degrees))))


def unforeseen(
    number: Float[Tensor, "T"],
    variance: Float[Tensor, "T"],
    group: Int[Tensor, "T"],
    order: Int[Tensor, "T"],
) -> float:
    """Probability that numbers of mean 0 which do not know those before them in their group go with the
    sign of their sum so often, or so seldom.

    Where a number decides whether others follow, as a token that ends its answer does, sums of whole groups
    are not as `independent` expects; what is before a number is known when it is drawn.
    """
    place = order.argsort(stable=True)
    place = place[group[place].argsort(stable=True)]
    number, variance, group = number[place], variance[place], group[place]
    before = number.cumsum(0) - number
    opens = group != group.roll(1)
    opens[:1] = True
    sign = (before - before[opens][opens.cumsum(0) - 1]).sign().masked_fill(opens, 0.0)
    spread = float((variance * sign.square()).sum())
    if spread == 0:
        return 1.0
    return 2 * float(norm.sf(abs(float((number * sign).sum())) / spread**0.5))


def unrelated(
    number: Float[Tensor, "T"],
    variance: Float[Tensor, "T"],
    call: Int[Tensor, "T"],
    row: Int[Tensor, "T"],
    step: Int[Tensor, "T"],
) -> tuple[str, float]:
    """Which numbers of mean 0 are correlated most, in words, and the probability of one that is so much.

    Compared are rows that are as far apart, or mirror each other, at one step of a call; steps of a row;
    and calls at one row and step.
    """
    grids = number.new_zeros(3, *(int(one.max()) + 1 for one in (call, row, step)))
    for grid, values in zip(grids, (number, variance, torch.ones_like(number)), strict=True):
        grid[call, row, step] = values
    found = {
        name: float(product) / float(spread) ** 0.5
        for name, (product, spread, count) in _products(grids)
        if count >= PAIRS
    }
    if not found:
        return "pairs of tokens", 1.0
    worst = max(found, key=lambda name: abs(found[name]))
    return worst, min(1.0, len(found) * 2 * float(norm.sf(abs(found[worst]))))


def _products(grids: Float[Tensor, "3 C R S"]) -> Iterator[tuple[str, Float[Tensor, "3"]]]:
    """Sum of products, its variance and count, of pairs by how they stand to each other."""
    _, calls, rows, steps = grids.shape
    by_row = grids.transpose(1, 2).flatten(2)
    together = by_row @ by_row.mT
    one, other = torch.triu_indices(rows, rows, 1, device=grids.device)
    pairs = together[:, one, other]
    for name, apart in (("{} apart", other - one), ("whose numbers sum to {}", one + other)):
        sums = grids.new_zeros(3, 2 * rows).index_add_(1, apart, pairs)
        for distance, each in enumerate(sums.unbind(1)):
            yield f"rows {name.format(distance)}", each
    for lag in range(1, min(NEAR, steps - 1) + 1):
        later, earlier = grids[..., lag:], grids[..., :-lag].clone()
        # A number may decide whether another follows: its own square counts, not what it is on average.
        earlier[1] = earlier[0].square()
        yield f"positions {lag} apart", (later * earlier).sum((1, 2, 3))
    for lag in range(1, calls):
        products = grids[:, lag:] * grids[:, :-lag]
        yield f"calls {lag} apart", products.sum((1, 2, 3))
