"""Intervals over problems: simulated coverage with a known truth, and agreement with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from opdlab_evaluators.intervals import combine, difference_interval, mean_interval

REPEATS = 6000
K = 8

# Difficulty of problems: how likely one sample is correct. Each comes with its mean.
DIFFICULTIES = {
    "u-shaped": (lambda g, size: g.beta(0.3, 0.3, size), 0.5),
    "uniform": (lambda g, size: g.beta(1, 1, size), 0.5),
    "hard": (lambda g, size: g.beta(0.2, 0.8, size), 0.2),
    "easy": (lambda g, size: g.beta(8, 1, size), 8 / 9),
    "equal": (lambda g, size: np.full(size, 0.3), 0.3),
}


def coverage(interval, truth: float) -> float:
    low, high = interval
    return float(np.mean((low <= truth) & (truth <= high)))


def draw(kind: str, problems: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """Share of K samples that are correct, `[REPEATS, problems]`, and the true mean."""
    make, truth = DIFFICULTIES[kind]
    generator = np.random.default_rng(seed)
    return generator.binomial(K, make(generator, (REPEATS, problems))) / K, truth


def unclustered_interval(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The usual mistake: problems x K independent samples."""
    mean = shares.mean(-1)
    half = 1.96 * np.sqrt(mean * (1 - mean) / (shares.shape[-1] * K))
    return mean - half, mean + half


@pytest.mark.parametrize("problems", [30, 96])
@pytest.mark.parametrize("kind", DIFFICULTIES)
def test_the_mean_interval_holds_the_truth_in_95_of_100_studies(kind, problems):
    shares, truth = draw(kind, problems)
    assert 0.93 <= coverage(mean_interval(shares), truth) <= 0.97


@pytest.mark.parametrize(("share", "plain"), [(0.05, 0.90), (0.1, 0.935)])
def test_the_mean_interval_keeps_its_coverage_where_plain_t_loses_it(share, plain):
    solvable = np.random.default_rng(0).random((REPEATS, 96)) < share
    t = stats.t.isf(0.025, 95) * solvable.std(-1, ddof=1) / 96**0.5
    assert coverage((solvable.mean(-1) - t, solvable.mean(-1) + t), share) < plain
    assert 0.93 <= coverage(mean_interval(solvable.astype(float)), share) <= 0.975


@pytest.mark.parametrize(("kind", "most"), [("u-shaped", 0.65), ("uniform", 0.75), ("hard", 0.7)])
def test_an_interval_over_samples_instead_of_problems_misses_the_truth_too_often(kind, most):
    shares, truth = draw(kind, 30)
    assert coverage(unclustered_interval(shares), truth) < most


def test_a_standard_error_over_repeats_is_a_third_of_the_true_one():
    generator = np.random.default_rng(3)
    difficulty = generator.beta(0.3, 0.3, (4000, 30, 1))
    correct = generator.random((4000, 30, K)) < difficulty
    scores = correct.mean((1, 2))
    true_error = scores.std()
    over_repeats = correct.mean(1).std(-1, ddof=1) / K**0.5
    low, high = mean_interval(correct.mean(-1))
    # Variance of Beta(0.3, 0.3) is 0.25 / 1.6, the mean binomial variance 0.25 - 0.25 / 1.6.
    expected = np.sqrt((0.25 / 1.6 + (0.25 - 0.25 / 1.6) / K) / 30)
    assert true_error == pytest.approx(expected, rel=0.04)
    assert over_repeats.mean() < true_error / 2.5
    assert np.mean(high - low) / 2 > 1.96 * true_error


def paired_draw(kind: str, problems: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, float]:
    """Shares of both sides and the true difference, from a draw of a million problems."""

    def difficulties(size):
        if kind == "gain":
            a = generator.beta(0.4, 0.6, size)
            return a, a + (1 - a) * generator.beta(0.5, 4, size)
        if kind == "mixed":
            a = generator.beta(0.4, 0.6, size)
            return a, np.clip(a + generator.normal(0.02, 0.15, size), 0, 1)
        return generator.beta(0.1, 3, size), generator.beta(0.2, 3, size)

    generator = np.random.default_rng(seed)
    a, b = difficulties((1000, 1000))
    truth = float((b - a).mean())
    a, b = difficulties((REPEATS, problems))
    return generator.binomial(K, a) / K, generator.binomial(K, b) / K, truth


