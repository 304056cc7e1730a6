"""Layers with a recurrent state: leaves and decoded tokens take one step from the state before them."""

from __future__ import annotations

import pytest
import torch
from own_forward import assert_hidden_states_are_its_own
from small_models import RECURRENT, random_rollout, small_model
from tree_controls import assert_equal, leaf_log_c

from opdlab.modelling import state_store
from opdlab.modelling.linear_rules import Segments
from opdlab.modelling.stateful_layers import CachedLayer, recurrent_layers
from opdlab.records import Questions, Rollout
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring import recurrent_leaves
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher
from opdlab.shapes import Tensor

# Kinds of layers, where one of each is enough.
KINDS = ("qwen3_5", "lfm2-conv", "nemotron_h", "minimax", "mamba", "recurrent_gemma")


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short rows have several."""
    monkeypatch.setattr(state_store, "SEGMENT", 4)


@pytest.mark.parametrize("family", RECURRENT)
def test_candidates_after_recurrent_layers_equal_whole_forwards(family: str) -> None:
    model, rollout = small_model(family), random_rollout([2, 5, 1], [2, 4, 8], top_k=2)
    questions = Questions(rollout.candidates)
    # Two of the rows go through the model in pieces.
    teacher = Teacher(model, trunk_chunk=6).probe()
    assert (teacher.way, teacher.pieces) == ("tree", True)
    assert_equal(teacher.score(rollout, questions), naive_scores(model, rollout, questions), 2e-5)
    assert_hidden_states_are_its_own(model)


@pytest.mark.parametrize("family", RECURRENT)
def test_cached_rollouts_say_what_generate_says_and_record_what_a_forward_says(
    family: str,
) -> None:
    model, ends = small_model(family), (9, 11, 12, 13, 14, 15)
    prompts = [[5, 6, 7], [*range(3, 17)], [8], [5, 6, 7]]
    # One row waits for a place, and rows that end early leave theirs.
    rollout = CachedEngine(max_new_tokens=6, temperature=0.0).sample(
        model, prompts, [0, 1, 2, 3], eos_ids=ends, pad_id=0, max_rows=3
    )
    for row, prompt in enumerate(prompts):
        wanted = model.generate(  # type: ignore[operator]
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=6,
            eos_token_id=list(ends),
            pad_token_id=0,
        )[0]
        end = len(prompt) + int(rollout.response_lengths[row])
        assert rollout.tokens[row, :end].tolist() == wanted.tolist()
        with torch.no_grad():
            said = model(input_ids=wanted[None], use_cache=False).logits[0].log_softmax(-1)
        place = torch.arange(len(prompt), end)
        torch.testing.assert_close(
            rollout.log_prob[rollout.row == row], said[place - 1, wanted[place]], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("family", KINDS)
def test_a_leaf_that_branches_off_one_token_late_is_seen(family: str) -> None:
    model, rollout = small_model(family), random_rollout([3, 5], [4, 7], top_k=1)
    truth = naive_scores(model, rollout, Questions(rollout.candidates)).confidence.log()

    def gap(found: Tensor) -> float:
        return float((found - truth)[~found.isnan()].abs().max())

    assert gap(leaf_log_c(model, rollout)) < 2e-5
    assert gap(leaf_log_c(model, rollout, mask_shift=-1)) > 0.05


@pytest.mark.parametrize(("family", "count"), [("qwen3_5", 32), ("minimax", 1)])
def test_groups_of_segments_that_are_bounded_by_bytes_give_the_same(
    family: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rollout = small_model(family), random_rollout([2, 6], [9, 5], top_k=count)
    whole = Teacher(model).score(rollout, Questions(rollout.candidates))
    monkeypatch.setattr(recurrent_leaves, "GROUP_BYTES", 1)
    assert_equal(Teacher(model).score(rollout, Questions(rollout.candidates)), whole, 2e-5)


@pytest.mark.parametrize("family", ["qwen3_next", "olmo_hybrid", "bamba", "falcon_h1"])
def test_sums_are_read_as_steps_read_them(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rollout = small_model(family), random_rollout([2, 6], [5, 3], top_k=2)
    asked = Questions(rollout.candidates)
    assert all(layer.rule for layer in recurrent_layers(model) if isinstance(layer, CachedLayer))
    found = Teacher(model).score(rollout, asked)
    monkeypatch.setattr(CachedLayer, "rule", None)
    assert_equal(found, Teacher(model).score(rollout, asked), 5e-5)


def test_a_layer_whose_sums_come_out_wrong_is_run_step_by_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Segments.read
    monkeypatch.setattr(Segments, "read", lambda *args: 1.1 * read(*args))
    model, rollout = small_model("bamba"), random_rollout([2, 6], [3, 2], top_k=2)
    teacher = Teacher(model).probe()
    assert teacher.way == "tree"
    questions = Questions(rollout.candidates)
    assert_equal(teacher.score(rollout, questions), naive_scores(model, rollout, questions), 2e-5)


@pytest.mark.parametrize("family", KINDS)
def test_rows_of_a_company_have_no_part_in_a_rows_state(family: str) -> None:
    """Filler behind a row is longer than what it is compared with, and differs from it."""
    model = small_model(family)
    teacher = Teacher(model).probe()
    alone = random_rollout([3], [4], top_k=2)
    long = random_rollout([4], [14], top_k=2, seed=1)
    both = _joined(alone, long)
    found = teacher.score(both, Questions(both.candidates))
    wanted = teacher.score(alone, Questions(alone.candidates))
    torch.testing.assert_close(found.confidence[:4], wanted.confidence, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.log_prob[:4], wanted.log_prob, atol=2e-5, rtol=0)


def _joined(one: Rollout, other: Rollout) -> Rollout:
    prompts = [
        rollout.tokens[0, : int(rollout.prompt_lengths)].tolist() for rollout in (one, other)
    ]
    found = random_rollout(prompts, [4, 14], top_k=2)
    found.tokens[0, : one.tokens.shape[1]] = one.tokens
    found.candidates[:4] = one.candidates
    return found


@pytest.mark.parametrize("family", ["qwen3_5", "nemotron_h"])
def test_leaves_of_a_row_alone_are_laid_out_as_a_models_own_functions_lay_them_out(
    family: str,
) -> None:
    model, rollout = small_model(family), random_rollout([2], [2], top_k=1)
    asked = Questions((rollout.token[:, None] + 1) % 53)
    found = Teacher(model).probe().score(rollout, asked).confidence
    torch.testing.assert_close(found, naive_scores(model, rollout, asked).confidence)


def test_segments_are_longer_where_states_would_take_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = state_store.StateStore(2, 64)
    (layer, *_) = recurrent_layers(small_model("mamba2"))
    state = {"recurrent": torch.zeros(2, 100)}
    layer.count = 3
    monkeypatch.setattr(state_store, "KEPT_BYTES", 400 * 3 * 2 * 64 // 16)
    assert store._length(layer, state) == 16


class _Flagged(torch.nn.Linear):
    """As layers of four bits a weight: a flag is set at the first call."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.ready = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.ready = True
        return super().forward(input)


