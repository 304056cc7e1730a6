"""The seven measurements as plain values, computed from what was observed; every one states its n.

Source: arXiv:2605.30833, section 3. Intervals are 95 %, over problems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from opdlab import fidelity, plugins
from opdlab.diagnosis.observation import HandOvers, Tokens
from opdlab.errors import DataError
from opdlab.fidelity import Curves, Fit
from opdlab.shapes import Float

REPLICATES = 1000
THOUSAND = 1000
FEWEST_REACHING = 5
"""Problems whose answers must reach a bin; what fewer say of it is chance."""
FEWEST_CUTS = 4
FEWEST_HANDED = 5
"""Responses that a cut needs to be shown, and to count in a correlation over cuts."""
ENTROPY_BINS = 8
SHOWN_TOKENS = 3000
"""Points of a scatter that are kept."""


@dataclass(frozen=True, eq=False)
class Observed:
    """A model with what was seen of it.

    Attributes:
        name: in tables and figures.
        own: whether it is the teacher on its own prefixes, the control.
    """

    name: str
    own: bool
    tokens: Tokens
    handed: HandOvers


def find(
    observed: Sequence[Observed], problems: int, bins: int, least: float, seed: int = 0
) -> dict[str, Any]:
    """All findings.

    Args:
        observed: students in the order of their training, and the control.
        problems: how many there are.
        bins: of the position; fewer where responses have fewer tokens.
        least: fidelity that a position must exceed to lie within the effective horizon.
    """
    longest = max(int(one.tokens.position.max()) for one in observed) + 1
    width = math.ceil(longest / bins)
    models = {}
    curves = {}
    for one in observed:
        curves[one.name] = curve_of(one.tokens, problems, width, longest)
        models[one.name] = model_findings(one, curves[one.name], least, seed)
    students = [one.name for one in observed if not one.own]
    first, *later = students
    shifts = {name: shift_of(curves[first], curves[name], seed) for name in later}
    return {
        "problems": problems,
        "bin_width": width,
        "least": least,
        "students": students,
        "control": next((one.name for one in observed if one.own), None),
        "models": models,
        "shifts": shifts,
    }


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


def model_findings(one: Observed, curves: Curves, least: float, seed: int) -> dict[str, Any]:
    """What is found of one model."""
    tokens = one.tokens
    handed = hand_over_findings(one)
    found = {
        "own": one.own,
        "responses": len(tokens.responses()),
        "tokens": len(tokens),
        "curve": curve_findings(curves, seed),
        "fall": fall(curves, seed),
        "fit": fit_findings(fidelity.fit(curves, REPLICATES, seed)),
        "horizon": horizon(curves, least, seed),
        "hand_over": handed,
        "accuracy_with_fidelity": correlation_over_cuts(handed),
        "ahead": ahead_findings(tokens, seed),
    }
    if not one.own:
        found["pair"] = pair_findings(tokens, seed)
    return found


def resampled(count: int, seed: int) -> Float[np.ndarray, "R problems"]:
    """How often each problem is drawn, in each replicate of a bootstrap."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(count, np.full(count, 1 / count), size=REPLICATES).astype(float)


def interval(values: Float[np.ndarray, "R ..."]) -> tuple[Any, Any]:
    """2.5 and 97.5 % of replicates, those without a value left out."""
    low, high = np.nanquantile(values, [0.025, 0.975], axis=0)
    return low.tolist(), high.tolist()


