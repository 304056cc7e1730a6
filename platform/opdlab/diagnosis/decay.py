"""What is found of a curve of fidelity: its fall, its horizon, the sigmoid, and what training changed.

Source: arXiv:2605.30833, section 3. Positions are told in tokens, intervals are 95 %, over problems.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from opdlab import plugins
from opdlab.diagnosis import bootstrap, fidelity
from opdlab.diagnosis.bootstrap import interval, resampled, sign_flip, two_sided
from opdlab.diagnosis.fidelity import Curves
from opdlab.diagnosis.observation import Tokens
from opdlab.shapes import Float

THOUSAND = 1000
LEVEL = 0.05
FEWEST_REACHING = 5
"""Problems whose answers must reach a bin; what fewer say of it is chance."""
NOTHING = "nothing to measure: no token has a next step, as every answer ends at once"


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


def by_position(curves: Curves) -> list[dict[str, float]]:
    """F in each bin, over the problems that reach it: whoever still writes there."""
    rows = []
    for place, values in enumerate(curves.each().T):
        known = values[np.isfinite(values)]
        low, high = over_problems("mean_interval", known)
        rows.append(
            {
                "position": float(curves.position[place] * THOUSAND),
                "mean": float(known.mean()),
                "low": low,
                "high": high,
                "tokens": int(curves.count[:, place].sum()),
                "problems": len(known),
            }
        )
    return rows


def over_problems(kind: str, values: Float[np.ndarray, "problems"]) -> tuple[float, float]:
    """The interval of a mean over problems, as scores have it; NaN of fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = plugins.load(plugins.STATISTICS, kind)(values)
    return float(low), float(high)


