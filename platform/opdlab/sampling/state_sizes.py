"""What a model with recurrent layers holds of a row being decoded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.modelling import RecurrentLayer, State, recurrent_layers, row_bytes, taken_over
from opdlab.sampling.decode_step import last_logits_only, without_states
from opdlab.sampling.growing_cache import PrefilledCache
from opdlab.shapes import Float, Tensor


@torch.no_grad()
def held_of_a_token(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes of the states after a first token, over all layers, and how many keys and values it leaves."""
    found: list[State] = []

    def mix(
        layer: RecurrentLayer, inputs: Float[Tensor, "B S H"], arguments: dict[str, Any]
    ) -> Float[Tensor, "B S H"]:
        column = torch.zeros(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        output, state = layer.run(inputs, None, column, arguments)
        found.append(state)
        return output

    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    cache: Any = PrefilledCache(1, model.device)
    with taken_over(recurrent_layers(model), mix):
        model(input_ids=token, **without_states(model, cache), **last_logits_only(model))
    kept = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    return sum(map(row_bytes, found)), sum(part.numel() for part in kept if part is not None)
