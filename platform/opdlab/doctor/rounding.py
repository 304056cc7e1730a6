"""What rounding does to a model's numbers: measured by adding up its products in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from opdlab.modelling import ORDERS, InParts, expectation
from opdlab.shapes import Float, Int, Tensor

UNLIKELY = -1e4
"""Nats: what is less likely is ruled out."""
WHOLE = 1e-3
"""Largest difference of a log-probability, in nats, between two ways to compute it in float32."""
MARGIN = 2.0
"""Times the mean difference between two orders of the same sums that a third way may be off."""
ROWS_MARGIN = 4.0
"""Times the largest median of a row, of these differences, that one row may be off."""
FEW = 4
"""Tokens of a row below which its median shows single tokens that went another way."""


@dataclass(frozen=True)
class Tolerance:
    """How far two ways to compute the same log-probabilities may be apart.

    Of float32 the largest difference counts. In half precision rounding sends single tokens to other
    experts, or a state another way, by nats; there the mean counts, and every row's median, which few
    tokens do not move: each against what was measured.

    Attributes:
        nats: at most.
        of_a_row: a row's median, at most; None where the largest difference counts.
    """

    nats: float
    of_a_row: float | None = None

    @property
    def by(self) -> str:
        """Which difference counts."""
        return "largest" if self.of_a_row is None else "typical"

    def gap(self, one: Float[Tensor, "T *n"], other: Float[Tensor, "T *n"], row: Tensor) -> float:
        """The difference; infinite where one has a number and the other none.

        Args:
            row: of each token. `Int[T]`

        Returns:
            Nats. A row's median counts as such a share of `nats` as it is of `of_a_row`.
        """
        nowhere = one.isnan() & other.isnan()
        apart = (one - other).abs().masked_fill(one == other, 0.0).nan_to_num(torch.inf, torch.inf)
        apart = apart.double().masked_fill(nowhere, torch.nan)
        known = apart[~nowhere]
        if known.numel() == 0:
            return 0.0
        if self.of_a_row is None:
            return float(known.max())
        worst = largest_median(apart if apart.ndim == 1 else apart.nanmean(-1), row)
        mean = float(known.mean())
        if self.of_a_row == 0:
            # Another order of sums changed nothing, so `nats` is 0 as well.
            return mean
        return max(mean, worst / self.of_a_row * self.nats)


def largest_median(apart: Float[Tensor, "T"], row: Int[Tensor, "T"]) -> float:
    """Of rows of several tokens that have a number."""
    known = ~apart.isnan()
    groups = (apart[known & (row == each)] for each in row.unique())
    return max((float(one.median()) for one in groups if len(one) >= FEW), default=0.0)


def tolerance(
    dtype: torch.dtype, row: Int[Tensor, "T"], log_probs: Callable[[], Iterable[Tensor]]
) -> Tolerance:
    """That of a model of this number format.

    Args:
        row: of each token.
        log_probs: what the model says, by whole forwards: those of some tokens at a time. `Float[t V]`
    """
    if dtype == torch.float32:
        return Tolerance(WHOLE)
    said = list(log_probs())
    noise = rows = 0.0
    for parts in ORDERS:
        with InParts(parts):
            again = list(log_probs())
        gaps = torch.cat([apart(one, other) for one, other in zip(again, said, strict=True)])
        # What overflows in parts is no measure of rounding.
        gaps = gaps.double().masked_fill(~gaps.isfinite(), torch.nan)
        noise = max(noise, float(gaps.nanmean().nan_to_num()))
        rows = max(rows, largest_median(gaps, row))
    return Tolerance(MARGIN * noise, max(MARGIN * noise, ROWS_MARGIN * rows))


def apart(found: Float[Tensor, "T V"], truth: Float[Tensor, "T V"]) -> Float[Tensor, "T"]:
    """The larger of the mean differences of log-probabilities over a distribution and over all entries."""
    gap = (found.clamp(min=UNLIKELY) - truth.clamp(min=UNLIKELY)).abs()
    return torch.maximum(expectation(truth.exp(), gap), gap.mean(-1)).nan_to_num(
        torch.inf, torch.inf
    )
