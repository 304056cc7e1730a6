"""Places among many systems: valid for all pairs together, and consistent with one another."""

import numpy as np
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from opdlab_evaluators.statistics.ranking import LEVEL, _closed, rank
from opdlab_evaluators.statistics.resampling import sign_flip_p


def places(*rows: list[float]) -> list[str]:
    return [str(one) for one in rank([np.array(rows, dtype=float)])]


def test_a_clear_order_gives_single_places() -> None:
    assert places([0.1] * 20, [0.9] * 20, [0.5] * 20) == ["3", "1", "2"]


def test_equal_systems_share_every_place() -> None:
    assert places([0.5] * 20, [0.5] * 20, [0.5] * 20) == ["1–3", "1–3", "1–3"]


def test_one_system_is_first() -> None:
    assert places([0.2, 0.7]) == ["1"]


def test_few_problems_show_nothing() -> None:
    assert places([1.0] * 5, [0.0] * 5) == ["1–2", "1–2"], "2 of 32 signs are as extreme: p = 0.06"
    assert places([1.0] * 6, [0.0] * 6) == ["1", "2"], "2 of 64: p = 0.03"


def test_two_systems_are_told_apart_where_the_paired_test_says_so() -> None:
    """Parity with the test of `compare`, which draws other signs."""
    generator = np.random.default_rng(1)
    told = []
    for gain in np.linspace(0, 0.3, 60):
        a, b = generator.random((2, 30))
        p = sign_flip_p((b + gain - a) / 30)
        if abs(p - LEVEL) > 0.01:
            shown = bool(rank([np.stack([a, b + gain])])[1].worse)
            told.append(shown)
            assert (
                shown == (p < LEVEL and (b + gain).mean() > a.mean()) or a.mean() > b.mean() + gain
            )
    assert any(told)
    assert not all(told)


def test_chance_seldom_tells_any_of_six_equal_systems_apart() -> None:
    """Plain tests of the 15 pairs would do so in a third of the draws."""
    generator = np.random.default_rng(2)
    accidents = 0
    for _ in range(200):
        difficulty = generator.beta(0.5, 0.5, 30)
        scores = generator.binomial(8, np.tile(difficulty, (6, 1))) / 8
        accidents += any(one.better for one in rank([scores]))
    assert accidents / 200 < 0.09, "5 % and three standard errors"


def test_benchmarks_weigh_the_same_whatever_their_size() -> None:
    small, large = np.array([[0.9] * 10, [0.1] * 10]), np.array([[0.4] * 500, [0.6] * 500])
    first, second = rank([small, large])
    assert first.first == 1
    assert (first.worse, second.better) == ({1}, {0})


@given(
    arrays(
        float, st.tuples(st.integers(2, 7), st.integers(4, 12)), elements=st.floats(0, 1, width=16)
    ),
    st.floats(0.2, 3),
)
def test_rows_that_are_not_told_apart_share_a_place(scores: np.ndarray, spread: float) -> None:
    shifted = scores * spread + np.arange(len(scores))[:, None] / len(scores)
    found = rank([shifted])
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            if i != j and j not in a.better | a.worse:
                assert a.first <= b.last
                assert b.first <= a.last
            if j in a.worse:
                assert i in b.better
                assert b.worse <= a.worse, "what is worse than the worse is worse"


def test_what_follows_from_two_findings_is_found() -> None:
    shown = np.zeros((4, 4), bool)
    shown[0, 1] = shown[1, 2] = shown[2, 3] = True
    assert _closed(shown).tolist() == np.triu(np.ones((4, 4), bool), 1).tolist()
