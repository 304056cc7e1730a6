"""The seven measurements as plain values, computed from what was observed; every one states its n.

Source: arXiv:2605.30833, section 3. Intervals are 95 %, over problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from opdlab import plugins
from opdlab.diagnosis import decay, scatter
from opdlab.diagnosis.fidelity import Curves
from opdlab.diagnosis.observation import HandOvers, Tokens
from opdlab.shapes import Bool, Float

FEWEST_CUTS = 4
FEWEST_HANDED = 5
"""Responses that a cut needs to be shown, and to count in a correlation over cuts."""
NOTHING_MOVES = 1e-9
"""Spread over cuts below which a curve is flat but for rounding."""


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
        curves[one.name] = decay.curve_of(one.tokens, problems, width, longest)
        models[one.name] = model_findings(one, curves[one.name], least, seed)
    students = [one.name for one in observed if not one.own]
    control = next((one.name for one in observed if one.own), None)
    first, *later = students
    # All that moved is told together, so it is corrected together.
    claims = len(CHANGES) * len(later) + len(students) * (control is not None)
    if control is not None:
        for name in students:
            apart = replace(decay.late_change(curves[control], curves[name], seed), claims=claims)
            models[name]["drift"] = {"text": str(apart), **asdict(apart)}
    shifts = {name: change(curves[first], curves[name], least, seed, claims) for name in later}
    return {
        "problems": problems,
        "bin_width": width,
        "least": least,
        "students": students,
        "control": control,
        "models": models,
        "shifts": shifts,
    }


def model_findings(one: Observed, curves: Curves, least: float, seed: int) -> dict[str, Any]:
    """What is found of one model."""
    tokens = one.tokens
    handed = hand_over_findings(one)
    found = {
        "own": one.own,
        "responses": len(tokens.responses()),
        "tokens": len(tokens),
        "curve": decay.by_position(curves),
        "fall": decay.fall(tokens),
        "fit": decay.sigmoid_of(curves, seed),
        "horizon": decay.horizon(curves, least, seed),
        "hand_over": handed,
        "accuracy_with_fidelity": correlation_over_cuts(one),
        "ahead": scatter.ahead(tokens, seed),
    }
    if not one.own:
        found["pair"] = scatter.pair(tokens, seed)
    return found


CHANGES = ("t_star", "late", "horizon")
"""What is told of each later student."""


def change(
    before: Curves, after: Curves, least: float, seed: int, claims: int = len(CHANGES)
) -> dict[str, Any]:
    """What moved from the first student to a later one, corrected for so many changes; the late F and the
    horizon also where no sigmoid is identified."""
    late = replace(decay.late_change(before, after, seed), claims=claims)
    horizon = replace(decay.horizon_change(before, after, least, seed), claims=claims)
    boundary = decay.boundary_change(before, after, seed, claims)
    told = ({"text": str(one), **asdict(one)} for one in (late, horizon))
    return dict(zip(CHANGES, (boundary, *told), strict=True))


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
        row["fidelity"] = nanmean(one.tokens.fidelity[around(one.tokens, mine, cut)])
        rows.append(row)
    return rows


def around(tokens: Tokens, handed: HandOvers, cut: int) -> Bool[np.ndarray, "T"]:
    """Tokens near a cut, of the responses that were handed over there."""
    most = max(int(tokens.sample.max()), int(handed.sample.max())) + 1
    writers = np.isin(tokens.problem * most + tokens.sample, handed.problem * most + handed.sample)
    return writers & (np.abs(tokens.position - cut) <= max(4, cut // 20))


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


def correlation_over_cuts(one: Observed) -> dict[str, Any]:
    """Pearson's r over cuts of accuracy with fidelity at the cut, as both move within problems.

    Late cuts have only the problems with long answers: were those hard, and the teacher unsure of them from
    the first token on, plain means would go together where nothing moves.
    """
    handed = one.handed[(one.handed.cut > 0) & np.isfinite(one.handed.correct)]
    fidelity = fidelity_at_cuts(one.tokens, handed)
    handed, fidelity = handed[np.isfinite(fidelity)], fidelity[np.isfinite(fidelity)]
    cuts, counts = np.unique(handed.cut, return_counts=True)
    used = np.isin(handed.cut, cuts[counts >= FEWEST_HANDED])
    handed, fidelity = handed[used], fidelity[used]
    cuts, place = np.unique(handed.cut, return_inverse=True)
    problems, row = np.unique(handed.problem, return_inverse=True)
    shape, cell = (len(problems), len(cuts)), row * len(cuts) + place

    def over_cuts(values: Float[np.ndarray, "n"]) -> Curves:
        total, count = (
            np.bincount(cell, weights, minlength=shape[0] * shape[1]).reshape(shape)
            for weights in (values, np.ones(len(cell)))
        )
        return Curves(cuts.astype(float), total, count)

    pair = over_cuts(handed.correct), over_cuts(fidelity)
    if len(cuts) >= FEWEST_CUTS and pair[0].parts() == 1:
        moved = np.stack([curves.within()[0][0] for curves in pair])
        if moved.std(1).min() >= NOTHING_MOVES:
            return {"r": float(np.corrcoef(moved)[0, 1]), "cuts": len(cuts), "why": ""}
    why = f"{len(cuts)} cuts with {FEWEST_HANDED} responses or more, or nothing varies"
    return {"r": None, "cuts": len(cuts), "why": why}


def fidelity_at_cuts(tokens: Tokens, handed: HandOvers) -> Float[np.ndarray, "N"]:
    """F near the cut of each response that was handed over; NaN where none is known."""
    found = np.full(len(handed), np.nan)
    for cut in np.unique(handed.cut).tolist():
        rows = np.flatnonzero(handed.cut == cut)
        near = tokens[around(tokens, handed[rows], cut) & np.isfinite(tokens.fidelity)]
        for row in rows.tolist():
            own = (near.problem == handed.problem[row]) & (near.sample == handed.sample[row])
            found[row] = nanmean(near.fidelity[own])
    return found
