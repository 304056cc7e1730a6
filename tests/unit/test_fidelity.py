"""The sigmoid of fidelity: known parameters come back, intervals cover, what is not there is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from opdlab.diagnosis.fidelity import (
    Curves,
    Shift,
    _doubts,
    effective_horizon,
    fit,
    pair_distance,
    shift,
)
from opdlab.diagnosis.sigmoid import ranges, search, sigmoid
from opdlab.errors import DataError

# arXiv:2605.30833, Table 5: before and after training by OPD; t in thousands of tokens.
TABLE_5 = {
    "before": {"A": 0.3412, "eps": 0.2145, "t_star": 7.43, "b": 0.4133},
    "after": {"A": 0.5452, "eps": 0.2608, "t_star": 7.04, "b": 0.2294},
}
STEEP = {"A": 0.4, "eps": 1.0, "t_star": 6.0, "b": 0.4}
T = np.arange(0.25, 16, 0.5)


def simulate(
    curve: Any, problems: int = 60, seed: int = 0, between: float = 0.05, within: float = 0.05
) -> Curves:
    """Problems that differ in level, with noise of their own; long responses are rarer than short ones."""
    draw = np.random.default_rng(seed)
    F = curve(T) if callable(curve) else sigmoid(T, *curve.values())
    values = F + between * draw.standard_normal((problems, 1))
    values = values + within * draw.standard_normal((problems, len(T)))
    lengths = draw.uniform(4, 20, problems)
    count = 500.0 * (T[None] < lengths[:, None])
    return Curves(T, values * count, count)


@pytest.mark.parametrize("name", TABLE_5)
def test_the_papers_table_comes_back_from_curves_made_with_it(name: str) -> None:
    exact = fit(simulate(TABLE_5[name], between=0, within=0), replicates=20)
    assert exact.identified, str(exact)
    assert exact.values == pytest.approx(TABLE_5[name], rel=1e-3)
    assert exact.r_squared > 0.9999
    noisy = fit(simulate(TABLE_5[name], problems=400, seed=2), replicates=200)
    assert noisy.identified, str(noisy)
    assert noisy.r_squared > 0.98
    for parameter, (low, high) in noisy.intervals.items():
        assert low < TABLE_5[name][parameter] < high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    hits = dict.fromkeys(STEEP, 0)
    runs = 60
    for seed in range(runs):
        found = fit(simulate(STEEP, seed=seed), replicates=150, seed=seed)
        for name, (low, high) in found.intervals.items():
            hits[name] += low < STEEP[name] < high
    for name, hit in hits.items():
        assert hit / runs > 0.85, (name, hit)
    # They are no wider than they need to be either.
    assert sum(hits.values()) < 4 * runs


CEILING = {"A": 0.45, "eps": 1.0, "t_star": 6.0, "b": 0.55}


def test_a_curve_that_begins_at_one_is_fitted_by_probabilities() -> None:
    """Noise above and below 1 must not make a curve that comes from above it; t_star stays known."""
    hits, runs = 0, 20
    for seed in range(runs):
        found = fit(simulate(CEILING, between=0.02, seed=seed), replicates=100, seed=seed)
        assert found.identified, str(found)
        assert found.values["b"] + found.values["A"] <= 1 + 1e-9
        low, high = found.intervals["t_star"]
        hits += low < CEILING["t_star"] < high
    assert hits / runs > 0.75


def test_least_squares_within_limits_are_those_of_a_slow_search() -> None:
    t = np.linspace(0.5, 10, 20)
    mean = np.clip(1.08 - 0.06 * t + 0.02 * np.sin(3 * t), 0, 1)
    ours = search(t, mean[None], np.ones((1, 20)))[0]
    theirs = optimize.minimize(
        lambda p: ((sigmoid(t, p[0] * (1 - p[3]), p[1], p[2], p[3]) - mean) ** 2).sum(),
        [0.9, 0.5, 5.0, 0.3],
        bounds=[(0, 1), (0.06, 5), (-4, 14), (0, 1)],
    ).x
    assert ours[0] + ours[3] == pytest.approx(1.0)  # the limit is felt
    assert ours[1:] == pytest.approx(theirs[1:], rel=2e-2)


@pytest.mark.parametrize(
    ("curve", "why"),
    [
        (lambda t: 0.9 + 0 * t, "flat"),
        (lambda t: 0.5 + 0.02 * t, "flat"),  # it rises
        ({"A": 0.4, "eps": 1.0, "t_star": 30.0, "b": 0.4}, "flat"),  # the fall comes later
        (lambda t: 0.9 - 0.02 * t, "where the limits"),
        (lambda t: np.where(t < 8, 0.9, 0.5), "a step fits as well"),
        (lambda t: 0.5 + 0.5 * np.exp(-t / 3), "where the limits"),
        (lambda t: 0.6 + 0.15 * np.cos(1.3 * t) - 0.005 * t, "of the variance"),
    ],
)
def test_what_the_data_do_not_determine_is_not_identified(curve: Any, why: str) -> None:
    found = fit(simulate(curve, problems=200), replicates=150)
    assert not found.identified
    assert why in str(found)
    assert str(found).startswith("not identified (n = 200 problems")


def test_a_slow_fall_seen_on_few_problems_has_no_known_boundary() -> None:
    found = fit(simulate(TABLE_5["before"], problems=30), replicates=150)
    assert "spans more than half of what was seen" in str(found), str(found)


def test_too_few_bins_or_problems_are_said_to_be() -> None:
    curves = simulate(STEEP)
    few = Curves(T[:5], curves.total[:, :5], curves.count[:, :5])
    assert "5 bins of 60 problems hold data" in str(fit(few))
    alone = Curves(T, curves.total[:1], np.maximum(curves.count[:1], 1))
    assert not fit(alone).identified
    empty = Curves(T, curves.total * 0, curves.count * 0)
    with pytest.raises(DataError, match="no tokens"):
        fit(empty)


def test_bins_and_problems_without_tokens_change_nothing() -> None:
    curves = simulate(STEEP)
    wider = Curves(
        np.append(T, [16.25, 16.75]),
        np.pad(curves.total, ((0, 3), (0, 2))),
        np.pad(curves.count, ((0, 3), (0, 2))),
    )
    assert fit(wider, 50).values == pytest.approx(fit(curves, 50).values)
    assert fit(wider, 50).problems == 60


def test_the_same_seed_gives_the_same_intervals() -> None:
    curves = simulate(STEEP)
    assert fit(curves, 50, seed=1).intervals == fit(curves, 50, seed=1).intervals
    assert fit(curves, 50, seed=1).intervals != fit(curves, 50, seed=2).intervals


def test_a_boundary_that_moved_is_found_and_one_that_did_not_is_not() -> None:
    before = simulate(STEEP, seed=1)
    outwards = shift(before, simulate({**STEEP, "t_star": 8.0}, seed=2), 200)
    assert outwards.interval[0] < 2.0 < outwards.interval[1]
    assert str(outwards).endswith("outwards")
    inwards = shift(before, simulate({**STEEP, "t_star": 4.0}, seed=3), 200)
    assert str(inwards).endswith("inwards")
    still = shift(before, simulate(STEEP, seed=4), 200)
    assert str(still).endswith("no shift is shown")


def test_a_shift_is_shown_by_its_p_over_all_that_is_claimed_and_its_interval_both() -> None:
    sure = fit(simulate(STEEP), 50)
    shown = Shift(1.0, (0.5, 1.5), sure, sure, p=0.01)
    assert str(shown).endswith("outwards")
    for doubt in (replace(shown, claims=9), replace(shown, interval=(-0.5, 1.5))):
        assert str(doubt).endswith("no shift is shown")


def test_a_shift_between_curves_of_which_one_is_flat_is_not_identified() -> None:
    found = shift(simulate(STEEP), simulate(lambda t: 0.8 + 0 * t, seed=1), 50)
    assert "the fit after is not" in str(found)
    assert np.isnan(found.value)
    with pytest.raises(DataError, match="60 and 59 problems"):
        shift(simulate(STEEP), simulate(STEEP, problems=59), 50)


def test_the_effective_horizon_is_the_last_place_above_the_limit() -> None:
    curves = Curves(np.array([1.0, 2.0, 3.0]), np.array([[9.0, 6.0, 7.0]]), np.full((1, 3), 10.0))
    assert effective_horizon(curves, 0.65) == 3.0
    assert effective_horizon(curves, 0.8) == 1.0
    assert np.isnan(effective_horizon(curves, 0.95))


def test_the_pair_distance_is_pearsons_r_and_the_slope() -> None:
    student = np.array([-1.0, -2.0, -3.0, -4.0])
    near = pair_distance(student, 0.5 * student - 1)
    assert (near.r, near.slope, near.tokens) == (pytest.approx(1.0), pytest.approx(0.5), 4)
    by_hand = pair_distance(student, np.array([-1.0, -3.0, -2.0, -4.0]))
    assert by_hand.r == pytest.approx(0.8)
    assert by_hand.slope == pytest.approx(0.8)
    with pytest.raises(DataError, match="differing log-probabilities"):
        pair_distance(student, np.zeros(4))


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_numbers_that_differ_by_rounding_have_no_correlation(noise: float) -> None:
    """The deviation of 3,000 times 0.1 in float32 is 2e-8, and not 0."""
    draw = np.random.default_rng(0)
    flat = (0.1 + noise * draw.random(3000)).astype(np.float32)
    with pytest.raises(DataError, match="differing log-probabilities"):
        pair_distance(flat, draw.random(3000))


def doubts(eps: float, drawn: Any) -> list[str]:
    """Why a steep curve, of which all else is known well, is not determined."""
    values = {**STEEP, "eps": eps}
    spread = np.tile(list(STEEP.values()), (len(drawn), 1))
    known = {"t_star": (5.9, 6.1)}
    return _doubts(simulate(STEEP), values, known, spread, drawn, 1.0, STEEP["t_star"])


def test_the_noise_of_a_fall_is_that_of_the_difference_between_its_ends() -> None:
    """What moves both ends together, and what happens between them, makes no fall less certain."""
    draw = np.random.default_rng(0)
    drawn = draw.standard_normal((200, len(T)))
    drawn[:, -1] = drawn[:, 0]
    assert doubts(1.0, drawn) == []
    drawn[:, -1] += 0.2 * draw.standard_normal(200)
    (why,) = doubts(1.0, drawn)
    assert why.startswith("flat: the fitted curve falls by 0.39")
    assert why.endswith("standard error of 0.21")


def test_a_slope_near_the_sharpest_that_is_looked_for_is_a_step() -> None:
    sharpest, still = ranges(T)[1], np.zeros((2, len(T)))
    assert [doubts(share * sharpest, still) for share in (0.97, 0.98)] == [[], []]
    (why,) = doubts(0.99 * sharpest, still)
    assert why.startswith("eps is at its upper bound")
