"""Candidates followed past one step by chains of leaves equal whole forwards along the same tokens."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from small_models import VOCABULARY, random_rollout, small_model
from tree_controls import RAGGED, assert_equal

from opdlab.errors import NonFiniteError
from opdlab.records import Lookahead, Questions, Rollout
from opdlab.scoring import leaf_attention
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher
from opdlab.scoring.tree import part

FAMILIES = ["llama", "qwen3", "mistral", "gemma2", "llama4", "gpt_oss", "deepseek_v3"]
WAYS = [
    Lookahead(2),
    Lookahead(5, "minimum"),
    Lookahead(4, "last", certain_above=0.06),
]


def asked(rollout: Rollout, ahead: Lookahead) -> Questions:
    """Two of three positions have candidates: some repeated, some sampled, some missing."""
    candidates = rollout.candidates.clone()
    candidates[::3] = -1
    candidates[1::4, 0] = rollout.token[1::4]
    candidates[2::5, 1] = candidates[2::5, 2]
    return Questions(candidates, lookahead=ahead)


def rollout_with_ends() -> Rollout:
    """Several tokens end an answer, so that some chains do."""
    return replace(random_rollout([3, 1, 5], [8, 11, 4], vocabulary=50), eos_ids=(2, *range(3, 12)))


@pytest.mark.parametrize(
    ("family", "ahead"), list(zip(FAMILIES, cycle(WAYS), strict=False)), ids=str
)
def test_a_chain_equals_whole_forwards(family: str, ahead: Lookahead) -> None:
    model, rollout = small_model(family), rollout_with_ends()
    questions = asked(rollout, ahead)
    teacher, truth = Teacher(model, 50).probe(), naive_scores(model, rollout, questions, 50)
    assert teacher.way == "tree"
    for one in (teacher, teacher.in_pieces(trunk=5, leaf=7, head=3)):
        assert_equal(one.score(rollout, questions), truth)
    assert teacher.follows
    shorter = naive_scores(model, rollout, replace(questions, lookahead=Lookahead()), 50)
    differs = (shorter.confidence - truth.confidence).abs() > 1e-3
    assert differs.float().mean() > 0.2


def test_a_chain_is_the_same_in_every_company() -> None:
    model, rollout = small_model("mistral"), rollout_with_ends()
    questions, teacher = asked(rollout, Lookahead(4)), Teacher(model, 50)
    together = teacher.score(rollout, questions)
    for row in range(len(rollout.tokens)):
        alone, place = part(rollout, torch.tensor([row]))
        found = teacher.score(alone, replace(questions, candidates=questions.candidates[place]))
        torch.testing.assert_close(found.confidence, together.confidence[place], equal_nan=True)


@pytest.mark.parametrize("fault", ["blind to its chain", "sees the trunk behind it"])
def test_a_wrong_chain_is_found_when_it_is_tried(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rollout = small_model("llama"), rollout_with_ends()
    questions = asked(rollout, Lookahead(3))
    if fault == "blind to its chain":
        monkeypatch.setattr(leaf_attention.Chain, "keep", lambda *_: None)
    else:
        monkeypatch.setattr(leaf_attention.Chain, "__len__", lambda _: 0)
    teacher = Teacher(model, 50)
    with pytest.warns(UserWarning, match="LlamaForCausalLM are followed past one step by whole"):
        found = teacher.score(rollout, questions)
    assert not teacher.follows
    assert teacher.way == "tree"
    assert_equal(found, naive_scores(model, rollout, questions, 50))


@pytest.mark.parametrize("family", ["llama-dynamic", "phi3-longrope", "mamba2"])
def test_what_cannot_grow_into_a_chain_is_followed_by_whole_forwards(family: str) -> None:
    model, rollout = small_model(family), rollout_with_ends()
    questions = asked(rollout, Lookahead(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = Teacher(model, 50).score(rollout, questions)
    assert_equal(found, naive_scores(model, rollout, questions, 50))


@pytest.mark.filterwarnings("ignore:Llama4ForCausalLM depends on more than positions")
def test_a_chain_goes_no_further_than_a_pass_may() -> None:
    """Beyond so many tokens this model counts those of a forward itself."""
    model = small_model("llama4", floor_scale=13, attn_scale=3.0, attn_temperature_tuning=True)
    rollout = random_rollout([9], [3], vocabulary=50)
    questions = Questions(rollout.candidates, lookahead=Lookahead(4))
    teacher = Teacher(model, 50)
    found = teacher.score(rollout, questions)
    assert teacher.reach == 12
    assert_equal(found, naive_scores(model, rollout, questions, 50))


def test_a_chain_ends_where_a_model_has_no_position_for_another_token() -> None:
    rollout = rollout_with_ends()
    longest = int((rollout.prompt_lengths + rollout.response_lengths).max())
    model = small_model("gpt2", n_positions=longest)
    questions = asked(rollout, Lookahead(4))
    found = Teacher(model, 50).score(rollout, questions)
    assert_equal(found, naive_scores(model, rollout, questions, 50))
    assert found.confidence[questions.candidates >= 0].isfinite().all()


def test_nothing_is_said_past_one_step_where_nothing_is_asked() -> None:
    model, rollout = small_model("llama"), random_rollout(*RAGGED)
    questions = Questions(rollout.candidates[:, :0], lookahead=Lookahead(3))
    found = Teacher(model).score(rollout, questions)
    assert found.sampled_confidence.isnan().all()
    assert found.leaves == 0


@pytest.mark.parametrize("over", ["geometric_mean", "last", "minimum"])
def test_a_teacher_that_fails_along_a_chain_is_refused(over: str) -> None:
    model, rollout = small_model("llama"), random_rollout(*RAGGED)
    teacher = Teacher(model).probe()
    said = torch.cat([rollout.tokens.flatten(), rollout.candidates.flatten()]).unique()
    with torch.no_grad():
        model.get_input_embeddings().weight[~torch.isin(torch.arange(VOCABULARY), said)] = torch.nan
    teacher.follows = True
    with pytest.raises(NonFiniteError, match="confidence"):
        teacher.score(rollout, Questions(rollout.candidates, lookahead=Lookahead(4, over)))
