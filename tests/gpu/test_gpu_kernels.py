"""Kernels that a card alone has, against plain products; and a recorded step against the model's own."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from gpu.decoding import begun
from small_models import random_rollout, small_model
from torch.nn.functional import rms_norm, silu

from opdlab.modelling.eval_mode import sampling_mode
from opdlab.modelling.head import _statistics
from opdlab.modelling.precision import in_float32
from opdlab.modelling.vocabulary_loss import _add_product
from opdlab.records import Questions
from opdlab.sampling import lean_step, static_step
from opdlab.sampling.decode_attention import Ranges, over_ranges
from opdlab.sampling.decode_step import ModelStep
from opdlab.sampling.decoder import Decoder, Room
from opdlab.sampling.decoding import decode
from opdlab.sampling.lean_step import LeanStep, _turned
from opdlab.sampling.manner import Manner
from opdlab.sampling.recording import Decoded, Draw, Records
from opdlab.sampling.static_step import StaticStep
from opdlab.scoring import leaf_attention
from opdlab.scoring.leaf_attention import attention_with_lse, bias_of
from opdlab.scoring.teacher import Teacher

PROMPTS = [[3 + (i * 7 + n) % 50 for i in range(n)] for n in (1, 2, 5, 9, 17, 5, 3)]
ROUTED = ("gpt_oss", "deepseek_v3")
FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt_oss", "deepseek_v3", "phi3", "gpt2")
STATES = ("qwen3_5", "lfm2-conv", "bamba", "falcon_h1", "zamba2", "mamba", "recurrent_gemma")


@pytest.fixture
def card(device: torch.device) -> torch.device:
    if device.type != "cuda":
        pytest.skip("needs a card")
    torch.manual_seed(0)
    return device


@contextmanager
def waiting_refused() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def whole_attention(query: Any, key: Any, value: Any, bias: Any, scale: float) -> tuple[Any, Any]:
    groups = query.shape[1] // key.shape[1]
    query, key, value = (x.double() for x in (query, key, value))
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = scale * query @ key.transpose(2, 3) + (0 if bias is None else bias.double())
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("columns", [40, 333, 1024])
def test_attention_of_leaves_equals_plain_products(
    card: torch.device, dtype: torch.dtype, masked: bool, columns: int
) -> None:
    def random(*size: int) -> Any:
        return torch.randn(*size, device=card).to(dtype)

    query, key, value = random(2, 6, 37, 64), random(2, 2, columns, 64), random(2, 2, columns, 64)
    seen = torch.rand(2, 37, columns, device=card) < 0.7
    seen[0, 3] = False  # a leaf that sees none of these keys
    bias = bias_of(seen, dtype) if masked else None
    output, lse = attention_with_lse(query, key, value, bias, 0.125)
    expected, sums = whole_attention(query, key, value, bias, 0.125)
    if masked:
        output, expected = output.clone(), expected.clone()
        output[0, :, 3], expected[0, :, 3] = 0, 0
        assert (lse[0, :, 3] < -1000).all()
        lse, sums = lse.clone(), sums.clone()
        lse[0, :, 3], sums[0, :, 3] = 0, 0
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=close)
    torch.testing.assert_close(lse.double(), sums, rtol=0, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("width", [64, 128])
def test_attention_over_ranges_equals_plain_products(
    card: torch.device, dtype: torch.dtype, parts: int, width: int
) -> None:
    if dtype == torch.float32:
        parts = 1
    query = torch.randn(5, 12, 1, width, device=card).to(dtype)
    key, value = (
        torch.randn(5, 700, 2, width, device=card).to(dtype).transpose(1, 2) for _ in range(2)
    )
    column = torch.arange(700, device=card)
    first = torch.tensor([0, 3, 350, 640, 641], device=card)[:, None]
    visible = (column >= first) & (column <= 642)
    output, lse = over_ranges(query, key, value, Ranges.of(first, 643 - first, 700, parts), 0.1)
    bias = torch.zeros(5, 1, 1, 700, device=card).masked_fill(~visible[:, None, None], -1e9)
    expected, sums = whole_attention(query, key, value, bias, 0.1)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(lse.double(), sums, rtol=0, atol=close)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=close)


def test_a_product_of_short_formats_is_summed_in_float32(card: torch.device) -> None:
    left, right = (torch.randn(300, n, device=card).bfloat16() for n in (512, 96))
    total = torch.randn(512, 96, device=card)
    expected = total.double() + left.t().double() @ right.double()
    _add_product(total, left.t(), right)
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=1e-3)


def decoded(model: Any, way: str, rows: int) -> Decoded:
    draw = Draw(1.0, 1.0, 4, None, 24, (2, 7, 11, 23))
    with sampling_mode(model), torch.no_grad():
        return decode(model, PROMPTS, range(7), draw, rows, way=Manner(way))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", [*FAMILIES, *STATES])
def test_a_recorded_step_draws_what_the_models_own_draws(card: torch.device, family: str) -> None:
    model: Any = small_model(family).to(card)  # type: ignore[arg-type]
    assert static_step.fits(model)
    if family in ROUTED:
        # torch's grouped products of float32 go through the host.
        with pytest.raises(RuntimeError, match="capture"):
            decoded(model, "static", 7)
        torch.cuda.synchronize()
        return
    ways = ("static", "lean") if lean_step.fits(model) else ("static",)
    assert len(ways) == 1 + (family in ("llama", "qwen2", "qwen3"))
    for rows, way in itertools.product((3, 7), ways):
        ours, plain = decoded(model, way, rows), decoded(model, "plain", rows)
        for one, other in zip(ours.responses, plain.responses, strict=True):
            assert torch.equal(one, other)
        for name, value in vars(plain.recorded).items():
            torch.testing.assert_close(getattr(ours.recorded, name), value, rtol=0, atol=5e-5)


@pytest.mark.parametrize("way", ["static", "lean"])
def test_a_model_on_a_card_that_is_not_the_current_one_says_the_same(
    card: torch.device, way: str
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two cards")
    found: list[list[torch.Tensor]] = []
    for place in (card, torch.device("cuda", 1)):
        model: Any = small_model("qwen3", head_dim=16).to(place, torch.bfloat16)  # type: ignore[call-overload]
        said = decoded(model, way, 7)
        rollout = random_rollout([4, 2], [7, 4]).to(place)
        scores = Teacher(model).probe().score(rollout, Questions(rollout.candidates))
        found.append([*said.responses, said.recorded.log_prob, scores.log_prob, scores.confidence])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), equal_nan=True)


@pytest.mark.parametrize("family", [*FAMILIES, *STATES])
def test_the_quickest_manner_on_a_card_is_a_recorded_step(card: torch.device, family: str) -> None:
    from opdlab.sampling import decoding
    from opdlab.sampling.manner import manner

    model: Any = small_model(family).to(card, torch.bfloat16)  # type: ignore[call-overload]
    with sampling_mode(model), torch.no_grad():
        quicker = decoding._quicker(model)
        found = manner(model, 60, quicker, lambda way, few: decoding._trial(model, way, few))
    assert found.step == ("lean" if lean_step.fits(model) else "static")


def test_no_step_waits_for_the_device(card: torch.device) -> None:
    model: Any = small_model("llama").to(card)  # type: ignore[arg-type]
    draw = Draw(1.0, 1.0, 4, None, 24, ())
    for way in ("lean", "static", "plain"):
        with sampling_mode(model), torch.no_grad():
            decoder = Decoder(
                model,
                PROMPTS,
                range(7),
                draw,
                Room(7),
                Records(draw),
                Manner(way),  # type: ignore[arg-type]
            )
            uniform = begun(decoder, 7, card)
            with waiting_refused():
                decoder._step(uniform, 1)
                decoder._step(uniform, 2)
        assert isinstance(decoder.step, {"plain": ModelStep, "lean": LeanStep}.get(way, StaticStep))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_leaves_of_a_long_row_say_on_the_device_what_they_say_on_the_host(
    device: torch.device, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long enough for several steps of leaves, each with a block of keys that all of it see."""
    monkeypatch.setattr(leaf_attention, "_STAIR_ON_ACCELERATOR", 600)
    rollout = random_rollout([4, 2], [700, 420])
    there = Teacher(small_model(family).to(device)).probe()  # type: ignore[arg-type]
    here = Teacher(small_model(family)).probe()
    expected = here.score(rollout, Questions(rollout.candidates))
    found = there.score(rollout.to(device), Questions(rollout.candidates.to(device)))
    torch.testing.assert_close(
        found.confidence.cpu(), expected.confidence, rtol=0, atol=2e-5, equal_nan=True
    )
    torch.testing.assert_close(found.log_prob.cpu(), expected.log_prob, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [50, 4096, 9001, 151_936])
