"""Candidates scored against a cached trunk equal whole forwards, and every way to be off by one is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import VOCABULARY, random_rollout, small_model
from torch.nn.functional import pad
from tree_controls import CONTROLS, RAGGED, assert_equal, differences

from opdlab.errors import ModelError, NonFiniteError
from opdlab.modelling.attention_hook import Lines
from opdlab.modelling.head import project
from opdlab.records import Questions
from opdlab.scoring import leaf_attention, shared_prompts, teacher as teacher_module
from opdlab.scoring.leaf_attention import attention_with_lse, flash_on_cuda, masked_on_cuda
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher, check_finite
from opdlab.scoring.tree import leaves, part, response_states
from opdlab.shapes import Tensor

MAIN = ["llama", "qwen2", "qwen3", "mistral"]


@pytest.mark.parametrize("family", MAIN)
def test_a_leaf_equals_a_whole_forward(family: str) -> None:
    model, rollout = small_model(family), random_rollout(*RAGGED)
    teacher = Teacher(model).probe()
    found = teacher.score(rollout, Questions(rollout.candidates))
    assert teacher.way == "tree"
    assert found.leaves == int((rollout.candidates != rollout.token[:, None]).sum())
    assert_equal(found, naive_scores(model, rollout, Questions(rollout.candidates)))


@pytest.mark.parametrize("family", MAIN)
def test_a_leaf_off_by_one_is_seen(family: str) -> None:
    exact, *wrong = differences(small_model(family), random_rollout(*RAGGED))
    assert exact < 1e-5
    assert len(wrong) == len(CONTROLS)
    assert min(wrong) > 0.1


@pytest.mark.parametrize("measure", ["max_prob", "sampled_prob", "entropy", "perplexity"])
def test_every_measure_over_a_shared_vocabulary_equals_whole_forwards(measure: str) -> None:
    model, rollout = small_model("qwen3"), random_rollout(*RAGGED, vocabulary=50)
    questions = Questions(rollout.candidates, measure=measure)
    found, truth = (
        Teacher(model, 50).score(rollout, questions),
        naive_scores(model, rollout, questions, 50),
    )
    assert_equal(found, truth, atol=1e-4)


@pytest.mark.parametrize("measure", ["max_prob", "sampled_prob"])
def test_a_row_has_the_same_scores_in_every_company(measure: str) -> None:
    model, rollout = small_model("qwen3"), random_rollout(*RAGGED, vocabulary=50)
    teacher = Teacher(model, 50)
    whole = teacher.score(rollout, Questions(rollout.candidates, measure))
    for rows in ([0], [1], list(range(1, len(rollout.tokens)))):
        piece, place = part(rollout, torch.tensor(rows))
        alone = teacher.score(piece, Questions(piece.candidates, measure))
        for name in ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence"):
            one, other = getattr(alone, name), getattr(whole, name)[place]
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5, equal_nan=True)


def test_chunks_of_any_size_give_the_same_scores() -> None:
    model, rollout = small_model("mistral"), random_rollout(*RAGGED)
    questions = Questions(rollout.candidates)
    truth = naive_scores(model, rollout, questions)
    for sizes in (
        {"leaf_chunk": 7},
        {"trunk_chunk": 5},
        {"trunk_chunk": 14},
        {"trunk_tokens": 20},
        {"head_chunk": 5},
        {"trunk_tokens": 1},
    ):
        assert_equal(Teacher(model, **sizes).score(rollout, questions), truth)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "llama4"])
def test_keys_that_leaves_see_are_cut_into_a_block_and_steps_without_loss(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rollout = small_model(family), random_rollout([9, 12], [20, 24])
    questions = Questions(rollout.candidates)
    truth = naive_scores(model, rollout, questions)
    monkeypatch.setattr(leaf_attention, "WORTH_A_CALL", 2)
    monkeypatch.setattr(leaf_attention, "_STAIR", 3)
    for sizes in ({"leaf_chunk": 8}, {"leaf_chunk": 1000}, {"leaf_chunk": 8, "trunk_chunk": 7}):
        assert_equal(Teacher(model, **sizes).score(rollout, questions), truth)


def test_leaves_compute_little_that_their_mask_throws_away(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = 0

    def counting(query: Tensor, key: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        nonlocal computed
        computed += query.shape[2] * key.shape[2]
        return attention_with_lse(query, key, *rest)

    monkeypatch.setattr(leaf_attention, "attention_with_lse", counting)
    model, rollout = small_model("llama"), random_rollout([4], [700])
    tree = leaves(rollout, rollout.candidates)
    scorer = Teacher(model).probe()
    computed = 0
    scorer.score(rollout, Questions(rollout.candidates))
    layers = model.config.num_hidden_layers
    needed = layers * int(tree.column.sum())
    assert needed <= computed < 1.15 * needed


def test_cudas_kernel_is_called_as_torch_declares_it() -> None:
    # Without its device, so this shows arguments and shapes, not numbers.
    query, key = (
        torch.empty(2, 4, columns, 64, dtype=torch.bfloat16, device="meta") for columns in (10, 30)
    )
    output, lse = flash_on_cuda(query, key, key, 0.1)
    assert output.shape == query.shape
    assert (lse.shape, lse.dtype) == (query.shape[:-1], torch.float32)
    bias = torch.empty(2, 1, 10, 30, dtype=torch.bfloat16, device="meta")
    output, lse = masked_on_cuda(query, key[:, :2], key[:, :2], bias, 0.1)
    assert output.shape == query.shape
    assert (lse.shape, lse.dtype) == (query.shape[:-1], torch.float32)


@pytest.mark.parametrize("family", [*MAIN, "gemma2", "gpt_oss", "llama4", "deepseek_v3"])
def test_rollouts_of_one_prompt_share_it_exactly(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of a few columns, as very long rows have them.
    monkeypatch.setattr(shared_prompts, "_MASK_ELEMENTS", 300)
    model = small_model(family)
    prompt = [5, 9, 31, 7, 7, 12, 40, 22, 9]
    rollout = random_rollout([prompt, [8, 3], prompt, prompt, [8, 3]], [6, 4, 11, 3, 14])
    questions = Questions(rollout.candidates)
    teacher = Teacher(model).probe()
    assert teacher.shares
    assert response_states(rollout, 0.1).prompts == len(prompt) + 2
    truth = naive_scores(model, rollout, questions)
    assert_equal(teacher.score(rollout, questions), truth)
    teacher.trunk_tokens = 40
    assert_equal(teacher.score(rollout, questions), truth)
    teacher.shares = False
    assert_equal(teacher.score(rollout, questions), truth)


UNEQUAL = [400, 370, *[40] * 14, *[9] * 14]


@pytest.mark.parametrize("prompts", ["own", "shared"])
def test_rows_of_very_different_length_cost_little_filler(
    prompts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places of tokens in lines, trunk and leaves, are at most about 1.3 times the tokens."""
    model = small_model("qwen3")
    prompt: Any = [[5, 9, 31] * 10] * len(UNEQUAL) if prompts == "shared" else [4] * len(UNEQUAL)
    shuffled = torch.randperm(len(UNEQUAL), generator=torch.Generator().manual_seed(0)).tolist()
    rollout = random_rollout(prompt, [UNEQUAL[row] for row in shuffled])
    questions = Questions(rollout.candidates[:, :2])
    places = tokens = 0
    of = Lines.of

    def counting(row: Tensor, rows: int) -> Lines:
        nonlocal places, tokens
        lines = of(row, rows)
        places, tokens = places + len(lines.token), tokens + len(row)
        return lines

    scorer = Teacher(model).probe()
    monkeypatch.setattr(Lines, "of", staticmethod(counting))
    found = scorer.score(rollout, questions)
    assert tokens <= places <= 1.35 * tokens
    few = places / tokens
    monkeypatch.setattr(teacher_module, "_LITTLE_FILLER", 10**9)
    scorer.trunk_tokens, scorer.trunk_chunk, places, tokens = 10**9, 10**9, 0, 0
    together = scorer.score(rollout, questions)
    assert places / tokens > 2.5 * few
    assert_equal(found, together)


