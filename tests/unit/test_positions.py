"""Positions that a model has numbers for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import small_model
from transformers import RobertaConfig, RobertaForCausalLM

from opdlab.errors import ModelError
from opdlab.modelling.position_table import learned_positions, require_positions


def with_filler() -> Any:
    """A model whose positions begin after that of filler."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 20, "intermediate_size": 8, "max_position_embeddings": 16}
    return RobertaForCausalLM(
        RobertaConfig(**sizes, **text, pad_token_id=1, is_decoder=True)
    ).eval()


@pytest.mark.parametrize("model", [with_filler(), small_model("gpt2"), small_model("opt")])
def test_a_row_of_so_many_tokens_is_read_and_one_more_is_refused(model: Any) -> None:
    size = learned_positions(model)
    assert size is not None
    require_positions(model, size)
    assert model(torch.full((1, size), 5)).logits.isfinite().all()
    with pytest.raises(ModelError, match=f"has numbers for {size} positions"):
        require_positions(model, size + 1)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, size + 1), 5))


def test_positions_that_are_computed_have_no_end() -> None:
    assert learned_positions(small_model("llama")) is None