def test_rows_read_once_say_what_plain_operations_say(
    card: torch.device, dtype: torch.dtype, size: int
) -> None:
    from opdlab.modelling.row_kernel import row_statistics

    logits = (3 * torch.randn(7, size, device=card)).to(dtype)
    target = torch.randint(0, size, (7,), device=card)
    logits[1, 3], target[1] = -torch.inf, 3
    logits[2] -= 40
    logits[3, -1] = 60
    # A part of wider rows, as of a vocabulary that two models share.
    wide = torch.cat([logits, torch.full((7, 13), 99.0, device=card, dtype=dtype)], 1)
    found = row_statistics(wide[:, :size], target)
    expected = _statistics(in_float32(logits.clone()).clone(), target, True, None)[:3]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    without = row_statistics(logits, None)
    assert without[0].isnan().all()
    torch.testing.assert_close(without[1:], found[1:], rtol=1e-6, atol=1e-6)
    logits[4, 0] = torch.nan
    assert row_statistics(logits, target)[1:, 4].isnan().all()
    assert row_statistics(logits[:0], None).shape == (3, 0)


@pytest.mark.parametrize("width", [20, 64, 128])
@pytest.mark.parametrize("normed", [False, True])
def test_kernels_of_a_lean_step_say_what_plain_operations_say(
    card: torch.device, width: int, normed: bool
) -> None:
    from opdlab.sampling import step_kernels

    def random(*size: int) -> Any:
        return torch.randn(*size, device=card)

    rows, heads, groups, columns, parts = 3, 2, 6, 50, 4
    y, turn = random(rows, heads * (groups + 2), width), (random(rows, 1, width // 2),) * 2
    keys, values = (
        torch.zeros(rows, columns, heads, width, device=card).transpose(1, 2) for _ in range(2)
    )
    norms = ((random(width), 1e-6), (random(width), 1e-6)) if normed else None
    place = torch.tensor([7], device=card)
    found = step_kernels.turn_and_write(y, turn, norms, keys, values, place)
    query, key, value = y.split([heads * groups, heads, heads], 1)
    if norms is not None:
        query, key = (
            rms_norm(x, (width,), *norm) for x, norm in zip((query, key), norms, strict=True)
        )
    laid = _turned(query, *turn).unflatten(1, (heads, groups)).transpose(1, 2)
    torch.testing.assert_close(found, laid, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(keys[:, :, 7], _turned(key, *turn), rtol=1e-5, atol=1e-5)
    assert torch.equal(values[:, :, 7], value)
    assert int((keys != 0).any(-1).any(1).sum()) == rows, "another column was written"

    output, lse = random(rows, parts, groups, heads, width), random(rows, parts, groups, heads)
    count = torch.tensor([[3, 2, 1, 0], [1, 1, 1, 1], [5, 0, 0, 0]], device=card)
    empty = (count == 0)[..., None, None]
    weight = lse.masked_fill(empty, -torch.inf).softmax(1)[..., None]
    expected = (output * weight).sum(1).transpose(1, 2).reshape(rows, -1)
    found = step_kernels.merged(output, lse.masked_fill(empty, torch.inf), count)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gate, up = random(3, 700), random(3, 700)
    torch.testing.assert_close(step_kernels.gated(gate, up), silu(gate) * up, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("precision", ["weights", "autocast"])
def test_a_lean_step_in_half_precision_records_what_a_forward_says(
    card: torch.device, family: str, precision: str
) -> None:
    """The kernels, in a step that is recorded; against whole forwards in the same precision."""
    model: Any = small_model(family, head_dim=16).to(card)
    if precision == "weights":
        model.bfloat16()
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
        found = decoded(model, "lean", 7)
        gaps = []
        logs = found.recorded.log_prob.split([len(r) for r in found.responses])
        for prompt, response, log in zip(PROMPTS, found.responses, logs, strict=True):
            row = torch.tensor([[*prompt, *response.tolist()]], device=card)
            with torch.no_grad():
                said = model(input_ids=row).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            gaps.append((said.gather(1, response[:, None])[:, 0] - log).abs())
    assert float(torch.cat(gaps).mean()) < 0.02
