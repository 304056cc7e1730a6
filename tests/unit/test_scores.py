"""mean@k, pass@k and maj@k from samples, worked out by hand."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sample_rows import grid, row, rows, votes

from opdlab.errors import DataError
from opdlab.evaluation import headline
from opdlab.plugins import registry as plugins
from opdlab.records import Verdict
from opdlab_evaluators.statistics.answer_sheets import pass_at_every_k
from opdlab_evaluators.statistics.intervals import mean_interval
from opdlab_evaluators.statistics.scores import Estimate, average, granularity_ok, summarise
from opdlab_evaluators.statistics.voting import majority, mathematics


def only(samples):
    (summary,) = summarise(samples)
    return summary


def test_mean_and_pass_by_hand():
    summary = only(rows({"p0": "1100", "p1": "0000", "p2": "1111", "p3": "1000"}))
    assert (summary.problems, summary.samples, summary.k) == (4, 16, 4)
    assert summary.mean.value == 7 / 16
    # pass@2: 1 - C(2,2)/6, 0, 1, 1 - C(3,2)/6
    assert summary.pass_at[2].value == pytest.approx((5 / 6 + 0 + 1 + 1 / 2) / 4)
    assert summary.pass_at[4].value == 3 / 4
    assert list(summary.pass_at) == [1, 2, 3, 4]
    assert summary.mean.problems == 4


def test_every_sample_counts_not_the_first_alone():
    assert only(rows({"p0": "0111", "p1": "0111"})).mean.value == 0.75
    assert only(rows({"p0": "0111", "p1": "0111"})).pass_at[4].value == 1


def test_pass_at_k_is_not_given_for_more_samples_than_the_poorest_problem_has():
    summary = only(rows({"p0": "1111", "p1": "0"}))
    assert summary.k == 1
    assert list(summary.pass_at) == [1]


def test_missing_samples_are_not_wrong_ones():
    summary = only(rows({"p0": "1111", "p1": "11"}))
    assert summary.mean.value == 1
    assert only(rows({"p0": "1100", "p1": "11"})).mean.value == 0.75
    assert summary.samples == 6


@pytest.mark.parametrize("n", [3, 6])
def test_pass_at_k_equals_the_share_of_subsets_that_hold_a_correct_sample(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        sets = list(itertools.combinations([1] * c + [0] * (n - c), k))
        expected = sum(any(chosen) for chosen in sets) / len(sets)
        assert pass_at_every_k(np.array([c]), np.array([n]))[0, k - 1] == pytest.approx(expected)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_pass_at_one_is_the_mean_and_pass_grows_with_k(counts):
    values = pass_at_every_k(np.array(counts), np.full(len(counts), 8))
    assert values[:, 0] == pytest.approx(np.array(counts) / 8)
    assert (np.diff(values, axis=1) >= -1e-12).all()
    assert values[:, -1] == pytest.approx(np.sign(counts))


def test_intervals_are_those_of_problem_scores():
    correct = np.random.default_rng(0).random((40, 8)) < np.linspace(0, 1, 40)[:, None]
    summary = only(grid(correct))
    assert (summary.mean.low, summary.mean.high) == mean_interval(correct.mean(1))
    solved = correct.any(1).astype(float)
    assert (summary.pass_at[8].low, summary.pass_at[8].high) == mean_interval(solved)


def test_repeating_the_same_samples_does_not_narrow_the_interval():
    once, twice = only(rows({"p0": "10", "p1": "00"})), only(rows({"p0": "1010", "p1": "0000"}))
    assert (once.mean.low, once.mean.high) == (twice.mean.low, twice.mean.high)


def test_the_most_frequent_answer_decides_and_none_does_not_vote():
    summary = only(votes({"p0": ["gold", "gold", "b"], "p1": ["b", "b", "gold"]}))
    assert summary.maj is not None
    assert summary.maj.value == 0.5
    assert only(votes({"p0": [None, None, "gold"]})).maj.value == 1
    assert only(votes({"p0": [None, None]})).maj.value == 0


def test_tied_answers_share():
    assert majority([("a", True), ("b", False)]) == 0.5
    assert majority([("a", True), ("b", False), ("c", False), (None, False)]) == pytest.approx(
        1 / 3
    )
    assert majority([("a", True), ("a", True), ("b", False), ("b", False), ("c", True)]) == 0.5


def test_an_answer_counts_by_the_share_of_its_samples_that_were_right():
    assert majority([("4", True), ("4", False), ("4", True), ("5", False)]) == pytest.approx(2 / 3)


def test_answers_vote_by_what_they_mean():
    """Two spellings of the wrong answer are as many as the right one; three are more, whatever is right."""
    right, half = ("3", True), [("1/2", False), (r"\frac{1}{2}", False), ("0.5", False)]
    assert majority([right, right, *half[:2]]) == 1
    assert majority([right, right, *half[:2]], mathematics) == 0.5
    assert majority([right, right, *half], mathematics) == 0
    assert majority([right, ("3.0", True), half[0], ("7", False)], mathematics) == 1
    assert majority([right, half[0], ("x+1", False), ("1+x", False)], mathematics) == 0


def test_a_benchmark_of_mathematics_counts_its_votes_by_meaning():
    summary = only(
        [
            row("p0", n, "wrong" if n else "correct", answer=answer, grader="math-4+sympy-1")
            for n, answer in enumerate(["3", "0.5", r"\frac12"])
        ]
    )
    assert summary.maj.value == 0
    assert only(votes({"p0": ["gold", "0.5", r"\frac12"]})).maj.value == pytest.approx(1 / 3)


def test_maj_is_not_given_where_correct_samples_have_no_answer_to_vote_on():
    assert only([row(answer=None)]).maj is None


@pytest.mark.parametrize("fault", "xes")
def test_a_fault_of_the_grader_blocks_the_headline_and_shows_bounds(fault):
    summary = only(rows({"p0": "11", "p1": f"0{fault}"}))
    mean, passed, maj = summary.mean, summary.pass_at[2], summary.maj
    assert (mean.value, mean.low, mean.high) == (None, None, None)
    assert (mean.worst, mean.best) == (0.5, 0.75)
    assert (passed.value, passed.worst, passed.best) == (None, 0.5, 1)
    assert maj is not None
    assert (maj.value, maj.worst, maj.best) == (None, 0.5, 1)
    assert sum(summary.verdicts.values()) == 4
    assert summary.metrics()["mean_at_2_worst"] == 0.5
    assert "mean_at_2" not in summary.metrics()


def test_a_fault_that_cannot_outvote_leaves_maj_known_within_its_bounds():
    maj = only([*votes({"p0": ["gold", "gold", "gold"]}), row("p0", 3, "grader_error")]).maj
    assert (maj.value, maj.worst, maj.best) == (None, 1, 1)


def test_truncation_stands_beside_the_score():
    samples = [
        *rows({"p0": "1tt0"}),
        row("p1", 0, stop="length", tokens=30),
        *(row("p1", i) for i in (1, 2, 3)),
    ]
    summary = only(samples)
    assert (summary.truncated, summary.truncated_share) == (3, 3 / 8)
    assert summary.metrics()["truncated_share"] == 3 / 8
    assert summary.verdicts["truncated"] == 2
    assert summary.mean_tokens == (7 * 10 + 30) / 8


def test_every_verdict_is_counted_also_those_that_did_not_occur():
    verdicts = only(rows({"p0": "10ntxesr", "p1": "11111111"})).verdicts
    assert set(verdicts) == set(Verdict.STATUSES)
    assert (verdicts["correct"], verdicts["wrong"], verdicts["sandbox_error"]) == (9, 1, 1)


def test_what_a_server_refused_is_no_answer_of_no_length():
    summary = only(rows({"p0": "1r", "p1": "rr", "p2": "t0"}))
    assert summary.mean.value is None
    assert (summary.mean.worst, summary.mean.best) == (pytest.approx(1 / 6), pytest.approx(2 / 3))
    assert (summary.mean_tokens, summary.truncated_share) == (10, 1 / 3)
    none = only(rows({"p0": "rr"}))
    assert (none.mean.worst, none.mean.best, none.mean_tokens, none.truncated_share) == (0, 1, 0, 0)


def test_one_summary_for_each_checkpoint_and_benchmark():
    samples = [
        *rows({"p0": "11"}, checkpoint="opd"),
        *rows({"p0": "10"}, checkpoint="opd", benchmark="code"),
        *rows({"p0": "00"}, checkpoint="student"),
    ]
    found = [(s.checkpoint, s.benchmark, s.mean.value) for s in summarise(samples)]
    assert found == [("opd", "math", 1), ("opd", "code", 0.5), ("student", "math", 0)]


def test_a_sample_that_stands_there_twice_is_refused():
    with pytest.raises(DataError, match="sample 1 of problem p0 is given twice"):
        summarise([*rows({"p0": "11"}), row("p0", 1)])


def test_no_samples_are_refused():
    with pytest.raises(DataError, match="no samples"):
        summarise([])


def test_mixed_protocols_are_refused_by_name():
    with pytest.raises(DataError, match=r"protocol-1 \(grader-1\), protocol-2 \(grader-1\)"):
        summarise([row("p0"), row("p1", protocol="protocol-2")])


def test_the_average_weighs_benchmarks_not_problems():
    summaries = summarise(
        [
            *rows({f"p{i}": "11" for i in range(9)}),
            *rows({"p0": "00", "p1": "10"}, benchmark="code"),
        ]
    )
    (result,) = average(summaries)
    assert result.benchmarks == ("code", "math")
    assert result.mean.value == pytest.approx((1 + 0.25) / 2)
    assert result.pass_at[2].value == pytest.approx((1 + 0.5) / 2)
    assert (result.problems, result.samples) == (11, 22)
    code, math = summaries[1].mean, summaries[0].mean
    below = np.hypot(code.value - code.low, math.value - math.low) / 2
    assert result.mean.low == pytest.approx(result.mean.value - below)


def test_the_average_is_blocked_by_one_fault_and_shows_bounds():
    (result,) = average(summarise([*rows({"p0": "11"}), *rows({"p0": "1x"}, benchmark="code")]))
    assert result.mean.value is None
    assert (result.mean.worst, result.mean.best) == (0.75, 1)


def test_the_average_of_majorities_needs_that_of_every_benchmark():
    (known,) = average(
        summarise([*votes({"p0": ["gold"] * 3}), *votes({"p0": ["1", "1", "gold"]}, benchmark="b")])
    )
    assert known.maj is not None
    assert known.maj.value == 0.5
    (unknown,) = average(
        summarise([*votes({"p0": ["gold"] * 3}), row("p0", answer=None, benchmark="b")])
    )
    assert unknown.maj is None


def test_a_score_without_an_interval_is_recorded_by_its_bounds_alone():
    bounds = {"x_worst": 0.25, "x_best": 0.75}
    known = {"value": 0.5, "low": 0.3, "high": 0.7}
    assert Estimate(**known, problems=4, worst=0.5, best=0.5).metrics("x") == {
        "x": 0.5,
        "x_low": 0.3,
        "x_high": 0.7,
    }
    for missing in known:
        found = Estimate(**(known | {missing: None}), problems=4, worst=0.25, best=0.75)
        assert found.metrics("x") == bounds
        every = found.metrics("x", every=True)
        assert {name for name, value in every.items() if math.isnan(value)} == {
            "x",
            "x_low",
            "x_high",
        }
        assert {name: every[name] for name in bounds} == bounds


@pytest.mark.parametrize(("first", "then"), [("0r", "01"), ("01", "0e")])
def test_what_replaces_an_evaluation_leaves_nothing_of_it(first: str, then: str):
    """A tracker keeps a metric's last value for ever."""
    told: dict[str, float] = {}
    for letters in (first, then):
        told |= headline(rows({"p0": letters}), every=True)
    known = headline(rows({"p0": then}))
    assert known.items() <= told.items()
    scores = {name for name in told if "_at_" in name and not math.isnan(told[name])}
    if "e" in then:
        assert scores == {name for name in known if "_at_" in name}
    else:
        assert told["math/mean_at_2_worst"] == told["math/mean_at_2_best"] == told["math/mean_at_2"]