@pytest.mark.parametrize("problems", [30, 96])
@pytest.mark.parametrize("kind", ["gain", "mixed", "weak"])
def test_the_paired_interval_holds_the_truth_in_95_of_100_studies(kind, problems):
    a, b, truth = paired_draw(kind, problems)
    assert 0.93 <= coverage(difference_interval(b - a), truth) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_over_training_seeds_holds_the_truth_in_95_of_100_studies(seeds):
    generator = np.random.default_rng(9)
    problems = 30
    # Training moves all problems of a run together, and each side draws samples of its own.
    moved = generator.normal(0, 0.06, (2, REPEATS, seeds, 1))
    chance = np.clip(np.array([0.4, 0.5]).reshape(2, 1, 1, 1) + moved, 0.01, 0.99)
    correct = generator.binomial(K, np.broadcast_to(chance, (2, REPEATS, seeds, problems)))
    gains = (correct[1] - correct[0]).mean(-1) / K
    assert 0.93 <= coverage(difference_interval(gains), 0.1) <= 0.97


def test_unclustered_and_unpaired_intervals_of_a_difference_both_fail():
    a, b, truth = paired_draw("weak", 30)
    error = np.sqrt(sum(s.mean(-1) * (1 - s.mean(-1)) / (30 * K) for s in (a, b)))
    gain = (b - a).mean(-1)
    assert coverage((gain - 1.96 * error, gain + 1.96 * error), truth) < 0.85
    a, b, truth = paired_draw("gain", 30)
    unpaired = np.sqrt(sum(s.var(-1, ddof=1) / 30 for s in (a, b)))
    low, high = difference_interval(b - a)
    # Never wrong because it never says anything: more than twice as wide as it need be.
    assert np.mean(2 * 1.96 * unpaired) > 2 * np.mean(high - low)


def test_a_paired_standard_error_of_30_problems_is_points_not_tenths():
    a, b, _ = paired_draw("mixed", 30)
    low, high = difference_interval(b - a)
    error = np.mean(high - low) / 2 / stats.t.isf(0.025, 29)
    assert 0.03 < error < 0.045


@pytest.mark.parametrize("sizes", [(30, 30, 30), (30, 175, 33)])
def test_the_average_over_benchmarks_holds_the_truth_in_95_of_100_studies(sizes):
    drawn = [
        draw(kind, n, seed=n) for kind, n in zip(("u-shaped", "hard", "easy"), sizes, strict=True)
    ]
    intervals = [mean_interval(shares) for shares, _ in drawn]
    _, low, high = combine(
        np.stack([shares.mean(-1) for shares, _ in drawn], -1),
        np.stack([low for low, _ in intervals], -1),
        np.stack([high for _, high in intervals], -1),
    )
    assert 0.93 <= coverage((low, high), np.mean([truth for _, truth in drawn])) <= 0.97


@pytest.mark.parametrize("problems", [1, 5, 30])
@pytest.mark.parametrize("solved", [False, True])
def test_when_all_problems_agree_the_interval_is_the_exact_binomial_one(problems, solved):
    low, high = mean_interval(np.full(problems, float(solved)))
    exact = stats.binomtest(problems * solved, problems).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))


def test_equal_means_strictly_inside_still_leave_an_interval_on_both_sides():
    low, high = mean_interval(np.full(30, 0.5))
    assert low < 0.45
    assert high > 0.55
    low, high = difference_interval(np.zeros(30))
    assert (low, high) == pytest.approx((-0.1157, 0.1157), abs=1e-4)


def test_the_mean_interval_stays_inside_the_scale_and_holds_the_mean():
    shares = np.random.default_rng(5).integers(0, K + 1, (2000, 3)) / K
    low, high = mean_interval(shares)
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= shares.mean(-1)).all()
    assert (shares.mean(-1) <= high).all()


def test_the_paired_interval_is_students_t():
    differences = np.random.default_rng(6).normal(0.05, 0.2, 30)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert difference_interval(differences) == pytest.approx((expected.low, expected.high))


def test_both_intervals_agree_with_a_bootstrap_over_many_problems():
    generator = np.random.default_rng(7)
    for values, interval in (
        (generator.integers(0, K + 1, 400) / K, mean_interval),
        (generator.integers(-K, K + 1, 400) / K, difference_interval),
    ):
        boot = stats.bootstrap((values,), np.mean, rng=generator, n_resamples=4000)
        expected = boot.confidence_interval
        width = expected.high - expected.low
        assert interval(values) == pytest.approx((expected.low, expected.high), abs=0.06 * width)
