"""What a model's own forward says, called as anybody calls it."""

from __future__ import annotations

from unittest.mock import patch

import torch
from transformers import PreTrainedModel, masking_utils

from opdlab.modelling.head import decoder, hidden_states
from opdlab.modelling.length_dependence import forget

_TOKENS = torch.arange(3, 45).view(3, 14)


@torch.no_grad()
def assert_hidden_states_are_its_own(model: PreTrainedModel) -> None:
    """They are those of its own forward, bit for bit, without that positions were looked at."""
    with patch.object(masking_utils.torch, "diff", side_effect=AssertionError("looked at")):
        found = hidden_states(model, _TOKENS)
    plain: list[torch.Tensor] = []
    handle = decoder(model).register_forward_hook(lambda _module, _in, out: plain.append(out[0]))
    forget(model)
    model(input_ids=_TOKENS, use_cache=False)
    handle.remove()
    assert torch.equal(found, plain[0])
