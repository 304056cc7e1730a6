"""How many problems or seeds a difference takes to be found."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from opdlab_evaluators.statistics.needed import count_needed, smallest
from opdlab_evaluators.statistics.power import Spread, smallest_difference


@given(st.floats(0.02, 1), st.floats(0.005, 0.5))
def test_the_count_is_enough_and_one_less_is_not(deviation: float, difference: float) -> None:
    count = count_needed(deviation, difference)
    assert count is not None
    assert smallest(deviation, count) <= difference
    assert count == 2 or smallest(deviation, count - 1) > difference


def test_it_agrees_with_the_power_of_a_plan() -> None:
    spread = Spread(sampling=0.2, effect=0.0144, origin="assumed")
    planned = smallest_difference([spread], [30], 8)
    deviation = (0.2 / 8 + 0.0144) ** 0.5
    assert smallest(deviation, 30) == pytest.approx(planned.difference)
    assert count_needed(deviation, planned.difference * 1.0001) == 30


def test_four_times_the_problems_find_about_half_the_difference() -> None:
    many = count_needed(0.3, 0.02)
    few = count_needed(0.3, 0.04)
    assert many is not None
    assert few is not None
    assert many / few == pytest.approx(4, rel=0.01)


def test_no_difference_is_never_found() -> None:
    assert count_needed(0.3, 0.0) is None


def test_the_promised_chance_is_kept() -> None:
    """Simulated: of data sets with just the smallest difference 80 % show it."""
    n, deviation = 30, 0.2
    generator = np.random.default_rng(0)
    draws = generator.normal(smallest(deviation, n), deviation, (4000, n))
    from scipy import stats

    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.02)