def test_filler_has_no_influence() -> None:
    model, rollout = small_model("llama"), random_rollout(*RAGGED)
    junk = torch.randint(3, VOCABULARY, (len(rollout.tokens), 5))
    tokens = torch.cat([rollout.tokens, junk], 1)
    lengths = rollout.prompt_lengths + rollout.response_lengths
    filler = torch.arange(tokens.shape[1]) >= lengths[:, None]
    tokens = torch.where(filler, tokens.clamp(min=44), tokens)
    questions = Questions(rollout.candidates)
    teacher = Teacher(model).probe()
    found = teacher.score(replace(rollout, tokens=tokens), questions)
    assert_equal(found, teacher.score(rollout, questions), atol=1e-6)


def test_missing_repeated_and_sampled_candidates_are_answered_rightly() -> None:
    model, rollout = small_model("llama"), random_rollout([3, 4], [5, 6])
    candidates = rollout.candidates.clone()
    candidates[:, 1] = candidates[:, 2]
    candidates[4, :] = -1
    candidates[5, 0] = -1
    candidates[6] = rollout.token[6]
    questions = Questions(candidates)
    found = Teacher(model).score(rollout, questions)
    assert torch.equal(found.confidence.isnan(), candidates == -1)
    assert torch.equal(found.confidence[6], found.sampled_confidence[6].expand(4))
    assert_equal(found, naive_scores(model, rollout, questions))


