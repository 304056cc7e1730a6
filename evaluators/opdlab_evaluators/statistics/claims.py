"""What is claimed together is corrected together: all differences of a table or a page are one family.

Eleven equal runs give ten differences from the first. Were each tested by itself, one of them would be
called better or worse far more often than in 5 % of cases; over the whole family it is at most 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opdlab_evaluators.statistics import resampling
from opdlab_evaluators.statistics.paired import POOLED, Paired
from opdlab_evaluators.statistics.seeds import OverSeeds

Found = list[Paired] | list[OverSeeds]


def together(found: Sequence[Found]) -> list[Found]:
    """Several comparisons, each as `compare` or `paired_over_seeds` gives it, corrected over all of them.

    By Holm's method, with half of the weight on the differences over all benchmarks. pass@k makes a family
    of its own.

    Returns:
        The comparisons in the given order, with corrected p-values.
    """
    flat = [one for each in found for one in each]
    overall = [one.benchmark == POOLED for one in flat]
    raw = [(one.mean.p, one.pass_at.p) if isinstance(one, Paired) else (one.p, 1.0) for one in flat]
    means, passes = (iter(resampling.together([p[kind] for p in raw], overall)) for kind in (0, 1))

    def corrected(one: Paired | OverSeeds) -> Paired | OverSeeds:
        mean, passed = next(means), next(passes)
        if isinstance(one, OverSeeds):
            return replace(one, p_holm=mean)
        better = replace(one.mean, p_holm=mean), replace(one.pass_at, p_holm=passed)
        return replace(one, mean=better[0], pass_at=better[1])

    return [[corrected(one) for one in each] for each in found]  # pyright: ignore[reportReturnType]
