"""A token of a nucleus of many entries, found on a CPU without sorting all of them.

Sorting 152,000 entries takes twenty times as long as adding them up by size. So they are added up in narrow
buckets of like size; the one bucket in which the nucleus ends, and the one in which the token lies, are
sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from opdlab.shapes import Float, Int, Tensor

# Of a float32's bits these tell its order of magnitude and the first nine of its fraction; 1.0, the largest
# weight, has the first bucket.
_SHIFT = 14
_FIRST = 0x3F800000 >> _SHIFT


@dataclass(frozen=True)
class _Bucket:
    """Entries of like size of a row, the largest first and equal ones in their order.

    Attributes:
        before: sum of all larger entries.
        weights: float64. `Float[n]`
        columns: where they stand in the row. `Int[n]`
    """

    before: Float[Tensor, ""]
    weights: Float[Tensor, "n"]
    columns: Int[Tensor, "n"]


def from_wide_nucleus(
    weights: Float[Tensor, "V"], uniform: Float[Tensor, "one"], enough: Float[Tensor, "one"]
) -> Int[Tensor, "one"]:
    """The token at `uniform` of the sums of a row's largest entries, which together reach `enough`.

    Args:
        weights: at most 1, in float32.
    """
    place = _FIRST - (weights.view(torch.int32) >> _SHIFT)
    reached = torch.bincount(place, weights.double()).cumsum(0)
    edge = _bucket(weights, place, reached, enough, right=False)
    before = edge.before + edge.weights.cumsum(0) - edge.weights
    kept = edge.weights.masked_fill(before >= enough, 0)
    target = (edge.before + kept.sum()) * uniform
    if target >= edge.before:
        return _entry(kept, edge, target)
    drawn = _bucket(weights, place, reached, target, right=True)
    return _entry(drawn.weights, drawn, target)


def _bucket(
    weights: Float[Tensor, "V"],
    place: Int[Tensor, "V"],
    reached: Float[Tensor, "buckets"],
    target: Float[Tensor, "one"],
    right: bool,
) -> _Bucket:
    """The bucket in which the sum of entries reaches a number, or with `right` goes beyond it."""
    number = int(torch.searchsorted(reached, target.double(), right=right)[0])
    number = min(number, len(reached) - 1)
    columns = (place == number).nonzero()[:, 0]
    ordered, order = weights[columns].sort(stable=True, descending=True)
    before = reached[number - 1] if number else reached.new_zeros(())
    return _Bucket(before, ordered.double(), columns[order])


def _entry(
    weights: Float[Tensor, "n"], bucket: _Bucket, target: Float[Tensor, "one"]
) -> Int[Tensor, "one"]:
    """Where in a row the sum of entries goes beyond a number."""
    found = torch.searchsorted(bucket.before + weights.cumsum(0), target, right=True)
    return bucket.columns[found.clamp(max=int(weights.count_nonzero()) - 1)]
