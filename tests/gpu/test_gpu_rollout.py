"""On the device, too, sampling records what a forward says, and is a function of seeds alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from small_models import small_model
from transformers import PreTrainedModel

from opdlab.modelling.head import log_distribution
from opdlab.records import Rollout
from opdlab.sampling.rollout import CachedEngine, GenerateEngine, RolloutEngine
from opdlab.scoring.length_groups import states_before_tokens

PROMPTS = [[5], [7, 8, 9, 3, 5], [11, 12], [9] * 9]
ENGINES = {"cached": CachedEngine, "generate": GenerateEngine}


@cache
def on(device: torch.device, family: str) -> PreTrainedModel:
    """Trying how a model is sampled takes as long as sampling."""
    return small_model(family).to(device)  # pyright: ignore[reportArgumentType]


def sample(model: PreTrainedModel, engine: RolloutEngine | None = None, rows: int = 3) -> Rollout:
    engine = engine or CachedEngine(max_new_tokens=8)
    seeds = range(len(PROMPTS))
    return engine.sample(
        model, PROMPTS, seeds, eos_ids=(2, 7, 11, 23, 31, 40), pad_id=0, top_k=3, max_rows=rows
    )


@torch.no_grad()
def gap(model: PreTrainedModel, rollout: Rollout) -> float:
    """Largest difference of a recorded log-probability from that of training's forward."""
    said = log_distribution(model, states_before_tokens(model, rollout), None)
    log_prob = said.gather(-1, rollout.token[:, None])[:, 0]
    return float((rollout.log_prob - log_prob).abs().max())


ATTENTION = ["llama", "qwen3", "gemma3", "gpt_oss", "qwen3_moe"]
STATES = ["qwen3_5", "recurrent_gemma"]
RECORDED = ["bamba", "lfm2-conv", "minimax", "jamba"]


@pytest.mark.parametrize("family", [*ATTENTION, *STATES, *RECORDED])
def test_what_is_recorded_is_what_a_forward_says(device: torch.device, family: str) -> None:
    if family in RECORDED and device.type != "cuda":
        pytest.skip("a CPU tries these, too; a card records their steps")
    model = on(device, family)
    rollout = sample(model)
    assert rollout.tokens.device == rollout.candidates.device == device
    assert rollout.response_lengths.unique().numel() > 1, "rows must end at different times"
    assert gap(model, rollout) < 5e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_seeds_alone_make_the_answers(device: torch.device, engine: str) -> None:
    model, engine_here = on(device, "llama"), ENGINES[engine](max_new_tokens=8)
    once = sample(model, engine_here)
    torch.manual_seed(99)
    again = sample(model, engine_here, rows=4)
    assert torch.equal(once.tokens, again.tokens)
    torch.testing.assert_close(once.log_prob, again.log_prob, atol=2e-5, rtol=0)


def test_both_engines_answer_alike_whatever_stands_beside(device: torch.device) -> None:
    """`generate` pads on the left, `cached` lays rows so that they end together."""
    model = on(device, "llama")
    one, other = (sample(model, kind(max_new_tokens=8)) for kind in ENGINES.values())
    assert torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(one.log_prob, other.log_prob, atol=5e-5, rtol=0)


def test_a_nucleus_and_a_temperature_are_drawn_from_on_the_device(device: torch.device) -> None:
    engine = CachedEngine(max_new_tokens=6, temperature=0.7, top_p=0.8)
    rollout = sample(on(device, "llama"), engine)
    assert bool(rollout.log_prob.isfinite().all())


def test_half_precision_records_what_its_forward_says(device: torch.device) -> None:
    model = small_model("llama").to(device, torch.bfloat16)  # pyright: ignore[reportCallIssue]
    rollout = sample(model)
    assert rollout.log_prob.dtype == torch.float32
    assert gap(model, rollout) < 0.3
