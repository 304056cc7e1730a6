"""mean@k, pass@k and maj@k through the real `evaluate` interface."""

from __future__ import annotations

import evaluate
import pytest
from sample_rows import votes

from opdlab.errors import DataError
from opdlab_evaluators.statistics.metrics import MajAtK, MeanAtK, PassAtK
from opdlab_evaluators.statistics.scores import summarise

ANSWERS = {
    "p0": ["gold", "gold", "b", None],
    "p1": ["b", "b", "gold", "c"],
    "p2": [None, "gold", "gold", "gold"],
}
PREDICTIONS = list(ANSWERS.values())
REFERENCES = ["gold"] * 3


@pytest.fixture(params=[MeanAtK, PassAtK, MajAtK])
def metric(request):
    return request.param(keep_in_memory=True)


def test_the_metrics_equal_the_platforms_scores():
    (summary,) = summarise(votes(ANSWERS))
    inputs = {"predictions": PREDICTIONS, "references": REFERENCES}
    for metric, name, estimate in (
        (MeanAtK, "mean_at_4", summary.mean),
        (PassAtK, "pass_at_2", summary.pass_at[2]),
        (PassAtK, "pass_at_4", summary.pass_at[4]),
        (MajAtK, "maj_at_4", summary.maj),
    ):
        result = metric(keep_in_memory=True).compute(**inputs)
        assert result[name] == estimate.value
        assert result[f"{name}_low"] == estimate.low
        assert result[f"{name}_high"] == estimate.high
        assert (result["problems"], result["samples"]) == (3, 12)


def test_scores_by_hand():
    inputs = {"predictions": [["4", "5"], ["7", "7"]], "references": ["4", "7"]}
    assert MeanAtK(keep_in_memory=True).compute(**inputs)["mean_at_2"] == 0.75
    assert PassAtK(keep_in_memory=True).compute(**inputs)["pass_at_1"] == 0.75
    assert PassAtK(keep_in_memory=True).compute(**inputs, k=2)["pass_at_2"] == 1
    assert MajAtK(keep_in_memory=True).compute(**inputs)["maj_at_2"] == 0.75


def test_batches_add_up_to_one_computation(metric):
    whole = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
    metric.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    metric.add_batch(predictions=PREDICTIONS[1:], references=REFERENCES[1:])
    assert metric.compute() == whole
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == whole


@pytest.mark.parametrize("metric", [MeanAtK, PassAtK])
def test_verdicts_of_another_grader_can_be_given_instead_of_answers(metric):
    verdicts = [[answer == "gold" for answer in row] for row in PREDICTIONS]
    expected = metric(keep_in_memory=True).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert metric("verdicts", keep_in_memory=True).compute(predictions=verdicts) == expected


def test_answers_are_judged_by_the_given_equality():
    inputs = {"predictions": [["0.50", " 1/2 "]], "references": ["1/2"]}
    assert MeanAtK(keep_in_memory=True).compute(**inputs)["mean_at_2"] == 0.5
    result = MeanAtK(keep_in_memory=True).compute(**inputs, equal=lambda answer, gold: True)
    assert result["mean_at_2"] == 1


def test_pass_at_k_refuses_more_samples_than_there_are():
    with pytest.raises(DataError, match=r"k in \[8\].*a problem has 2"):
        PassAtK(keep_in_memory=True).compute(
            predictions=[["4"] * 8, ["7", "7"]], references=["4", "7"], k=8
        )


def test_a_problem_without_samples_is_refused_not_scored_zero(metric):
    with pytest.raises(DataError, match="problem 1 has no samples"):
        metric.compute(predictions=[["4"], []], references=["4", "7"])


def test_the_metrics_combine_as_evaluate_does_it():
    combined = evaluate.combine([m(keep_in_memory=True) for m in (MeanAtK, PassAtK, MajAtK)])
    result = combined.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert {"mean_at_4", "pass_at_4", "maj_at_4"} <= result.keys()


def test_an_unknown_configuration_is_refused_by_name():
    with pytest.raises(DataError, match=r"unknown configuration 'verdicts' of MajAtK"):
        MajAtK("verdicts", keep_in_memory=True)


def test_nothing_is_written_outside_memory(metric, tmp_path):
    kept = type(metric)(keep_in_memory=True, cache_dir=str(tmp_path / "cache"))
    kept.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert not list(tmp_path.rglob("*.arrow"))
