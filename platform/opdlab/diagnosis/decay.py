"""What is found of a curve of fidelity: its fall, its horizon, the sigmoid, and what training changed.

Source: arXiv:2605.30833, section 3. Positions are told in tokens, intervals are 95 %, over problems.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from opdlab import fidelity
from opdlab.diagnosis import bootstrap
from opdlab.diagnosis.bootstrap import interval, resampled
from opdlab.diagnosis.observation import Tokens
from opdlab.fidelity import Curves
from opdlab.shapes import Float

THOUSAND = 1000
FEWEST_REACHING = 5
"""Problems whose answers must reach a bin; what fewer say of it is chance."""


def curve_of(tokens: Tokens, problems: int, width: int, longest: int) -> Curves:
    """Sums of F by problem and bin, of bins that some problems reach; after an EOS there is no F."""
    bins = math.ceil(longest / width)
    known = np.isfinite(tokens.fidelity)
    place = tokens.problem[known] * bins + tokens.position[known] // width
    shape = (problems, bins)
    total = np.bincount(place, tokens.fidelity[known], minlength=problems * bins).reshape(shape)
    count = np.bincount(place, minlength=problems * bins).reshape(shape).astype(float)
    middle = (np.arange(bins) + 0.5) * width / THOUSAND
    kept = (count > 0).sum(0) >= min(FEWEST_REACHING, problems)
    return Curves(middle[kept], total[:, kept], count[:, kept])


def means(curves: Curves, seed: int) -> Float[np.ndarray, "R bins"]:
    """F by bin in each replicate; NaN where none of the problems drawn is so long."""
    times = resampled(len(curves.total), seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return times @ curves.total / (times @ curves.count)


def by_position(curves: Curves, seed: int) -> list[dict[str, float]]:
    """F in each bin."""
    replicates = means(curves, seed)
    mean, count = curves.mean()
    reached = (curves.count > 0).sum(0)
    rows = []
    for place in range(len(reached)):
        low, high = interval(replicates[:, place])
        rows.append(
            {
                "position": float(curves.position[place] * THOUSAND),
                "mean": float(mean[place]),
                "low": low,
                "high": high,
                "tokens": int(count[place]),
                "problems": int(reached[place]),
            }
        )
    return rows


def mean_of(curves: Curves, weights: Float[np.ndarray, "... problems"], bins: Any) -> Any:
    """F over all tokens of some bins, problems weighed."""
    total, count = curves.total[:, bins].sum(1), curves.count[:, bins].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ total) / (weights @ count)


def fall(curves: Curves, seed: int) -> dict[str, Any]:
    """How far F falls from the first quarter of the positions to the last one."""
    quarter = max(1, len(curves.position) // 4)
    early, late = slice(quarter), slice(-quarter, None)
    times, everyone = resampled(len(curves.total), seed), np.ones(len(curves.total))
    first, last = (mean_of(curves, everyone, bins) for bins in (early, late))
    low, high = interval(mean_of(curves, times, early) - mean_of(curves, times, late))
    edges = curves.position * THOUSAND
    return {
        "value": float(first - last),
        "low": low,
        "high": high,
        "early": float(first),
        "late": float(last),
        "until": float(edges[early][-1]),
        "since": float(edges[late][0]),
        "problems": int((curves.count[:, late].sum(1) > 0).sum()),
    }


def sigmoid_of(curves: Curves, seed: int) -> dict[str, Any]:
    """The sigmoid, or why it is not identified."""
    fit = fidelity.fit(curves, bootstrap.REPLICATES, seed)
    return {"identified": fit.identified, "text": str(fit), **asdict(fit)}


def horizon(curves: Curves, least: float, seed: int) -> dict[str, Any]:
    """t_eff = sup{t : C_t > C_min}; `at_end` where nothing beyond it was seen."""
    low, high = interval(horizons(curves, least, seed))
    value = fidelity.effective_horizon(curves, least) * THOUSAND
    longest = float(curves.position[-1] * THOUSAND)
    return {"value": value, "low": low, "high": high, "seen": longest, "at_end": value >= longest}


def horizons(curves: Curves, least: float, seed: int) -> Float[np.ndarray, "R"]:
    """The horizon in each replicate; 0 where no position lies within."""
    above = np.nan_to_num(means(curves, seed), nan=-np.inf) > least
    last = np.where(above, curves.position, -np.inf).max(1)
    return np.where(np.isfinite(last), last, 0.0) * THOUSAND


@dataclass(frozen=True)
class Change:
    """How far a number is from one model to another, on the same problems.

    Attributes:
        what: in words.
        bound: the other one lies beyond what was seen, so it is this or more.
    """

    what: str
    unit: str
    value: float
    low: float
    high: float
    bound: bool = False

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"{self.what}: nothing to compare"
        word = "up" if self.low > 0 else "down" if self.high < 0 else "no difference is shown"
        least = "at least " if self.bound else ""
        form = ".0f" if self.unit else ".3f"
        ends = f"[{self.low:+{form}}, {self.high:+{form}}]"
        return f"{self.what}: {least}{self.value:+{form}}{self.unit} {ends}, {word}"


def late_change(before: Curves, after: Curves, seed: int) -> Change:
    """Of F at late positions: the last quarter of those that both reach. Problems are drawn together."""
    shared = np.intersect1d(before.position, after.position)
    if not len(shared):
        nothing = float("nan")
        return Change("late F", "", nothing, nothing, nothing)
    late = shared[-max(1, len(shared) // 4) :]
    times, everyone = resampled(len(before.total), seed), np.ones(len(before.total))
    values, replicates = [], []
    for curves in (before, after):
        bins = np.isin(curves.position, late)
        values.append(mean_of(curves, everyone, bins))
        replicates.append(mean_of(curves, times, bins))
    since = f"{late[0] * THOUSAND:.0f} to {late[-1] * THOUSAND:.0f}"
    ends = interval(replicates[1] - replicates[0])
    return Change(f"late F (t {since})", "", float(values[1] - values[0]), *ends)


def horizon_change(before: Curves, after: Curves, least: float, seed: int) -> Change:
    """Of the effective horizon."""
    ends = [horizon(curves, least, seed) for curves in (before, after)]
    low, high = interval(horizons(after, least, seed) - horizons(before, least, seed))
    value = ends[1]["value"] - ends[0]["value"]
    return Change(f"horizon (F > {least:g})", " tokens", value, low, high, ends[1]["at_end"])


def boundary_change(before: Curves, after: Curves, seed: int) -> dict[str, Any]:
    """Whether the boundary t_star moved, in thousands of tokens."""
    moved = fidelity.shift(before, after, bootstrap.REPLICATES, seed)
    low, high = moved.interval
    return {"text": str(moved), "value": moved.value, "low": low, "high": high}
