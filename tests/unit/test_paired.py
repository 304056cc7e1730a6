"""Paired comparison by problem, and over training seeds."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sample_rows import grid, rows
from scipy import stats

from opdlab.errors import DataError
from opdlab_evaluators.statistics.intervals import difference_interval
from opdlab_evaluators.statistics.paired import POOLED, compare
from opdlab_evaluators.statistics.resampling import holm, sign_flip_p
from opdlab_evaluators.statistics.scores import joint_protocol, summarise
from opdlab_evaluators.statistics.seeds import paired_over_seeds

A = {"p0": "1100", "p1": "0000", "p2": "1110", "p3": "0100"}
B = {"p0": "1110", "p1": "1000", "p2": "1111", "p3": "0100"}


def test_differences_by_hand_are_b_minus_a():
    (result,) = compare(rows(A, checkpoint="opd"), rows(B, checkpoint="lgr"))
    assert (result.a, result.b, result.benchmark) == ("opd", "lgr", "math")
    assert (result.problems, result.k) == (4, 4)
    assert (result.mean.a, result.mean.b) == (6 / 16, 9 / 16)
    assert result.mean.value == pytest.approx(3 / 16)
    assert result.pass_at.value == pytest.approx(1 / 4)
    # Differences 1/4, 1/4, 1/4, 0: all three of one sign in 2 of 8 patterns.
    assert result.mean.p == pytest.approx(2 / 8)
    interval = difference_interval(np.array([0.25, 0.25, 0.25, 0]))
    assert (result.mean.low, result.mean.high) == pytest.approx(interval)
    assert result.mean.p_holm == result.mean.p


def test_pairing_is_by_problem_whatever_the_order_of_samples():
    shuffled = rows(dict(reversed(B.items())))
    assert compare(rows(A), shuffled) == compare(rows(A), rows(B))


def test_swapping_the_sides_turns_the_sign():
    (forward,), (back,) = compare(rows(A), rows(B)), compare(rows(B), rows(A))
    assert back.mean.value == -forward.mean.value
    assert (back.mean.low, back.mean.high) == (-forward.mean.high, -forward.mean.low)
    assert back.mean.p == forward.mean.p


def test_a_checkpoint_against_itself_shows_no_difference_and_no_certainty():
    (result,) = compare(rows(A), rows(A))
    assert (result.mean.value, result.mean.p) == (0, 1)
    assert result.mean.low < 0 < result.mean.high


def test_the_paired_interval_is_narrower_than_two_separate_ones_allow():
    generator = np.random.default_rng(0)
    difficulty = generator.beta(0.3, 0.3, (30, 1))
    a, b = (grid(generator.random((30, 8)) < difficulty) for _ in range(2))
    (paired,) = compare(a, b)
    alone = summarise(a)[0].mean
    assert paired.mean.high - paired.mean.low < 0.7 * (alone.high - alone.low)


def test_over_all_benchmarks_each_weighs_the_same():
    a = [*rows({"p0": "00", "p1": "00", "p2": "10"}), *rows({"p0": "00"}, benchmark="code")]
    b = [*rows({"p0": "10", "p1": "10", "p2": "10"}), *rows({"p0": "11"}, benchmark="code")]
    code, math, pooled = compare(a, b)
    assert [code.benchmark, math.benchmark, pooled.benchmark] == ["code", "math", POOLED]
    assert pooled.mean.value == pytest.approx((1 + 1 / 3) / 2)
    assert pooled.problems == 4
    contributions = np.array([1 / 2, 0.5 / 3 / 2, 0.5 / 3 / 2, 0])
    assert pooled.mean.p == pytest.approx(sign_flip_p(contributions)) == 2 / 8
    assert pooled.protocol == joint_protocol(summarise(a))


def test_the_test_over_all_benchmarks_weighs_them_as_the_difference_does():
    a = [*rows({"p0": "0", "p1": "0"}), *rows(dict.fromkeys("abcd", "1"), benchmark="code")]
    b = [
        *rows({"p0": "1", "p1": "1"}),
        *rows({**dict.fromkeys("ab", "0"), "c": "1", "d": "1"}, benchmark="code"),
    ]
    *_, pooled = compare(a, b)
    # Contributions 1/2, 1/2, -1/4, -1/4: their sum 1/2 is reached or passed by 12 of 16 patterns.
    assert pooled.mean.value == 0.25
    assert pooled.mean.p == 12 / 16


def test_p_values_are_corrected_over_benchmarks_and_the_pooled_one_with_half_of_the_weight():
    a = [*rows({f"p{i}": "0" for i in range(8)}), *rows({"p0": "0"}, benchmark="code")]
    b = [*rows({f"p{i}": "1" for i in range(8)}), *rows({"p0": "1"}, benchmark="code")]
    code, math, pooled = compare(a, b)
    assert (pooled.mean.p, pooled.mean.p_holm) == (2 / 512, 4 / 512)
    assert (math.mean.p, math.mean.p_holm) == (2 / 256, 4 / 256)
    assert (code.mean.p, code.mean.p_holm) == (1, 1)


def test_unequal_sample_counts_compare_at_the_smaller_k():
    (result,) = compare(rows({"p0": "1100", "p1": "0001"}), rows({"p0": "11", "p1": "1100"}))
    assert result.k == 2
    assert result.pass_at.value == pytest.approx((1 + 5 / 6) / 2 - (5 / 6 + 1 / 2) / 2)
    assert result.mean.value == pytest.approx((1 + 1 / 2) / 2 - (1 / 2 + 1 / 4) / 2)


def test_a_fault_on_either_side_blocks_the_difference_and_shows_bounds():
    (result,) = compare(rows({"p0": "1x", "p1": "11"}), rows({"p0": "11", "p1": "0e"}))
    mean = result.mean
    assert (mean.a, mean.b, mean.value, mean.low, mean.p, mean.p_holm) == (None,) * 6
    assert (mean.worst, mean.best) == (0.5 - 1.0, 0.75 - 0.75)


def test_other_protocols_are_refused_by_name():
    with pytest.raises(DataError, match=r"protocol-1 \(grader grader-1\) and protocol-2"):
        compare(rows(A), rows(B, protocol="protocol-2"))


def test_other_problems_are_refused_by_name():
    with pytest.raises(DataError, match=r"1 only on side a \(p3\); 1 only on side b \(p9\)"):
        compare(rows(A), rows({**{p: B[p] for p in ("p0", "p1", "p2")}, "p9": "1111"}))


def test_other_benchmarks_are_refused_by_name():
    with pytest.raises(DataError, match=r"1 only on side b \(code\)"):
        compare(rows(A), [*rows(B), *rows(B, benchmark="code")])


def test_several_checkpoints_on_a_side_are_refused_by_name():
    with pytest.raises(DataError, match="side b holds lgr, opd"):
        compare(rows(A), [*rows(B, checkpoint="opd"), *rows(B, checkpoint="lgr")])


def test_results_are_plain_json():
    faulty = compare(rows(A), rows({**B, "p0": "111x"}))
    over = paired_over_seeds([rows(A), rows(A)], [rows(B), rows(A)])
    for record in [*compare(rows(A), rows(B)), *faulty, *over]:
        json.dumps(asdict(record), allow_nan=False)


def two_problem_run(a: str, b: str):
    return rows({"p0": a, "p1": b})


def test_seed_differences_by_hand():
    runs_a = [two_problem_run("1000", "0000"), two_problem_run("1100", "0000")]
    runs_b = [two_problem_run("1110", "0000"), two_problem_run("1111", "1111")]
    (result,) = paired_over_seeds(runs_a, runs_b)
    assert result.differences == (2 / 8, 6 / 8)
    assert result.value == pytest.approx(0.5)
    assert result.deviation == pytest.approx(np.std([0.25, 0.75], ddof=1))
    assert result.p == pytest.approx(stats.ttest_1samp([0.25, 0.75], 0).pvalue)
    assert (result.low, result.high) == (-1, 1)
    # Steps per index: (0 1 1 0), (0 0 0 0); (0 0 1 1), (1 1 1 1). Variance 1/3 each, over k = 4 and
    # two problems squared.
    assert result.sampling_deviation == pytest.approx(np.sqrt((1 / 3) / 4 / 4))


def test_sampling_noise_is_kept_apart_from_that_of_training_seeds():
    generator = np.random.default_rng(4)
    # Training moves all problems of a run together; samples are drawn afresh.
    runs = [
        (grid(generator.random((20, 4)) < 0.4), grid(generator.random((20, 4)) < 0.5 + shift))
        for shift in generator.normal(0, 0.1, 150)
    ]
    (result,) = paired_over_seeds(*zip(*runs, strict=True))
    assert result.sampling_deviation**2 == pytest.approx((0.24 + 0.25 - 0.01) / 80, rel=0.05)
    assert result.training_deviation**2 == pytest.approx(0.1**2, rel=0.35)


def test_luck_that_both_sides_share_is_not_counted():
    drawn = np.random.default_rng(5).random((2, 40, 8))
    runs = [grid(luck < 0.5) for luck in drawn]
    (result,) = paired_over_seeds(runs, runs)
    assert result.sampling_deviation == 0


def test_five_equal_seeds_leave_an_interval():
    (result,) = paired_over_seeds([rows(A)] * 5, [rows(B)] * 5)
    assert result.low < result.value < result.high
    assert result.p == 2 / 32


def test_one_sample_a_problem_cannot_tell_the_two_noises_apart():
    runs = [rows({"p0": "1", "p1": "0"}), rows({"p0": "1", "p1": "1"})]
    (result,) = paired_over_seeds(runs, runs[::-1])
    assert (result.sampling_deviation, result.training_deviation) == (None, None)


def test_p_over_seeds_is_corrected_for_the_number_of_benchmarks():
    a = [*rows(A), *rows({"p0": "0000"}, benchmark="code")]
    better = [*rows(B), *rows({"p0": "1111"}, benchmark="code")]
    almost = [*rows(B), *rows({"p0": "0111"}, benchmark="code")]
    code, math, pooled = paired_over_seeds([a, a, a], [better, almost, a])
    small, large = sorted([code, math], key=lambda one: one.p)
    assert 0 < small.p < large.p < 1
    corrected = holm([small.p, large.p, pooled.p], [1 / 4, 1 / 4, 1 / 2])
    assert [small.p_holm, large.p_holm, pooled.p_holm] == pytest.approx(corrected)
    assert min(one.p_holm / one.p for one in (small, large, pooled)) >= 1
    assert pooled.p_holm > pooled.p


def test_seeds_over_several_benchmarks_end_with_their_mean():
    a = [*rows(A), *rows({"p0": "0000"}, benchmark="code")]
    b = [*rows(B), *rows({"p0": "1111"}, benchmark="code")]
    code, math, pooled = paired_over_seeds([a, a], [a, b])
    assert code.differences == (0, 1)
    assert pooled.benchmark == POOLED
    assert pooled.differences == pytest.approx(((0), (3 / 16 + 1) / 2))
    assert math.problems + code.problems == pooled.problems
    parts = [code.sampling_deviation, math.sampling_deviation]
    assert math.sampling_deviation > 0
    assert pooled.sampling_deviation == pytest.approx(np.hypot(*parts) / 2)


@pytest.mark.parametrize(
    ("runs_a", "runs_b", "message"),
    [
        ([rows(A)], [rows(B)], "two or more seeds"),
        ([rows(A)] * 2, [rows(B)] * 3, "2 runs against 3"),
        (
            [rows(A)] * 2,
            [rows(B), rows({**B, "p0": "111x"})],
            "seed 1 on math: some samples have no verdict",
        ),
        (
            [rows(A), rows(A, protocol="x")],
            [rows(B), rows(B, protocol="x")],
            "different protocols",
        ),
        (
            [rows(A), rows(A, benchmark="code")],
            [rows(B), rows(B, benchmark="code")],
            "seed 1 was evaluated on",
        ),
    ],
)
def test_seeds_that_cannot_be_paired_are_refused(runs_a, runs_b, message):
    with pytest.raises(DataError, match=message):
        paired_over_seeds(runs_a, runs_b)


def test_a_replaced_answer_text_does_not_matter_only_verdicts_do():
    renamed = [replace(s, answer="other", completion="other") for s in rows(B)]
    assert compare(rows(A), renamed) == compare(rows(A), rows(B))
