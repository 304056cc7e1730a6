"""Sign-flip permutation test and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from opdlab_evaluators.statistics.resampling import (
    FLIPS,
    bootstrap_interval,
    holm,
    shares,
    sign_flip_p,
)


def scipy_p(differences: np.ndarray) -> float:
    result = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    return float(result.pvalue)


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_p_value_is_scipys(seed):
    differences = np.random.default_rng(seed).integers(-4, 6, 9) / 8
    assert sign_flip_p(differences) == pytest.approx(scipy_p(differences))


def test_problems_without_a_difference_change_nothing():
    differences = np.array([0.25, 0.5, -0.125, 0.375])
    padded = np.concatenate([differences, np.zeros(100)])
    assert sign_flip_p(padded) == sign_flip_p(differences)
    assert sign_flip_p(np.zeros(30)) == 1.0


@pytest.mark.parametrize("n", [3, 16])
def test_differences_of_one_sign_give_the_sign_test(n):
    expected = stats.binomtest(n, n, 0.5).pvalue
    assert sign_flip_p(np.full(n, 0.1)) == pytest.approx(expected)


def test_many_problems_are_judged_by_random_flips_close_to_the_exact_answer():
    steps = np.random.default_rng(1).integers(-3, 5, 40)
    # The exact distribution of the sum, one convolution a problem.
    exact = np.array([1.0])
    for step in np.abs(steps):
        exact = (np.pad(exact, (2 * step, 0)) + np.pad(exact, (0, 2 * step))) / 2
    total = np.abs(steps).sum()
    sums = np.arange(-total, total + 1)
    expected = exact[np.abs(sums) >= abs(steps.sum())].sum()
    assert 0.01 < expected < 0.5
    assert sign_flip_p(steps / 8) == pytest.approx(expected, abs=0.006)
    assert sign_flip_p(steps / 8) == sign_flip_p(steps / 8)


def test_random_flips_never_report_a_p_value_of_zero():
    assert sign_flip_p(np.full(60, 0.5)) == pytest.approx(1 / (FLIPS + 1))


def test_without_a_difference_five_in_a_hundred_tests_reject():
    noise = np.random.default_rng(2).normal(size=(1500, 10))
    rejected = np.mean([sign_flip_p(differences) <= 0.05 for differences in noise])
    assert 0.035 <= rejected <= 0.065


def test_holm_multiplies_the_smallest_most_and_never_reorders():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_six_benchmarks_without_a_difference_mislead_in_five_of_a_hundred_studies():
    drawn = np.random.default_rng(8).random((4000, 6))
    plain = np.mean((drawn < 0.05).any(-1))
    held = np.mean([min(p or 0.0 for p in holm(list(row))) < 0.05 for row in drawn])
    assert plain > 0.2
    assert 0.035 <= held <= 0.06


def test_weighted_holm_is_the_closure_of_weighted_bonferroni():
    """A claim stands where every set of tests with it says so (Marcus, Peritz and Gabriel 1976)."""
    draw = np.random.default_rng(4)
    for _ in range(20):
        p, weights = draw.random(5) ** 3, draw.random(5) + 0.05
        sets = [[i for i in range(5) if number >> i & 1] for number in range(1, 32)]
        slow = [
            max(
                min(1.0, min(p[j] * weights[some].sum() / weights[j] for j in some))
                for some in sets
                if i in some
            )
            for i in range(5)
        ]
        assert holm(p.tolist(), weights.tolist()) == pytest.approx(slow)


def test_the_main_claims_have_half_of_the_weight():
    assert shares([False, False, True]) == [0.25, 0.25, 0.5]
    assert shares([True, True]) == [0.5, 0.5]
    assert shares([False]) == [1.0]
    assert shares([]) == []


def test_holm_counts_a_test_that_could_not_be_made():
    assert holm([0.01, None]) == [0.02, None]


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_is_scipys_but_for_chance(seed):
    values = np.random.default_rng(seed).integers(-4, 6, 40) / 8
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    step = values.std() / len(values) ** 0.5 / 10
    assert bootstrap_interval([values]) == pytest.approx(tuple(expected), abs=step)


def test_the_bootstrap_holds_the_truth_in_93_to_97_of_100_studies_of_60_problems():
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        low, high = bootstrap_interval([generator.binomial(8, generator.beta(1, 1, 60)) / 8])
        held += low <= 0.5 <= high
    assert 0.93 <= held / 600 <= 0.97


def test_the_bootstrap_over_benchmarks_weighs_them_equally():
    many, few = np.random.default_rng(3).integers(0, 9, 400) / 8, np.array([0.0, 1.0] * 5)
    low, high = bootstrap_interval([many, few])
    error = (many.var() / 400 + few.var() / 10) ** 0.5 / 2
    assert (low + high) / 2 == pytest.approx((many.mean() + 0.5) / 2, abs=error / 5)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