def test_averages_over_different_benchmarks_differ_in_protocol():
    both = [*rows({"p0": "11"}), *rows({"p0": "11"}, benchmark="code")]
    (wide,), (narrow,) = average(summarise(both)), average(summarise(both[:2]))
    (other,) = average(summarise(both[2:]))
    assert len({wide.protocol, narrow.protocol, other.protocol}) == 3


def test_two_summaries_of_one_benchmark_are_not_averaged():
    with pytest.raises(DataError, match="two summaries of student on math"):
        average(summarise(rows({"p0": "11"})) * 2)


def test_summaries_are_plain_json():
    summaries = summarise([*rows({"p0": "11"}), *rows({"p0": "1x"}, benchmark="code")])
    for record in [*summaries, *average(summaries)]:
        json.loads(json.dumps(asdict(record), allow_nan=False))
        json.dumps(record.metrics(), allow_nan=False)


def test_metric_names_are_those_that_trackers_accept():
    metrics = only(rows({"p0": "11", "p1": "01"})).metrics()
    assert metrics["mean_at_2"] == 0.75
    assert {"mean_at_2_low", "pass_at_2", "pass_at_2_high", "maj_at_2", "samples"} <= metrics.keys()
    assert not any(set(name) & set("@%,[]") for name in metrics)