def test_nothing_is_said_of_the_step_after_an_eos_but_the_eos_is_scored() -> None:
    model, rollout = small_model("llama"), random_rollout([3, 4], [5, 6])
    found = Teacher(model).score(rollout, Questions(rollout.candidates))
    assert torch.equal(found.fidelity.isnan(), rollout.is_eos)
    assert torch.equal(found.sampled_confidence.isnan(), rollout.is_eos)
    assert rollout.is_eos.sum() == 1
    assert found.log_prob.isfinite().all()


def test_a_method_without_candidates_gets_the_trunk_alone() -> None:
    model, rollout = small_model("llama"), random_rollout(*RAGGED, top_k=0)
    questions = Questions(rollout.candidates, full=True)
    found = Teacher(model).score(rollout, questions)
    assert found.leaves == 0
    assert_equal(found, naive_scores(model, rollout, questions))
    assert found.hidden is not None
    log_q = project(model, found.hidden).log_softmax(-1)
    said = log_q.gather(1, rollout.token[:, None]).squeeze(1)
    torch.testing.assert_close(said, found.log_prob, atol=1e-5, rtol=0)


def test_half_precision_adds_no_more_than_rounding() -> None:
    rollout = random_rollout(*RAGGED)
    questions = Questions(rollout.candidates)
    exact = naive_scores(small_model("qwen3"), rollout, questions)
    model = small_model("qwen3").bfloat16()
    by_tree = Teacher(model).score(rollout, questions)
    by_forwards = naive_scores(model, rollout, questions)
    error = [
        (s.confidence.log() - exact.confidence.log()).nanmean().abs()
        for s in (by_tree, by_forwards)
    ]
    assert by_tree.confidence.dtype == torch.float32
    assert error[0] < error[1] + 0.02
    assert (by_tree.confidence.log() - by_forwards.confidence.log()).abs().nanmean() < 0.05


def test_attention_is_the_models_own_again_afterwards() -> None:
    model, rollout = small_model("gemma2"), random_rollout([3, 4], [5, 6])
    own = model.config._attn_implementation
    teacher = Teacher(model).probe()
    before = model(input_ids=rollout.tokens).logits
    teacher.score(rollout, Questions(rollout.candidates))
    assert model.config._attn_implementation == own
    assert torch.equal(model(input_ids=rollout.tokens).logits, before)
    with pytest.raises(IndexError):
        teacher.score(rollout, Questions(rollout.candidates + 10 * VOCABULARY))
    assert model.config._attn_implementation == own


