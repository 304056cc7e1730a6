"""Models whose code somebody changed in ways that a trial of a few tokens does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity.test_rollout import assert_records_a_full_forward, ragged, sample
from small_models import random_rollout, small_model
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.models.llama import modeling_llama

from opdlab.records import Questions
from opdlab.sampling.llama_step import fits
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.naive import naive_scores
from opdlab.scoring.teacher import Teacher
from opdlab.shapes import Tensor

WINDOW = 16
Change = Callable[[pytest.MonkeyPatch, PreTrainedModel], None]


def _narrow(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Attention that sees so many tokens, which no configuration says."""

    def windowed(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **rest: Any
    ) -> Any:
        place = torch.arange(key.shape[2])
        mine = place[-query.shape[2] :, None]
        seen = (place > mine - WINDOW) & (place <= mine)
        if mask is not None and mask.dtype == torch.bool:
            seen = seen & mask[..., : key.shape[2]]
        added = torch.where(seen, 0.0, -torch.inf).expand(len(query), 1, -1, -1)
        if mask is not None and mask.dtype != torch.bool:
            added = added + mask[..., : key.shape[2]]
        return attend(module, query, key, value, added, **rest)

    return windowed


def registered(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel) -> None:
    AttentionInterface.register("windowed", _narrow(AttentionInterface()["sdpa"]))
    AttentionMaskInterface.register("windowed", AttentionMaskInterface()["sdpa"])
    model.set_attn_implementation("windowed")


def eager(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel) -> None:
    name = "eager_attention_forward"
    monkeypatch.setattr(modeling_llama, name, _narrow(getattr(modeling_llama, name)))
    model.set_attn_implementation("eager")


def forward(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel) -> None:
    own = modeling_llama.LlamaAttention.forward

    def later_tokens_twice(self: Any, *args: Any, position_ids: Any, **rest: Any) -> Any:
        output, weights = own(self, *args, position_ids=position_ids, **rest)
        return torch.where(position_ids[..., None] < WINDOW, output, 2 * output), weights

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", later_tokens_twice)


@pytest.mark.filterwarnings("ignore:.* is a custom function")
@pytest.mark.parametrize("change", [registered, eager, forward])
def test_a_change_beyond_the_trials_tokens_is_sampled_and_scored(
    monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    model = small_model("llama")
    assert fits(model)
    change(monkeypatch, model)
    assert not fits(model)
    prompts = ragged([30, 9])
    rollout = sample(model, prompts, CachedEngine(max_new_tokens=20))
    assert_records_a_full_forward(model, prompts, rollout)
    asked = random_rollout([20, 30], [5, 5], top_k=2)
    questions = Questions(asked.candidates)
    found = Teacher(model).probe().score(asked, questions)
    truth = naive_scores(model, asked, questions)
    for name in ("log_prob", "confidence"):
        one, other = getattr(found, name), getattr(truth, name)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0, equal_nan=True)