def test_the_statistics_are_found_as_plugins():
    assert plugins.load(plugins.STATISTICS, "scores") is summarise
    for name in plugins.names(plugins.STATISTICS):
        assert callable(plugins.load(plugins.STATISTICS, name))


@pytest.mark.parametrize("value", [34.92, 36.75, "34.92", "46.70", 0.2, 100.1, -0.1])
def test_a_mean_that_no_count_of_samples_gives_is_flagged(value):
    assert not granularity_ok(value, n=30, k=8)


@pytest.mark.parametrize("value", [42.92, 46.67, 0, 100, "46.7", 47, 100 * 103 / 240, "0.42"])
def test_a_mean_that_some_count_of_samples_gives_passes(value):
    assert granularity_ok(value, n=30, k=8)


@pytest.mark.parametrize("value", ["12", "13", "62", "63"])
def test_a_mean_that_lies_between_two_digits_may_be_rounded_either_way(value: str):
    """1 of 8 is 12.5: by half to even 12, by half up 13."""
    assert granularity_ok(value, n=8, k=1)
    assert not granularity_ok(f"{value}.0", n=8, k=1)


@pytest.mark.parametrize(("grader", "score"), [("math-4+sympy-1", 0.5), ("math-mine-1", 1.0)])
def test_somebody_elses_answers_are_not_joined_by_our_rules(grader: str, score: float):
    statuses = {"3": "correct", "0.5": "wrong", r"\frac12": "wrong"}
    told = [*statuses, "3"]
    many = [row("p0", n, statuses[a], answer=a, grader=grader) for n, a in enumerate(told)]
    assert only(many).maj.value == score
