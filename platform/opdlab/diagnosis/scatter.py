"""What is found token by token: D_ahead against the teacher's entropy, teacher against student.

Source: arXiv:2605.30833, sections 3 and 4. Intervals are 95 %, over problems.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from opdlab.diagnosis import fidelity
from opdlab.diagnosis.bootstrap import interval_of
from opdlab.diagnosis.fidelity import varies
from opdlab.diagnosis.observation import Tokens
from opdlab.errors import DataError

ENTROPY_BINS = 8
SHOWN_TOKENS = 3000
"""Points of a scatter that are kept."""


def ahead(tokens: Tokens, seed: int) -> dict[str, Any]:
    """D_ahead against the teacher's local entropy: independent of it, or not."""
    asked = tokens[np.isfinite(tokens.ahead)]
    if len(asked) < 3 or not (varies(asked.ahead) and varies(asked.entropy)):
        return {"n": len(asked), "why": "fewer than three positions, or nothing varies"}
    low, high = interval_of(asked, rank_correlation, seed)
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


def rank_correlation(tokens: Tokens) -> float:
    """Spearman's, of D_ahead with the teacher's entropy.

    Raises:
        DataError: one of the two does not vary.
    """
    if not (varies(tokens.ahead) and varies(tokens.entropy)):
        raise DataError("nothing varies")
    ranks = np.stack([stats.rankdata(tokens.ahead), stats.rankdata(tokens.entropy)])
    return float(np.corrcoef(ranks)[0, 1])


def pair(tokens: Tokens, seed: int) -> dict[str, Any]:
    """Pearson's r and the slope of teacher on student, over the student's tokens."""
    try:
        distance = fidelity.pair_distance(tokens.student, tokens.teacher)
    except DataError as error:
        return {"n": len(tokens), "why": str(error)}
    low, high = interval_of(
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
