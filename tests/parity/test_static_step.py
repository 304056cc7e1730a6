"""A step of fixed shapes says what the model's own forward says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from operator_tape import OperatorTape
from small_models import FAMILIES, OUT_OF_REACH, RECURRENT, small_model

from opdlab.modelling.attention_hook import Own, UnsupportedError
from opdlab.sampling import decoding, static_step
from opdlab.sampling.decode_attention import DecodePass, Ranges, flash_by_parts, over_ranges
from opdlab.sampling.decoding import decode
from opdlab.sampling.lean_step import fits
from opdlab.sampling.manner import Manner, manner
from opdlab.sampling.recording import Decoded, Draw
from opdlab.sampling.static_step import StaticStep

PROMPTS = [[3 + (i * 7 + n) % 50 for i in range(n)] for n in (1, 2, 5, 9, 17, 5, 3)]
REACHED = [name for name in FAMILIES if name not in OUT_OF_REACH]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card: the model's own code runs to record a step, and for no other."""

    def recorded(step: StaticStep) -> Any:
        step.column.fill_(step.cache.end)
        return OperatorTape(step.advance).play

    monkeypatch.setattr(StaticStep, "recorded", recorded)


def decoded(model: Any, way: Manner, max_rows: int, tokens: int = 24) -> Decoded:
    draw = Draw(1.0, 1.0, 4, None, tokens, (2, 7, 11, 23))
    with torch.no_grad():
        return decode(model, PROMPTS, range(len(PROMPTS)), draw, max_rows, way=way)


@pytest.mark.parametrize("family", [*REACHED, *RECURRENT])
@pytest.mark.usefixtures("recorded")
def test_a_static_step_draws_what_the_models_own_draws(family: str) -> None:
    model = small_model(family)
    # Fewer places than rows: they are dropped, refilled and moved.
    for rows in (3, 7) if family in ("llama", "gemma3", "qwen3_5") else (3,):
        ours, plain = (decoded(model, Manner(way), rows, 12) for way in ("static", "plain"))
        for one, other in zip(ours.responses, plain.responses, strict=True):
            assert torch.equal(one, other)
        for name, value in vars(plain.recorded).items():
            torch.testing.assert_close(getattr(ours.recorded, name), value, rtol=0, atol=2e-5)


class Asking(torch.nn.Module):
    """A part of a layer, whose numbers the host looks at."""

    def __init__(self, part: torch.nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args: Any, **options: Any) -> Any:
        found = self.part(*args, **options)
        return found if bool(found.isfinite().all()) else None


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("asks", [False, True])
def test_a_step_that_asks_the_device_is_not_recorded(
    asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_step, "fits", lambda model: True)
    model = small_model("bamba")
    if asks:
        model.model.layers[0].mamba.norm = Asking(model.model.layers[0].mamba.norm)
    with torch.no_grad():
        found = manner(model, 60, decoding._quicker(model), partial(decoding._trial, model))
    assert found == Manner("plain" if asks else "static")


LEAN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "one key head": ("llama", {"num_key_value_heads": 1}),
    "wide heads": ("llama", {"head_dim": 20}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


@pytest.mark.parametrize("name", LEAN)
@pytest.mark.usefixtures("recorded")
def test_a_lean_step_draws_what_the_models_own_draws(name: str) -> None:
    family, changes = LEAN[name]
    model = small_model(family, **changes)
    assert fits(model)
    for rows in (3, 7):
        ours, plain = (decoded(model, Manner(way), rows) for way in ("lean", "plain"))
        for one, other in zip(ours.responses, plain.responses, strict=True):
            assert torch.equal(one, other)
        for name, value in vars(plain.recorded).items():
            torch.testing.assert_close(getattr(ours.recorded, name), value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["weights", "autocast"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_lean_step_in_half_precision_rounds_as_the_models_own_does(
    family: str, precision: str
) -> None:
    model = small_model(family)
    if precision == "weights":
        model.bfloat16()
    exact = small_model(family)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        ours, plain = (decoded(model, Manner(way), 7) for way in ("lean", "plain"))
    gaps = []
    for found in (ours, plain):
        rows = [[*p, *r.tolist()] for p, r in zip(PROMPTS, found.responses, strict=True)]
        true = [
            exact(input_ids=torch.tensor([row]))
            .logits[0]
            .log_softmax(-1)[range(len(p) - 1, len(row) - 1), row[len(p) :]]
            for p, row in zip(PROMPTS, rows, strict=True)
        ]
        gaps.append(float((found.recorded.log_prob - torch.cat(true).detach()).abs().mean()))
    assert 0 < gaps[0] < 1.5 * gaps[1]


def test_a_model_that_computes_something_else_is_not_written_out() -> None:
    for family, changes in (
        ("llama", {"attention_bias": True}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 4}),
        ("mistral", {}),
        ("gemma3", {}),
    ):
        assert not fits(small_model(family, **changes)), family
    hooked = small_model("llama")
    hooked.model.layers[1].register_forward_hook(lambda *_: None)
    assert not fits(hooked)


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
    first, last = torch.tensor([[2], [9], [13]]), torch.tensor([[19], [15], [14]])
    visible = (column >= first) & (column <= last)
    output, lse = over_ranges(query, key, value, Ranges.of(first, last + 1 - first, 20, parts), 0.3)
    scores = 0.3 * query @ key.repeat_interleave(2, 1).transpose(2, 3)
    scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(output, scores.softmax(-1) @ value.repeat_interleave(2, 1))


def test_a_rule_that_skips_columns_is_refused() -> None:
    attention = DecodePass(Own("eager"), torch.zeros(1, 1, dtype=torch.long), torch.tensor([9]))
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
        place = torch.empty(B, 1, dtype=torch.long)
        ranges = Ranges.of(place, place, S, parts)
    output, lse = flash_by_parts(query, key, key, ranges, 0.1)
    assert output.shape == query.shape
    assert (lse.shape, lse.dtype) == (query.shape[:-1], torch.float32)
