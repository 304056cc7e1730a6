"""Intervals over problems: simulated coverage with a known truth, and agreement with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from opdlab_evaluators.statistics.coverage import grid, student_t
from opdlab_evaluators.statistics.intervals import (
    combine,
    difference_interval,
    mean_interval,
    seed_interval,
)

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
def test_the_mean_interval_holds_the_truth_in_93_to_99_of_100_studies(kind, problems):
    shares, truth = draw(kind, problems)
    assert 0.93 <= coverage(mean_interval(shares), truth) <= 0.99


@pytest.mark.parametrize(("share", "plain"), [(0.05, 0.90), (0.1, 0.935)])
def test_the_mean_interval_keeps_its_coverage_where_plain_t_loses_it(share, plain):
    solvable = np.random.default_rng(0).random((REPEATS, 96)) < share
    t = stats.t.isf(0.025, 95) * solvable.std(-1, ddof=1) / 96**0.5
    assert coverage((solvable.mean(-1) - t, solvable.mean(-1) + t), share) < plain
    assert 0.93 <= coverage(mean_interval(solvable.astype(float)), share) <= 0.985


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
def test_the_paired_interval_holds_the_truth_in_93_of_100_studies_or_more(kind, problems):
    a, b, truth = paired_draw(kind, problems)
    assert coverage(difference_interval(b - a), truth) >= 0.93


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_over_training_seeds_holds_the_truth_in_95_of_100_studies(seeds):
    generator = np.random.default_rng(9)
    problems = 30
    # Training moves all problems of a run together, and each side draws samples of its own.
    moved = generator.normal(0, 0.06, (2, REPEATS, seeds, 1))
    chance = np.clip(np.array([0.4, 0.5]).reshape(2, 1, 1, 1) + moved, 0.01, 0.99)
    correct = generator.binomial(K, np.broadcast_to(chance, (2, REPEATS, seeds, problems)))
    gains = (correct[1] - correct[0]).mean(-1) / K
    assert 0.93 <= coverage(seed_interval(gains), 0.1) <= 0.97


def test_unclustered_and_unpaired_intervals_of_a_difference_both_fail():
    a, b, truth = paired_draw("weak", 30)
    error = np.sqrt(sum(s.mean(-1) * (1 - s.mean(-1)) / (30 * K) for s in (a, b)))
    gain = (b - a).mean(-1)
    assert coverage((gain - 1.96 * error, gain + 1.96 * error), truth) < 0.85
    a, b, truth = paired_draw("gain", 30)
    unpaired = np.sqrt(sum(s.var(-1, ddof=1) / 30 for s in (a, b)))
    low, high = difference_interval(b - a)
    # Never wrong because it never says anything: far wider than it need be.
    assert np.mean(2 * 1.96 * unpaired) > 1.5 * np.mean(high - low)


def test_a_paired_standard_error_of_30_problems_is_points_not_tenths():
    a, b, _ = paired_draw("mixed", 30)
    low, high = student_t(b - a)
    error = np.mean(high - low) / 2 / stats.t.isf(0.025, 29)
    assert 0.03 < error < 0.045


@pytest.mark.parametrize("sizes", [(30, 30, 30), (30, 175, 33)])
def test_the_average_over_benchmarks_holds_the_truth_in_93_to_98_of_100_studies(sizes):
    drawn = [
        draw(kind, n, seed=n) for kind, n in zip(("u-shaped", "hard", "easy"), sizes, strict=True)
    ]
    intervals = [mean_interval(shares) for shares, _ in drawn]
    _, low, high = combine(
        np.stack([shares.mean(-1) for shares, _ in drawn], -1),
        np.stack([low for low, _ in intervals], -1),
        np.stack([high for _, high in intervals], -1),
    )
    assert 0.93 <= coverage((low, high), np.mean([truth for _, truth in drawn])) <= 0.98


@pytest.fixture(scope="module")
def small_grid():
    return list(grid(2000, problems=(8, 30), samples=(1, 8)))


def test_the_intervals_hold_the_truth_over_the_grid_and_plain_t_does_not(small_grid):
    """Standard error of a coverage of 93 %: 0.6 points."""
    ours = [one for one in small_grid if one.interval == "opdlab"]
    assert {one.kind for one in ours} == {
        *("mean@k", "pass@k/2", "difference", "mean over benchmarks", "over seeds"),
        *("any share right", "any share won"),
    }
    assert min(ours, key=lambda one: one.held).held >= 0.925
    assert sum(one.held < 0.93 for one in small_grid if one.interval == "Student's t") > 20


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 64, 150])
def test_whatever_share_of_problems_is_right_the_interval_holds_it_93_times_of_100(n):
    shares = np.linspace(0.0005, 0.9995, 1999)
    values = (np.arange(n) < np.arange(n + 1)[:, None]).astype(float)
    chance = stats.binom.pmf(np.arange(n + 1)[:, None], n, shares)
    for interval in (mean_interval, difference_interval):
        low, high = (end[:, None] for end in interval(values))
        assert (chance * ((low <= shares) & (shares <= high))).sum(0).min() >= 0.93


@pytest.mark.parametrize("n", [15, 30, 96, 500])
def test_where_nothing_differs_no_interval_that_holds_93_of_100_is_much_shorter(n):
    """If a share of 1 - 0.07^(1/n) were won completely, 7 % of studies would see no such problem."""
    least = 1 - 0.07 ** (1 / n)
    low, high = difference_interval(np.zeros(n))
    assert least < high == -low < 1.16 * least
    assert least < 1 - mean_interval(np.ones(n))[0] < 1.4 * least


def test_the_interval_is_students_t_with_a_problem_at_either_end():
    values = np.random.default_rng(6).random(30)
    for interval, ends in ((mean_interval, [0, 1]), (difference_interval, [-1, 1])):
        expected = student_t(np.concatenate([values, ends]))
        assert interval(values) == pytest.approx(expected)


@pytest.mark.parametrize("problems", [1, 5, 64, 512, 100_000])
@pytest.mark.parametrize("k", [1, 8])
def test_one_more_sample_wrong_never_looks_better_than_all_right(problems, k):
    ends = []
    for wrong in range(4):
        values = np.ones(problems)
        values[0] -= min(wrong, k) / k
        ends.append(mean_interval(values))
    lows, highs = np.array(ends).T
    assert (np.diff(lows) <= 0).all()
    assert (np.diff(highs) <= 0).all()
    assert lows[0] < 1 - 1 / problems / 2
    assert (mean_interval(1 - values)[1], mean_interval(1 - values)[0]) == pytest.approx(
        (1 - lows[-1], 1 - highs[-1])
    )


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.3 - 0.2, 0.1, 0.4 - 0.3]])
def test_rounding_is_no_spread(values):
    low, high = difference_interval(np.array(values))
    assert (low, high) == pytest.approx(difference_interval(np.full(3, 0.1)))
    assert high - low > 1
    assert seed_interval(np.array(values)) == pytest.approx(seed_interval(np.full(3, 0.1)))


def test_where_all_seeds_agree_the_interval_is_the_exact_bound():
    assert seed_interval(np.array([0.25, 0.24999999999999997])) == pytest.approx(
        (-0.8024, 0.8814), abs=1e-4
    )
    low, high = seed_interval(np.zeros(30))
    assert (low, high) == pytest.approx((-0.1157, 0.1157), abs=1e-4)
    assert seed_interval(np.array([0.3])) == pytest.approx((-0.9675, 0.9825))


def test_weights_count_problems_by_what_they_say():
    values = np.array([0.9, 0.2, 0.6, 0.4])
    twice = mean_interval(np.array([0.9, 0.9, 0.2, 0.6, 0.4]))
    for interval in (mean_interval, difference_interval):
        assert interval(values, np.full(4, 7.0)) == pytest.approx(interval(values))
        # A problem without weight is not there.
        padded = np.append(values, 0.0), np.array([1.0, 1, 1, 1, 0])
        assert interval(*padded) == pytest.approx(interval(values))
    low, high = mean_interval(values, np.array([2.0, 1, 1, 1]))
    assert low < twice[0] < twice[1] < high or high - low > twice[1] - twice[0]


def test_the_mean_interval_stays_inside_the_scale_and_holds_the_mean():
    shares = np.random.default_rng(5).integers(0, K + 1, (2000, 3)) / K
    low, high = mean_interval(shares)
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (low <= shares.mean(-1)).all()
    assert (shares.mean(-1) <= high).all()


def test_the_interval_over_seeds_is_students_t():
    differences = np.random.default_rng(6).normal(0.05, 0.2, 30)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert seed_interval(differences) == pytest.approx((expected.low, expected.high))


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