def test_a_flag_that_a_layer_sets_is_no_state() -> None:
    model = small_model("llama")
    model.model.layers[0].mlp.down_proj = _Flagged(8)
    assert not recurrent_layers(model)


class _Watched(torch.nn.Linear):
    """Keeps its last inputs to be looked at, and counts what it has seen."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.last: torch.Tensor | None = None
        self.seen = torch.zeros(size)
        self.calls = torch.zeros(())

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.last = input.detach()
        self.seen = self.seen + input.detach().flatten(0, -2).abs().sum(0)
        self.calls += 1
        return super().forward(input)


def test_what_a_layer_keeps_and_never_reads_is_no_state() -> None:
    model = small_model("llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj = _Watched(32)
    assert not recurrent_layers(model)
    watched = model.model.layers[0].self_attn.o_proj
    assert watched.last is None
    assert watched.calls == 0
    prompts = [[5, 6, 7], [4, 9]]
    CachedEngine(max_new_tokens=4).sample(model, prompts, [0, 1], eos_ids=(), pad_id=0)


def test_a_state_in_attributes_is_known_by_what_other_values_in_its_place_change() -> None:
    model = small_model("recurrent_gemma")
    assert len(recurrent_layers(model)) == 2
    for layer in recurrent_layers(model):
        assert layer.module.conv1d_state is None
