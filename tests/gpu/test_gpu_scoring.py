"""On the device, too, the tree says what whole forwards say."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from small_models import random_rollout, small_model
from transformers import PreTrainedModel
from tree_controls import CONTROLS, NUMBERS, assert_equal, leaf_log_c

from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.scoring.leaf_attention import LeafPass
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher

FAMILIES = ("llama", "qwen3", "gemma3", "gpt_oss", "deepseek_v3", "qwen3_moe")
# Half precision is rounded by the CPU here, so two kinds of layers are enough without a card.
ROUNDED = FAMILIES if torch.cuda.is_available() else ("llama", "qwen3_moe")
# What a card alone can run, and the library that it needs.
KERNELS = {"flex_attention": "torch", "flash_attention_2": "flash_attn"}


def ragged(device: torch.device) -> Rollout:
    """Rows of unequal length, padded on the right."""
    return random_rollout([3, 5, 1], [2, 6, 3], top_k=3).to(device)


def on(device: torch.device, family: str, attention: str | None = None) -> PreTrainedModel:
    model = small_model(family).to(device)  # pyright: ignore[reportArgumentType]
    if attention is not None:
        model.set_attn_implementation(attention)
    return model


@cache
def teacher_of(device: torch.device, family: str, attention: str | None = None) -> Teacher:
    """Settling how a model is scored takes longer than scoring."""
    return Teacher(on(device, family, attention)).probe()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tree_is_exact_on_the_device_and_its_controls_are_not(
    device: torch.device, family: str
) -> None:
    teacher, rollout = teacher_of(device, family), ragged(device)
    model, questions = teacher.model, Questions(rollout.candidates)
    assert teacher.way == "tree"
    found, truth = teacher.score(rollout, questions), naive_scores(model, rollout, questions)
    assert found.log_prob.device == found.confidence.device == device
    assert_equal(found, truth, 1e-5)
    # Where every operator is simulated, one family is enough for what is wrong in all of them.
    for shift in CONTROLS.values() if family == "llama" or device.type == "cuda" else ():
        gap = (leaf_log_c(model, rollout, **shift) - truth.confidence.log()).abs()
        assert float(gap[~gap.isnan()].max()) > 0.1, shift


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_share_a_prompt_are_scored_as_alone(device: torch.device, attention: str) -> None:
    teacher, prompt = teacher_of(device, "llama", attention), list(range(3, 11))
    rollout = random_rollout([prompt, [5], prompt], [3, 2, 4], top_k=3).to(device)
    assert teacher.shares
    questions = Questions(rollout.candidates, "sampled_prob")
    found = teacher.score(rollout, questions)
    assert_equal(found, naive_scores(teacher.model, rollout, questions), 1e-5)


@pytest.mark.parametrize("attention", KERNELS)
def test_the_tree_is_exact_beside_kernels_of_a_card(device: torch.device, attention: str) -> None:
    if device.type != "cuda" or find_spec(KERNELS[attention]) is None:
        pytest.skip(f"{attention} needs a card and {KERNELS[attention]}")
    # Kernels have a least width of heads.
    model = small_model("llama", head_dim=16, hidden_size=64).to(device, torch.bfloat16)  # pyright: ignore[reportCallIssue]
    model.set_attn_implementation(attention)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teacher = Teacher(model).probe()
        assert teacher.way == "tree"
        assert waits(teacher, ragged(device)) <= 10
        assert_no_worse(teacher, ragged(device))


def waits(teacher: Teacher, rollout: Rollout) -> int:
    """How often a scoring pass waits for a card, but for the clock's stops."""
    questions = Questions(rollout.candidates)
    teacher.score(rollout, questions)  # kernels are compiled
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            teacher.score(rollout, questions)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(one.message) for one in told)


@pytest.mark.parametrize("family", ROUNDED)
def test_in_half_precision_the_tree_rounds_no_more_than_whole_forwards(
    device: torch.device, family: str
) -> None:
    assert_no_worse(Teacher(on(device, family).to(torch.bfloat16)).probe(), ragged(device))


def assert_no_worse(teacher: Teacher, rollout: Rollout) -> None:
    """The typical error of the teacher's scores is that of whole forwards, against float32.

    Typical: where an expert's turn comes or not by rounding alone, either way is far off.
    """
    model, questions = teacher.model, Questions(rollout.candidates)
    found = teacher.score(rollout, questions)
    plain = naive_scores(model, rollout, questions)
    before = model.config.get_text_config()._attn_implementation
    if before in KERNELS:
        model.set_attn_implementation("sdpa")
    truth = naive_scores(model.float(), rollout, questions)
    for name in NUMBERS:
        assert error(found, truth, name) <= 2 * error(plain, truth, name) + 1e-3, name


def error(found: TeacherScores, truth: TeacherScores, name: str) -> float:
    gap = (getattr(found, name) - getattr(truth, name)).abs()
    return float(gap[~gap.isnan()].median())


HYBRIDS = ["qwen3_5", "bamba", "lfm2-conv", "minimax", "jamba", "recurrent_gemma"]
"""One for each kind of layer that keeps a state."""


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_hybrid_is_scored_by_the_tree(device: torch.device, family: str) -> None:
    teacher, rollout = teacher_of(device, family), ragged(device)
    assert teacher.way == "tree"
    questions = Questions(rollout.candidates)
    assert_equal(
        teacher.score(rollout, questions), naive_scores(teacher.model, rollout, questions), 1e-5
    )


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_no_layer_of_a_leaf_pass_waits_for_the_card(
    device: torch.device, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulated device counts; a card raises."""
    if device.type != "cuda":
        pytest.skip("counted in test_gpu_waits")
    teacher, rollout = teacher_of(device, family), ragged(device)
    questions = Questions(rollout.candidates)
    teacher.score(rollout, questions)
    attend = LeafPass.attend

    def watched(leaf_pass: LeafPass, *arguments: Any, **options: Any) -> Any:
        # The first layer of a window asks once what its leaves see.
        known = len(leaf_pass.reached) > 1 or family == "llama"
        torch.cuda.set_sync_debug_mode("error" if known else "default")
        try:
            return attend(leaf_pass, *arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(LeafPass, "attend", watched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        teacher.score(rollout, questions)