def test_a_model_out_of_the_trees_reach_is_scored_exactly_with_a_warning() -> None:
    model, rollout = small_model("bloom"), random_rollout([3, 4], [5, 6])
    with pytest.warns(UserWarning, match="BloomForCausalLM is scored by a whole forward"):
        teacher = Teacher(model).probe()
    questions = Questions(rollout.candidates)
    assert teacher.way == "naive"
    assert_equal(teacher.score(rollout, questions), naive_scores(model, rollout, questions))


def test_wrong_results_of_the_hook_are_found_at_load() -> None:
    model: Any = small_model("llama")

    def look_back(_module: Any, _inputs: Any, output: Any) -> Any:
        return output + pad(output, (0, 0, 1, 0))[:, :-1]

    # By the token before, which stands elsewhere in a tree.
    model.model.layers[0].mlp.register_forward_hook(look_back)
    with pytest.warns(UserWarning, match="come out wrong by"):
        assert Teacher(model).probe().way == "naive"


def test_layers_that_attend_to_several_values_are_scored_by_whole_forwards() -> None:
    with pytest.warns(UserWarning, match="its layers attend more than once"):
        assert Teacher(small_model("diffllama")).probe().way == "naive"


def test_a_model_that_looks_ahead_is_refused_by_name() -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.3,
    )
    with pytest.raises(ModelError, match=r"BertLMHeadModel cannot be a teacher.*later tokens"):
        Teacher(BertLMHeadModel(config)).probe()


def test_a_teacher_that_says_nan_is_stopped() -> None:
    model, rollout = small_model("llama"), random_rollout([3, 4], [5, 6])
    teacher = Teacher(model).probe()
    rollout.tokens[rollout.tokens == 52] = 51
    rollout.tokens[1, 4 + 2] = 52
    with torch.no_grad():
        model.get_input_embeddings().weight[52] = torch.nan
    with pytest.raises(NonFiniteError, match=r"log_prob is nan in row 1 at response position"):
        teacher.score(rollout, Questions(rollout.candidates[:, :0]))


@pytest.mark.parametrize("name", ["log_prob", "fidelity", "confidence"])
def test_a_score_that_is_no_number_is_named_by_row_and_position(name: str) -> None:
    rollout = random_rollout([3, 4], [5, 6])
    questions = Questions(rollout.candidates)
    scores = Teacher(small_model("llama")).score(rollout, questions)
    getattr(scores, name)[5 + 2] = torch.inf
    with pytest.raises(NonFiniteError, match=f"{name} is .*inf.* in row 1 at response position 2 "):
        check_finite(scores, rollout, questions)


def test_rollouts_that_the_teacher_cannot_read_are_refused() -> None:
    teacher = Teacher(small_model("llama"), 40).probe()
    rollout = random_rollout([3, 4], [5, 6])
    with pytest.raises(ModelError, match="outside the 40 entries"):
        teacher.score(rollout, Questions(rollout.candidates))
    rollout = random_rollout([3, 0], [5, 6], vocabulary=40)
    with pytest.raises(ModelError, match="row 1 has an empty prompt"):
        teacher.score(rollout, Questions(rollout.candidates))


class Thinking(Exception):
    """A model was run."""


def test_a_teacher_is_made_without_a_forward_and_tried_once() -> None:
    model, rollout = small_model("llama"), random_rollout([3, 4], [5, 6])
    runs: list[int] = []

    def refuse(*_: object) -> None:
        raise Thinking

    hook = model.register_forward_pre_hook(refuse)
    teacher = Teacher(model)
    with pytest.raises(Thinking):
        teacher.score(rollout, Questions(rollout.candidates))
    hook.remove()
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    teacher.score(rollout, Questions(rollout.candidates))
    first = len(runs)
    teacher.score(rollout, Questions(rollout.candidates))
    assert len(runs) - first < first
    teacher.probe()
    assert len(runs) < 2 * first
