"""The smallest difference that is found: by hand, and by simulated studies with a known truth."""

import numpy as np
import pytest
from sample_rows import grid, rows
from scipy import stats

from opdlab.console.terminal import SymbolConsole
from opdlab.errors import DataError
from opdlab.evaluation.power import table
from opdlab_evaluators.statistics.needed import count_needed, factor, smallest
from opdlab_evaluators.statistics.power import Spread, assumed, from_samples, smallest_difference


def studies(effect: float, problems: int, samples: int, repeats: int, seed: int) -> np.ndarray:
    """Paired differences of problem scores, `[repeats, problems]`; the true effect varies by problem."""
    generator = np.random.default_rng(seed)
    a = generator.uniform(0.25, 0.65, (repeats, problems))
    b = np.clip(a + effect + generator.normal(0, 0.08, a.shape), 0, 1)
    return generator.binomial(samples, b) / samples - generator.binomial(samples, a) / samples


@pytest.mark.parametrize(("problems", "samples"), [(30, 8), (30, 64), (175, 8)])
def test_a_true_difference_of_that_size_is_found_in_80_of_100_studies(problems, samples):
    a = np.random.default_rng(1).uniform(0.25, 0.65, 100_000)
    spread = Spread(2 * float(np.mean(a * (1 - a))), 0.08**2, "known")
    found = smallest_difference([spread], [problems], samples)
    differences = studies(found.difference, problems, samples, 4000, 2)
    p = stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.03)
    assert differences.mean(1).std() == pytest.approx(found.standard_error, rel=0.05)


def test_by_hand_30_problems_and_8_samples_have_a_standard_error_of_points():
    """Sampling 2 * 0.2475 * 0.4 / 8, effect 0.12 squared, over 30 problems."""
    found = smallest_difference([assumed(0.45)], [30], 8)
    assert found.standard_error == pytest.approx(((0.198 / 8 + 0.0144) / 30) ** 0.5)
    assert 0.03 < found.standard_error < 0.045
    assert found.difference == pytest.approx(found.standard_error * (2.0452 + 0.8535), rel=1e-3)


def test_more_samples_help_down_to_a_floor_that_only_more_problems_lower():
    sizes = [smallest_difference([assumed(0.5)], [30], k) for k in (1, 8, 64, 100_000)]
    assert [s.difference for s in sizes] == sorted((s.difference for s in sizes), reverse=True)
    assert sizes[-1].difference == pytest.approx(sizes[0].floor, rel=1e-2)
    assert smallest_difference([assumed(0.5)], [120], 8).floor < 0.52 * sizes[0].floor


def test_several_benchmarks_find_smaller_differences_in_their_mean():
    one = smallest_difference([assumed(0.5)], [30], 8)
    four = smallest_difference([assumed(0.5)] * 4, [30] * 4, 8)
    assert four.standard_error == pytest.approx(one.standard_error / 2)


def test_the_spread_is_found_again_in_samples_drawn_with_it():
    generator = np.random.default_rng(5)
    truth = generator.uniform(0, 1, 1000)
    shifted = np.clip(truth + generator.normal(0, 0.15, 1000), 0, 1)
    a, b = (generator.random((1000, 8)) < p[:, None] for p in (truth, shifted))
    (alone,) = from_samples(grid(a)).values()
    assert alone.sampling == pytest.approx(2 / 6, rel=0.05)
    (both,) = from_samples(grid(a), grid(b, checkpoint="other")).values()
    assert both.effect == pytest.approx(float((shifted - truth).var()), rel=0.25)
    assert "other against student" in both.origin


@pytest.mark.parametrize("problems", [{"p0": "1", "p1": "0"}, {"p0": "1r", "p1": "e0"}])
def test_one_sample_a_problem_is_refused(problems):
    with pytest.raises(DataError, match="no problem has more than one sample with a verdict"):
        from_samples(rows(problems))


@pytest.mark.parametrize("fault", "xesr")
def test_a_sample_without_a_verdict_is_no_wrong_answer(fault):
    whole, other = (
        {"p0": "1100", "p1": "1110", "p2": "1111"},
        {"p0": "1111", "p1": "01", "p2": "10"},
    )
    faulty = {
        "p0": f"1100{fault}",
        "p1": f"{fault}1110",
        "p2": f"1111{fault}{fault}",
        "p3": f"1{fault}",
    }
    (known,), (found,) = (from_samples(rows(one)).values() for one in (whole, faulty))
    assert (found.sampling, found.effect) == (known.sampling, known.effect)
    assert "5 samples without a verdict left out" in found.origin
    assert "left out" not in known.origin
    (plain,) = from_samples(rows(whole), rows(other, checkpoint="b")).values()
    (both,) = from_samples(rows(faulty), rows(other | {"p3": "11"}, checkpoint="b")).values()
    assert (both.sampling, both.effect) == (plain.sampling, plain.effect)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_few_seeds_are_promised_no_more_than_they_keep(count):
    differences = np.random.default_rng(4).normal(smallest(1.0, count), 1.0, (20_000, count))
    p = stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.012)


def test_of_one_problem_and_of_no_spread_it_is_not_known_what_they_find():
    one = smallest_difference([assumed(0.5)], [1], 8)
    assert one.standard_error is not None
    assert (one.difference, one.floor) == (None, None)
    both = smallest_difference([assumed(0.5)] * 2, [1, 30], 8)
    assert both.difference is None
    same = smallest_difference([Spread(0.0, 0.0, "two equal runs")], [30], 8)
    assert (same.standard_error, same.difference, same.floor) == (None, None, None)
    (alone,) = from_samples(
        grid(np.array([[1, 0]])), grid(np.array([[1, 1]]), checkpoint="other")
    ).values()
    assert alone.effect is None
    assert smallest_difference([alone], [30], 8).difference is None
    assert smallest(0.0, 30) is smallest(float("nan"), 30) is smallest(0.1, 1) is None
    assert count_needed(0.0, 0.1) is count_needed(float("nan"), 0.1) is None


def test_a_small_benchmark_that_varies_most_leaves_few_degrees_of_freedom():
    found = smallest_difference([assumed(0.5)] * 2, [2, 300], 8)
    like_two_alone = smallest_difference([assumed(0.5)], [2], 8)
    assert found.difference == pytest.approx(like_two_alone.difference / 2, rel=0.05)


@pytest.mark.parametrize("size", [1, 2])
def test_the_table_of_power_says_what_is_not_known(size):
    text = SymbolConsole(width=100)
    with text.capture() as capture:
        text.print(table({"mine": assumed(0.5)}, {"mine": size}, 8))
    assert ("unknown" in capture.get()) is (size == 1)
    assert "nan" not in capture.get()


def test_what_luck_alone_explains_leaves_no_known_floor():
    """Two runs that differ by no more than the draw of their samples: the spread of true differences is
    estimated as nothing, which is not known to be nothing."""
    found = smallest_difference([Spread(0.2, 0.0, "")], [30], 8)
    assert found.difference == pytest.approx((0.2 / 8 / 30) ** 0.5 * factor(29))
    assert found.floor is None
    both = smallest_difference([Spread(0.2, 0.0, ""), Spread(0.2, 0.01, "")], [30, 30], 8)
    assert both.floor is None
