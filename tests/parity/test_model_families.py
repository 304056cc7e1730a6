"""Every decoder-only family is scored exactly: by the tree where it reaches, else by whole forwards."""

from __future__ import annotations

import pytest
from own_forward import assert_hidden_states_are_its_own
from small_models import FAMILIES, OUT_OF_REACH, random_rollout, small_model
from tree_controls import assert_equal, differences

from opdlab.records import Questions
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in OUT_OF_REACH])
def test_the_tree_is_exact_and_its_controls_are_not(family: str) -> None:
    model, rollout = small_model(family), random_rollout([3, 5, 1], [4, 9, 13])
    questions = Questions(rollout.candidates)
    # Two of the rows go through the model in pieces.
    teacher = Teacher(model, trunk_chunk=6).probe()
    assert (teacher.way, teacher.pieces) == ("tree", True)
    assert_equal(teacher.score(rollout, questions), naive_scores(model, rollout, questions), 2e-5)
    exact, *wrong = differences(model, rollout)
    assert exact < 2e-5
    assert min(wrong) > 0.1
    assert_hidden_states_are_its_own(model)


@pytest.mark.parametrize("family", OUT_OF_REACH)
def test_what_the_tree_cannot_reach_is_scored_by_whole_forwards(family: str) -> None:
    model, rollout = small_model(family), random_rollout([3, 5], [4, 9])
    questions = Questions(rollout.candidates)
    with pytest.warns(UserWarning, match="scored by a whole forward for every candidate"):
        teacher = Teacher(model).probe()
    assert_equal(teacher.score(rollout, questions), naive_scores(model, rollout, questions), 2e-5)
    assert_hidden_states_are_its_own(model)
