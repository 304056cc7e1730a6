"""A step of fixed shapes says what the model's own forward says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import FAMILIES, OUT_OF_REACH, small_model

from opdlab.attention_hook import UnsupportedError
from opdlab.decode_attention import DecodePass, Ranges, flash_by_parts, over_ranges
from opdlab.decoding import decode
from opdlab.manner import Manner
from opdlab.recording import Decoded, Draw

PROMPTS = [[3 + (i * 7 + n) % 50 for i in range(n)] for n in (1, 2, 5, 9, 17, 5, 3)]
REACHED = [name for name in FAMILIES if name not in OUT_OF_REACH]


def decoded(model: Any, way: Manner, max_rows: int, top_p: float = 1.0) -> Decoded:
    draw = Draw(1.0, top_p, 4, None, 24, (2, 7, 11, 23))
    with torch.no_grad():
        return decode(model, PROMPTS, range(len(PROMPTS)), draw, max_rows, way=way)


@pytest.mark.parametrize("family", REACHED)
def test_a_static_step_draws_what_the_models_own_draws(family: str) -> None:
    model = small_model(family)
    for rows in (3, 7):
        ours, plain = (decoded(model, Manner(way), rows) for way in ("static", "plain"))
        for one, other in zip(ours.responses, plain.responses, strict=True):
            assert torch.equal(one, other)
        for name, value in vars(plain.recorded).items():
            torch.testing.assert_close(getattr(ours.recorded, name), value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", OUT_OF_REACH)
def test_a_model_that_the_hook_does_not_reach_is_refused_or_right(family: str) -> None:
    model = small_model(family)
    try:
        found = decoded(model, Manner("static"), 7)
    except (UnsupportedError, RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return
    plain = decoded(model, Manner("plain"), 7)
    torch.testing.assert_close(found.recorded.log_prob, plain.recorded.log_prob, rtol=0, atol=1e-4)


@pytest.mark.parametrize("parts", [1, 3, 5])
def test_parts_of_what_a_row_sees_are_merged_to_the_whole(parts: int) -> None:
    torch.manual_seed(parts)
    query = torch.randn(3, 4, 1, 8)
    key, value = (torch.randn(3, 20, 2, 8).transpose(1, 2) for _ in range(2))
    column = torch.arange(20)
    # The last row sees fewer columns than there are parts.
    visible = (column >= torch.tensor([[2], [9], [13]])) & (
        column <= torch.tensor([[19], [15], [14]])
    )
    output, lse = over_ranges(query, key, value, Ranges.of(visible, parts), 0.3)
    scores = 0.3 * query @ key.repeat_interleave(2, 1).transpose(2, 3)
    scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(output, scores.softmax(-1) @ value.repeat_interleave(2, 1))


def test_a_rule_that_skips_columns_is_refused() -> None:
    attention = DecodePass(torch.zeros(1, 1, dtype=torch.long), torch.tensor([9]))
    states = torch.randn(1, 2, 1, 8), torch.randn(1, 2, 16, 8), torch.randn(1, 2, 16, 8)
    module = torch.nn.Module()
    attention.attend(module, *states, lambda b, h, q, k: k <= q)
    attention.require_ranges()
    attention.attend(module, *states, lambda b, h, q, k: k % 3 == 0)
    with pytest.raises(UnsupportedError, match="no range"):
        attention.require_ranges()


def test_cudas_kernel_for_unlike_lengths_is_called_as_torch_declares_it() -> None:
    # Without its device, so this shows arguments and shapes, not numbers.
    B, parts, groups, heads, width, S = 3, 2, 4, 2, 64, 40
    with torch.device("meta"):
        query = torch.empty(B, parts, groups, heads, width, dtype=torch.bfloat16)
        key = torch.empty(B, S, heads, width, dtype=torch.bfloat16).transpose(1, 2)
        ranges = Ranges.of(torch.empty(B, S, dtype=torch.bool), parts)
    output, lse = flash_by_parts(query, key, key, ranges, 0.1)
    assert output.shape == query.shape
    assert (lse.shape, lse.dtype) == (query.shape[:-1], torch.float32)
