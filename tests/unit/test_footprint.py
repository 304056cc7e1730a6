"""Plans, made without weights and without running, against what models really hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import STRETCHED, small_model
from transformers import PreTrainedModel

from opdlab.attention_hook import KeyStore, Lines, PackedPass, hooked, running
from opdlab.footprint import activations, forward_peak, sizes
from opdlab.head import flat_states

ROWS, LENGTH = 2, 24
PLANNED = (
    *(
        "llama",
        "llama4",
        "gemma2",
        "gemma3",
        "gpt2",
        "gpt_bigcode",
        "mistral",
        "lfm2",
        "mamba",
        "bloom",
    ),
    *("qwen3_moe", "mixtral", "gpt_oss", "granitemoe", "deepseek_v2", "deepseek_v3"),
    *("modernbert-decoder", *STRETCHED),
)
"""Each kind of attention, experts, state and positions. All that are built came out exact."""
CACHED = ("llama", "gemma3", "gpt2", "gpt_bigcode", "qwen3_moe", "deepseek_v3", "llama-dynamic")
HOOKED = ("llama", "gemma3", "deepseek_v3")


def kept(model: PreTrainedModel) -> int:
    """Bytes that a forward keeps for its backward pass."""
    weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    found: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage
        return tensor

    tokens = torch.randint(3, 50, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.base_model(input_ids=tokens, use_cache=False)
    del output
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("family", PLANNED)
def test_activations_of_any_family_are_planned_within_a_tenth(family: str) -> None:
    model = small_model(family)
    for dropout in (True, False):
        planned = activations(model.config, ROWS, LENGTH, torch.float32, dropout)
        assert planned == pytest.approx(kept(model.train(dropout)), rel=0.1)


@pytest.mark.parametrize("family", CACHED)
def test_what_sampling_keeps_of_a_token_is_what_the_model_gives_its_cache(family: str) -> None:
    model = small_model(family)
    tokens = torch.full((1, 5), 7)
    with torch.no_grad():
        cache = model(input_ids=tokens, use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert sizes(model.config, torch.float32).cache == held / 5


@pytest.mark.parametrize("family", HOOKED)
def test_what_scoring_keeps_of_a_token_is_what_attention_sees(family: str) -> None:
    model, place = small_model(family), torch.arange(5)
    store = KeyStore(1, 5)
    with torch.no_grad(), hooked(model) as own:
        packed = PackedPass(own, Lines(1, 5, place, place), store)
        with running(packed):
            flat_states(model, place + 3, place)
    held = sum(one.numel() for kept in (store.keys, store.values) for one in kept.values())
    assert sizes(model.config, torch.float32).attended == held / 5
    assert forward_peak(model.config, 16, torch.float32) > 0