def fall(tokens: Tokens) -> dict[str, Any]:
    """How far F falls within answers: from an answer's own first quarter to its own last one.

    Mean over the answers of a problem, then over problems. What other answers do at those positions has
    no part in it: long answers to problems that the teacher is unsure of throughout are no fall.
    """
    found: dict[int, list[tuple[float, float]]] = {}
    for answer in tokens.responses():
        known = answer.fidelity[np.isfinite(answer.fidelity)]
        quarter = max(1, len(known) // 4)
        if len(known) >= 2:
            ends = float(known[:quarter].mean()), float(known[-quarter:].mean())
            found.setdefault(int(answer.problem[0]), []).append(ends)
    each = np.array([np.mean(ends, 0) for ends in found.values()]).reshape(-1, 2)
    early, late = each.mean(0).tolist() if len(each) else (float("nan"), float("nan"))
    low, high = over_problems("difference_interval", each[:, 0] - each[:, 1])
    ends = {"early": early, "late": late, "problems": len(each)}
    return {"value": early - late, "low": low, "high": high, **ends}


def sigmoid_of(curves: Curves, seed: int) -> dict[str, Any]:
    """The sigmoid, or why it is not identified."""
    if not curves.count.any():
        return {"identified": False, "text": f"not identified ({NOTHING})"}
    fit = fidelity.fit(curves, bootstrap.REPLICATES, seed)
    return {"identified": fit.identified, "text": str(fit), **asdict(fit)}


def horizon(curves: Curves, least: float, seed: int) -> dict[str, Any]:
    """t_eff = sup{t : C_t > C_min}, 0 where it is nowhere; `at_end` where nothing beyond it was seen."""
    if not len(curves.position):
        nothing = dict.fromkeys(("value", "low", "high", "seen"), float("nan"))
        return {**nothing, "at_end": False}
    times = resampled(len(curves.total), seed)
    low, high = interval(horizons(curves, least, times))
    value = float(horizons(curves, least, np.ones((1, len(curves.total))))[0])
    longest = float(curves.position[-1] * THOUSAND)
    return {"value": value, "low": low, "high": high, "seen": longest, "at_end": value >= longest}


def horizons(
    curves: Curves, least: float, times: Float[np.ndarray, "R problems"]
) -> Float[np.ndarray, "R"]:
    """The horizon in each replicate, in tokens; 0 where no position lies within, NaN of one without tokens.

    By how F moves within problems: were it that of whoever still writes, problems with long answers that
    the teacher is unsure of throughout would end it where no answer falls.
    """
    mean = curves.of_all(times)
    above = np.nan_to_num(mean, nan=-np.inf) > least
    last = np.where(above, curves.position, -np.inf).max(1)
    found = np.where(np.isfinite(last), last, 0.0) * THOUSAND
    return np.where(np.isfinite(mean).any(1), found, np.nan)


@dataclass(frozen=True)
class Change:
    """How far a number is from one model to another, on the problems and positions that both reach.

    Attributes:
        what: in words.
        value: after less before; NaN where it is not known.
        low, high: 95 % interval over problems; infinite where an end was not seen.
        bound: "at least" or "at most" where one of the two lies beyond what was seen, or why the value
            is not known; empty where it is.
        problems: those that both reach.
        p: of "no change", over problems; 1 where nothing can be compared.
        claims: so many changes are told together, over which p is corrected (Bonferroni).
    """

    what: str
    unit: str
    value: float
    low: float
    high: float
    problems: int
    bound: str = ""
    p: float = 1.0
    claims: int = 1

    def __str__(self) -> str:
        based = f"n = {self.problems} problems that both reach"
        if not math.isfinite(self.value):
            return f"{self.what}: {self.bound or 'nothing to compare'} ({based})"
        shown = self.p * self.claims < LEVEL and not self.low <= 0 <= self.high
        word = "no difference is shown" if not shown else "up" if self.low > 0 else "down"
        form = ".0f" if self.unit else ".3f"
        ends = f"[{self.low:+{form}}, {self.high:+{form}}]"
        said = f"{self.bound} " * bool(self.bound)
        return f"{self.what}: {said}{self.value:+{form}}{self.unit} {ends}, {word} ({based})"


NOWHERE = float("nan")


def late_change(before: Curves, after: Curves, seed: int = 0) -> Change:
    """Of F at late positions, the last quarter of those that both reach, within problems.

    A problem counts where both reach a late bin, by what both have there; so neither a choice of
    problems nor another mix of positions looks like a change.
    """
    before, after = both_reach(before, after, fewest=1)
    late = max(1, len(before.position) // 4)
    apart = (after.each() - before.each())[:, -late:]
    reached = np.isfinite(apart).any(1)
    if not reached.any():
        return Change("late F", "", NOWHERE, NOWHERE, NOWHERE, 0)
    values = np.nanmean(apart[reached], 1)
    first, last = before.position[[-late, -1]] * THOUSAND
    ends = over_problems("difference_interval", values)
    what = f"late F (t {first:.0f} to {last:.0f})"
    p = sign_flip(values, seed)
    return Change(what, "", float(values.mean()), *ends, len(values), p=p)


def both_reach(
    before: Curves, after: Curves, fewest: int = FEWEST_REACHING
) -> tuple[Curves, Curves]:
    """Two curves of the same problems, with the cells (problem and bin) that both hold; bins with fewer
    such problems are left out."""
    shared = np.intersect1d(before.position, after.position)
    cut = [
        (c.total[:, places], c.count[:, places])
        for c in (before, after)
        for places in [np.isin(c.position, shared)]
    ]
    held = (cut[0][1] > 0) & (cut[1][1] > 0)
    kept = held.sum(0) >= min(fewest, len(held))
    first, second = (
        Curves(shared[kept], (total * held)[:, kept], (count * held)[:, kept])
        for total, count in cut
    )
    return first, second


def horizon_change(before: Curves, after: Curves, least: float, seed: int) -> Change:
    """Of the effective horizon, over the problems and positions that both reach.

    A horizon at the end of what both reach is only known to be that or more. So with the first one there,
    the change is at most what is seen, with the second one there it is at least that, and with both
    there nothing is known: answers that only got shorter move no horizon.
    """
    what, unit = f"horizon (F > {least:g})", " tokens"
    before, after = both_reach(before, after)
    problems = int((before.count > 0).any(1).sum())
    if not problems:
        return Change(what, unit, NOWHERE, NOWHERE, NOWHERE, 0)
    end = before.position[-1] * THOUSAND
    times = np.vstack([np.ones(len(before.total)), resampled(len(before.total), seed)])
    first, second = (horizons(one, least, times) for one in (before, after))
    moved = second - first
    lowest = np.where(first >= end, -np.inf, moved)
    highest = np.where(second >= end, np.inf, moved)
    if first[0] >= end and second[0] >= end:
        why = f"not known, as all that both reach, {end:.0f} tokens, lies within both"
        return Change(what, unit, NOWHERE, NOWHERE, NOWHERE, problems, why)
    bound = "at most" if first[0] >= end else "at least" if second[0] >= end else ""
    low = np.nanquantile(lowest[1:], 0.025, method="lower")
    high = np.nanquantile(highest[1:], 0.975, method="higher")
    p = two_sided(~(lowest[1:] > 0), ~(highest[1:] < 0))
    return Change(what, unit, float(moved[0]), float(low), float(high), problems, bound, p)


def boundary_change(before: Curves, after: Curves, seed: int, claims: int = 1) -> dict[str, Any]:
    """Whether the boundary t_star moved, in thousands of tokens; corrected for so many changes."""
    if not (before.count.any() and after.count.any()):
        return {"text": NOTHING, "value": NOWHERE, "low": NOWHERE, "high": NOWHERE}
    moved = replace(fidelity.shift(before, after, bootstrap.REPLICATES, seed), claims=claims)
    low, high = moved.interval
    return {"text": str(moved), "value": moved.value, "low": low, "high": high}
