"""Verdicts that a second rule would turn are counted, listed, and turned."""

from dataclasses import replace

from sample_rows import rows

from opdlab.evaluation import disputes


def test_both_scores_and_the_problems_are_told():
    samples = rows({"p0": "10", "p1": "11", "p2": "00"}, benchmark="lcb/v6")
    samples[0] = replace(samples[0], reason="disputed: wrong by the strict rule alone, test 1")
    samples[3] = replace(samples[3], reason="disputed: wrong by the strict rule alone, test 2")
    (found,) = disputes.disputes(samples)
    assert (found.samples, found.total, found.problems) == (2, 6, ("p0", "p1"))
    assert (found.score, found.other) == ("50.0", "16.7")
    (said,) = disputes.told("student", samples)
    assert "student on lcb/v6: 2 of 6 verdicts are disputed" in said
    assert "Problems: p0, p1" in said


def test_a_verdict_that_was_wrong_by_one_rule_alone_is_turned_to_right():
    samples = rows({"p0": "0", "p1": "t"})
    samples = [replace(sample, reason="disputed: numbers say equal") for sample in samples]
    assert disputes.disputes(samples)[0].other == "100.0"


def test_without_a_dispute_nothing_is_said():
    assert not list(disputes.told("student", rows({"p0": "10x"})))