def curve_findings(curves: Curves, seed: int) -> list[dict[str, float]]:
    """F by position, in tokens."""
    times = resampled(len(curves.total), seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = times @ curves.total / (times @ curves.count)
    mean, count = curves.mean()
    reached = (curves.count > 0).sum(0)
    rows = []
    for place in range(len(reached)):
        low, high = interval(means[:, place])
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


def fall(curves: Curves, seed: int) -> dict[str, Any]:
    """How far F falls from the first quarter of the positions to the last one."""
    quarter = max(1, len(curves.position) // 4)
    early, late = slice(quarter), slice(-quarter, None)
    times = resampled(len(curves.total), seed)

    def mean(weights: Float[np.ndarray, "..."], bins: Any) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ curves.total[:, bins].sum(1)) / (
                weights @ curves.count[:, bins].sum(1)
            )

    everyone = np.ones(len(curves.total))
    low, high = interval(mean(times, early) - mean(times, late))
    edges = curves.position * THOUSAND
    return {
        "value": float(mean(everyone, early) - mean(everyone, late)),
        "low": low,
        "high": high,
        "early": float(mean(everyone, early)),
        "late": float(mean(everyone, late)),
        "until": float(edges[early][-1]),
        "since": float(edges[late][0]),
        "problems": int((curves.count[:, late].sum(1) > 0).sum()),
    }


def fit_findings(fit: Fit) -> dict[str, Any]:
    """The sigmoid, or why it is not identified."""
    return {"identified": fit.identified, "text": str(fit), **asdict(fit)}


def shift_of(before: Curves, after: Curves, seed: int) -> dict[str, Any]:
    """Whether the boundary moved, from the first student to a later one."""
    moved = fidelity.shift(before, after, REPLICATES, seed)
    low, high = moved.interval
    return {"text": str(moved), "value": moved.value, "low": low, "high": high}


def horizon(curves: Curves, least: float, seed: int) -> dict[str, Any]:
    """t_eff = sup{t : C_t > C_min} in tokens."""
    times = resampled(len(curves.total), seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = times @ curves.total / (times @ curves.count)
    above = np.nan_to_num(means, nan=-np.inf) > least
    last = np.where(above, curves.position, -np.inf).max(1)
    low, high = interval(np.where(np.isfinite(last), last, 0.0) * THOUSAND)
    value = fidelity.effective_horizon(curves, least) * THOUSAND
    longest = float(curves.position[-1] * THOUSAND)
    return {"value": value, "low": low, "high": high, "seen": longest, "at_end": value >= longest}


def hand_over_findings(one: Observed) -> list[dict[str, Any]]:
    """Accuracy and jump of confidence by cut."""
    rows = []
    handed = one.handed
    whole = handed[handed.cut == 0]
    for cut in np.unique(handed.cut).tolist():
        mine = handed[handed.cut == cut]
        graded = mine[np.isfinite(mine.correct)]
        row: dict[str, Any] = {"cut": cut, "n": len(mine), "faults": len(mine) - len(graded)}
        row["problems"] = len(np.unique(graded.problem))
        row |= estimate("accuracy", graded.correct, graded.problem)
        again = np.isin(whole.problem, mine.problem) & np.isfinite(whole.correct)
        row["accuracy_from_nothing"] = nanmean(whole.correct[again])
        row["truncated"] = nanmean(mine.truncated)
        jumped = mine[np.isfinite(mine.before) & np.isfinite(mine.after)]
        row |= estimate("jump", jumped.after - jumped.before, jumped.problem, bounded=False)
        row["before"], row["after"] = nanmean(jumped.before), nanmean(jumped.after)
        row["jumps"] = len(jumped)
        around = np.abs(one.tokens.position - cut) <= max(4, cut // 20)
        row["fidelity"] = nanmean(one.tokens.fidelity[around])
        rows.append(row)
    return rows


def nanmean(values: Float[np.ndarray, "n"]) -> float:
    """Mean of what is there; NaN of nothing."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def estimate(
    name: str, values: Float[np.ndarray, "n"], problem: Any, bounded: bool = True
) -> dict[str, float]:
    """Mean over problems with its interval; no interval from a single problem."""
    _, place = np.unique(problem, return_inverse=True)
    each = np.bincount(place, values) / np.bincount(place) if len(values) else np.zeros(0)
    low = high = float("nan")
    if len(each) >= 2:
        kind = "mean_interval" if bounded else "difference_interval"
        low, high = (float(end) for end in plugins.load(plugins.STATISTICS, kind)(each))
    return {name: nanmean(each), f"{name}_low": low, f"{name}_high": high}


def correlation_over_cuts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Pearson's r of accuracy with fidelity at the cut, over cuts."""
    used = [r for r in rows if r["n"] >= FEWEST_HANDED and r["cut"] > 0]
    pairs = np.array([[r["accuracy"], r["fidelity"]] for r in used]).reshape(-1, 2)
    if len(pairs) < FEWEST_CUTS or pairs.std(0).min() < 1e-9:
        why = f"{len(pairs)} cuts with {FEWEST_HANDED} responses or more, or nothing varies"
        return {"r": None, "cuts": len(pairs), "why": why}
    return {"r": float(np.corrcoef(pairs.T)[0, 1]), "cuts": len(pairs), "why": ""}


def by_problem_interval(
    tokens: Tokens, statistic: Any, seed: int, replicates: int = 200
) -> tuple[float, float]:
    """Interval of a statistic of tokens, problems drawn with replacement."""
    problems = np.unique(tokens.problem)
    places = {number: np.flatnonzero(tokens.problem == number) for number in problems.tolist()}
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(replicates):
        drawn = draw.choice(problems, len(problems))
        rows = np.concatenate([places[number] for number in drawn.tolist()])
        try:
            found.append(statistic(tokens[rows]))
        except DataError:
            continue
    return interval(np.array(found)) if found else (float("nan"), float("nan"))


def ahead_findings(tokens: Tokens, seed: int) -> dict[str, Any]:
    """D_ahead against the teacher's local entropy: independent of it, or not."""
    asked = tokens[np.isfinite(tokens.ahead)]
    if len(asked) < 3 or min(asked.ahead.std(), asked.entropy.std()) == 0:
        return {"n": len(asked), "why": "fewer than three positions, or nothing varies"}

    def rank_correlation(some: Tokens) -> float:
        ranks = np.stack([stats.rankdata(some.ahead), stats.rankdata(some.entropy)])
        if ranks.std(1).min() == 0:
            raise DataError("nothing varies")
        return float(np.corrcoef(ranks)[0, 1])

    low, high = by_problem_interval(asked, rank_correlation, seed)
    order = asked.entropy.argsort()
    groups = [asked[part] for part in np.array_split(order, ENTROPY_BINS) if len(part)]
    return {
        "n": len(asked),
        "problems": len(np.unique(asked.problem)),
        "mean": float(asked.ahead.mean()),
        "rank_r": rank_correlation(asked),
        "rank_r_low": low,
        "rank_r_high": high,
        "bins": [
            {"entropy": float(g.entropy.mean()), "ahead": float(g.ahead.mean()), "n": len(g)}
            for g in groups
        ],
        "points": points(asked, ("entropy", "ahead"), seed),
    }


def pair_findings(tokens: Tokens, seed: int) -> dict[str, Any]:
    """Pearson's r and the slope of teacher on student, over the student's tokens."""
    try:
        distance = fidelity.pair_distance(tokens.student, tokens.teacher)
    except DataError as error:
        return {"n": len(tokens), "why": str(error)}
    low, high = by_problem_interval(
        tokens, lambda some: fidelity.pair_distance(some.student, some.teacher).r, seed
    )
    return {
        "n": len(tokens),
        "problems": len(np.unique(tokens.problem)),
        "r": distance.r,
        "r_low": low,
        "r_high": high,
        "slope": distance.slope,
        "points": points(tokens, ("student", "teacher"), seed),
    }


def points(tokens: Tokens, names: tuple[str, str], seed: int) -> list[list[float]]:
    """Two values of some tokens, drawn at random, for a scatter."""
    draw = np.random.default_rng(seed)
    some = tokens[draw.permutation(len(tokens))[:SHOWN_TOKENS]]
    return np.stack([getattr(some, name) for name in names], 1).round(4).tolist()
