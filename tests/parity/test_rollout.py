"""The decode loop against the library's `generate`, and against a full forward for every row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from small_models import FAMILIES, STRETCHED, small_model
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.models.llama import modeling_llama

from opdlab.errors import DataError, ModelError, NonFiniteError
from opdlab.modelling.eval_mode import packed_weights, quicker_packed
from opdlab.records import Rollout
from opdlab.sampling.llama_step import fits
from opdlab.sampling.rollout import CachedEngine, GenerateEngine, RolloutEngine

EOS = (2, 7, 11, 23)
ENGINES = (CachedEngine, GenerateEngine)


def ragged(lengths: Sequence[int], vocabulary: int = 53, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


PROMPTS = ragged([1, 2, 5, 9, 17, 5, 3])


def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    engine: RolloutEngine | None = None,
    seeds: Sequence[int] | None = None,
    eos_ids: tuple[int, ...] = EOS,
    pad_id: int = 0,
    **kwargs: Any,
) -> Rollout:
    engine = engine or CachedEngine(max_new_tokens=24)
    seeds = range(len(prompts)) if seeds is None else seeds
    return engine.sample(model, prompts, seeds, eos_ids=eos_ids, pad_id=pad_id, **kwargs)


def responses(rollout: Rollout) -> list[list[int]]:
    return [part.tolist() for part in rollout.token.split(rollout.response_lengths.tolist())]


def assert_records_a_full_forward(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    rollout: Rollout,
    vocabulary: int | None = None,
    tolerance: float = 2e-5,
) -> None:
    """Every number of the record from one forward a row: no padding, no cache, no mask."""
    top_k, start = rollout.candidates.shape[1], 0
    for prompt, response in zip(prompts, responses(rollout), strict=True):
        here = slice(start, start + len(response))
        start += len(response)
        tokens = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
        log_probs = logits[:, :vocabulary].double().log_softmax(-1)
        expected = log_probs[range(len(response)), response]
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        best = log_probs.topk(top_k).values
        chosen = log_probs.gather(-1, rollout.candidates[here])
        for ours, theirs in (
            (rollout.log_prob[here], expected),
            (rollout.entropy[here], entropy),
            (chosen, best),
            (rollout.candidate_log_prob[here], best),  # type: ignore[index]
        ):
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance)
    assert start == len(rollout.log_prob)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_recorded_equals_a_full_forward_for_every_row(family: str) -> None:
    model = small_model(family)
    rollout = sample(model, top_k=4, max_rows=3)
    assert rollout.response_lengths.unique().numel() > 2, "rows must end at different times"
    assert_records_a_full_forward(model, PROMPTS, rollout)


SMALL_LLAMAS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one key head": {"num_key_value_heads": 1},
    "as many key heads": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 20},
    "tied": {"tie_word_embeddings": True},
    "llama3 positions": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "scaled positions": {
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    },
}


@pytest.mark.parametrize("shape", SMALL_LLAMAS)
def test_a_small_llamas_own_step_equals_the_library_s(shape: str) -> None:
    model = small_model("llama", **SMALL_LLAMAS[shape])
    assert fits(model)
    written_out = sample(model, top_k=4, max_rows=3)
    assert_records_a_full_forward(model, PROMPTS, written_out)
    # A hook must see every forward, so the library's is taken.
    calls: list[int] = []
    model.model.layers[1].register_forward_hook(lambda *_: calls.append(1))
    assert not fits(model)
    library = sample(model, top_k=4, max_rows=3)
    assert len(calls) >= library.response_lengths.max()
    assert torch.equal(written_out.tokens, library.tokens)
    assert torch.allclose(written_out.log_prob, library.log_prob, atol=1e-5)


class _Doubled(torch.nn.Linear):
    """Computes something else, as adapters and quantised layers do."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_the_small_step_is_not_taken_for_a_model_that_computes_something_else() -> None:
    replaced = small_model("llama")
    mlp = replaced.model.layers[0].mlp
    mlp.up_proj = _Doubled(32, 48, bias=False)
    changed = [
        replaced,
        small_model("llama", attention_bias=True),
        small_model("llama", mlp_bias=True),
        small_model("llama", hidden_act="gelu"),
        small_model("llama", hidden_size=520),
        small_model("llama").to(torch.bfloat16),
        small_model("qwen2"),
        small_model("mistral", sliding_window=None),
    ]
    for model in changed:
        assert not fits(model)
    assert_records_a_full_forward(replaced, PROMPTS, sample(replaced))
    with torch.autocast("cpu", torch.bfloat16):
        assert not fits(small_model("llama"))


def _with_a_bias(model: Any) -> None:
    model.model.layers[1].mlp.down_proj.bias = torch.nn.Parameter(torch.ones(32))


def _in_another_order(model: Any) -> None:
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[::-1])


def _in_fewer_layers(model: Any) -> None:
    model.config.num_hidden_layers = 2


def _in_float64(model: Any) -> None:
    model.double()


@pytest.mark.parametrize("change", [_with_a_bias, _in_another_order, _in_fewer_layers, _in_float64])
def test_a_model_that_was_changed_since_it_was_sampled_is_tried_anew(
    change: Callable[[Any], None],
) -> None:
    model = small_model("llama")
    sample(model)
    change(model)
    assert_records_a_full_forward(model, PROMPTS, sample(model))


@pytest.mark.parametrize(
    "patched", ["LlamaMLP.forward", "apply_rotary_pos_emb", "attention", "sdpa", "product", "hook"]
)
def test_code_that_was_patched_since_a_model_was_sampled_is_tried_anew(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, patched: str
) -> None:
    model = small_model("llama")
    sample(model)
    mlp = modeling_llama.LlamaMLP.forward
    if patched == "LlamaMLP.forward":
        monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: 2 * mlp(self, x))
    elif patched == "attention":
        attend = AttentionInterface()["sdpa"]
        AttentionInterface.register("doubled", lambda *a, **k: (2 * attend(*a, **k)[0], None))
        AttentionMaskInterface.register("doubled", AttentionMaskInterface()["sdpa"])
        model.set_attn_implementation("doubled")
    elif patched == "sdpa":
        attend = AttentionInterface()["sdpa"]
        twice = lambda *a, **k: (2 * attend(*a, **k)[0], None)  # noqa: E731
        monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", twice)
    elif patched == "product":
        product = torch.nn.functional.scaled_dot_product_attention
        twice = lambda *a, **k: 2 * product(*a, **k)  # noqa: E731
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", twice)
    elif patched == "hook":
        twice = lambda m, _, x: 2 * x if isinstance(m, modeling_llama.LlamaMLP) else None  # noqa: E731
        hook = torch.nn.modules.module.register_module_forward_hook(twice)
        request.addfinalizer(hook.remove)
    else:
        monkeypatch.setattr(modeling_llama, patched, lambda query, key, *_, **__: (query, key))
    assert_records_a_full_forward(model, PROMPTS, sample(model))


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2", "gemma3", "bloom"])
@pytest.mark.parametrize("max_rows", [None, 2])
def test_greedy_tokens_are_those_of_generate(family: str, max_rows: int | None) -> None:
    """`mistral` attends to 7 tokens, `gemma3` does so in some layers; rows are up to 41 long."""
    model = small_model(family)
    ours = sample(model, engine=CachedEngine(max_new_tokens=24, temperature=0.0), max_rows=max_rows)
    for prompt, response in zip(PROMPTS, responses(ours), strict=True):
        whole = model.generate(  # type: ignore[operator]
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=list(EOS),
            pad_token_id=0,
        )
        assert response == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8), (0.0, 1.0)])
@pytest.mark.parametrize("vocabulary", [None, 30])
def test_both_engines_return_the_same_rollout(
    family: str, temperature: float, top_p: float, vocabulary: int | None
) -> None:
    model = small_model(family)
    one, other = (
        sample(
            model,
            engine=engine(max_new_tokens=24, temperature=temperature, top_p=top_p),
            top_k=3,
            vocabulary=vocabulary,
        )
        for engine in ENGINES
    )
    for name in ("tokens", "prompt_lengths", "response_lengths", "ended", "seeds", "candidates"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.allclose(one.log_prob, other.log_prob, atol=1e-5)
    assert torch.allclose(one.entropy, other.entropy, atol=1e-5)
    if vocabulary is not None:
        assert one.token.max() < vocabulary
        assert_records_a_full_forward(model, PROMPTS, one, vocabulary)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_is_the_same_alone_and_in_any_batch_order_and_width(
    engine: type[RolloutEngine],
) -> None:
    model, engine = small_model("llama"), engine(max_new_tokens=24)
    prompts, seeds = ragged([4, 1, 9, 3, 3, 12, 2, 6]), [5, 6, 2**40, 0, -3, 77, 8, 9]
    whole = responses(sample(model, prompts, engine, seeds))
    for max_rows in (1, 3, 8, 100):
        assert responses(sample(model, prompts, engine, seeds, max_rows=max_rows)) == whole
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        assert responses(sample(model, [prompt], engine, [seed])) == [whole[row]]
    order = [3, 7, 0, 6, 2, 5, 1, 4]
    shuffled = sample(
        model, [prompts[i] for i in order], engine, [seeds[i] for i in order], max_rows=4
    )
    assert responses(shuffled) == [whole[i] for i in order]


def test_the_seed_makes_the_response_and_no_global_state_does() -> None:
    model = small_model("llama")
    prompts = [PROMPTS[3]] * 6
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    one = responses(sample(model, prompts, seeds=[1, 2, 3, 1, 2, 3]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one[:3] == one[3:]
    assert len({tuple(row) for row in one[:3]}) == 3


def test_many_rows_through_few_places_with_growing_buffers() -> None:
    """Buffers double, rows are dropped and places refilled many times, prompts repeat."""
    model = small_model("llama", max_position_embeddings=1024)
    prompts = ragged([1, 30, 2, 2, 11, 1, 5]) * 6
    rollout = sample(
        model, prompts, CachedEngine(max_new_tokens=300), eos_ids=(2,), max_rows=5, top_k=2
    )
    assert rollout.response_lengths.max() > 256
    assert rollout.response_lengths.min() < 20
    assert_records_a_full_forward(model, prompts, rollout)


def test_frequencies_are_the_models_own() -> None:
    """Two tokens of a 5-token vocabulary, each pair against the product of its probabilities."""
    model = small_model("llama", vocab_size=5)
    count, prompt = 8000, [3, 4]
    rollout = sample(
        model, [prompt] * count, CachedEngine(max_new_tokens=2), eos_ids=(), max_rows=3000
    )
    pairs = torch.stack([rollout.token[::2], rollout.token[1::2]])
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        after = torch.tensor([[*prompt, token] for token in range(5)])
        second = model(after).logits[:, -1].double().softmax(-1)
    expected = (first[:, None] * second).flatten() * count
    observed = torch.bincount(pairs[0] * 5 + pairs[1], minlength=25)
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert chi2.sf(statistic, 24) > 0.01


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pad_id", [0, 2])
def test_the_sampled_eos_is_kept_and_nothing_after_it(
    engine: type[RolloutEngine], pad_id: int
) -> None:
    """Also when the filler is the EOS itself."""
    model = small_model("llama")
    rollout = sample(model, engine=engine(max_new_tokens=10), pad_id=pad_id)
    rows = responses(rollout)
    assert 0 < rollout.ended.sum() < len(rows)
    for row, ended in zip(rows, rollout.ended.tolist(), strict=True):
        assert not set(row[:-1]) & set(EOS)
        assert (row[-1] in EOS) == ended
        assert ended or len(row) == 10
    assert rollout.is_eos.sum() == rollout.ended.sum()
    width = rollout.tokens.shape[1]
    beyond = torch.arange(width) >= (rollout.prompt_lengths + rollout.response_lengths)[:, None]
    assert (rollout.tokens[beyond] == pad_id).all()
    assert width == (rollout.prompt_lengths + rollout.response_lengths).max()
    for row, prompt in zip(rollout.tokens.tolist(), PROMPTS, strict=True):
        assert row[: len(prompt)] == prompt


@pytest.mark.parametrize("engine", ENGINES)
def test_a_response_may_be_one_token(engine: type[RolloutEngine]) -> None:
    model = small_model("llama")
    cut = sample(model, engine=engine(max_new_tokens=1), eos_ids=(), top_k=2)
    assert cut.response_lengths.tolist() == [1] * len(PROMPTS)
    assert not cut.ended.any()
    assert_records_a_full_forward(model, PROMPTS, cut)
    # Whatever was sampled ends the response when every token does.
    stopped = sample(model, engine=engine(max_new_tokens=24), eos_ids=tuple(range(53)))
    assert torch.equal(stopped.tokens, cut.tokens)
    assert stopped.ended.all()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_checkpoint_says_of_sampling_is_ignored(engine: type[RolloutEngine]) -> None:
    model = small_model("llama")
    plain = sample(model, engine=engine(max_new_tokens=24))
    meant = GenerationConfig(
        repetition_penalty=5.0, temperature=0.1, top_k=1, do_sample=True, min_new_tokens=20
    )
    model.generation_config = meant
    assert torch.equal(sample(model, engine=engine(max_new_tokens=24)).tokens, plain.tokens)
    assert model.generation_config is meant


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("max_rows", [1, 3, None])
def test_each_response_is_handed_over_when_it_ends(engine, max_rows) -> None:
    said: dict[int, list[int]] = {}
    rollout = sample(
        small_model("llama"),
        engine=engine(max_new_tokens=24),
        max_rows=max_rows,
        on_response=said.__setitem__,
    )
    lengths = zip(rollout.prompt_lengths.tolist(), rollout.response_lengths.tolist(), strict=True)
    expected = [
        rollout.tokens[row, start : start + length].tolist()
        for row, (start, length) in enumerate(lengths)
    ]
    assert [said[row] for row in range(len(PROMPTS))] == expected
    assert len(set(map(len, expected))) > 1


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_listener_raises_ends_the_sampling(engine) -> None:
    def stop(row: int, tokens: list[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(small_model("llama"), engine=engine(max_new_tokens=24), on_response=stop)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["llama", "llama-dynamic"])
def test_a_model_trains_on_what_it_sampled(engine: type[RolloutEngine], family: str) -> None:
    """No tensor of the sampling stays barred from autograd, in the rollout or in the model."""
    changes = {"max_position_embeddings": 64} if family == "llama-dynamic" else {}
    model = small_model(family, attention_dropout=0.5, **changes).train()
    model.model.layers[0].eval()
    rollout = sample(model, engine=engine(max_new_tokens=8), top_k=2)
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
    tensors = [value for value in vars(rollout).values() if isinstance(value, torch.Tensor)]
    assert not any(tensor.is_inference() for tensor in tensors)
    assert not any(tensor.is_inference() for tensor in [*model.buffers(), *model.parameters()])
    log_probs = model(rollout.tokens).logits[rollout.row, rollout.column - 1].log_softmax(-1)
    ratio = (log_probs[range(len(rollout.token)), rollout.token] - rollout.log_prob).exp()
    (ratio * rollout.entropy).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_sampling_under_autocast_does_not_starve_the_training_forward() -> None:
    model = small_model("llama")
    with torch.autocast("cpu", torch.bfloat16):
        rollout = sample(model)
        model(rollout.tokens).logits.float().logsumexp(-1).mean().backward()
    assert rollout.log_prob.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bfloat16_model_records_float32(engine: type[RolloutEngine]) -> None:
    model = small_model("llama").to(torch.bfloat16)
    rollout = sample(model, engine=engine(max_new_tokens=24), top_k=2)
    assert rollout.log_prob.dtype == rollout.entropy.dtype == torch.float32
    assert_records_a_full_forward(model, PROMPTS, rollout, tolerance=0.2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_packed_weights_give_the_products_of_plain_ones_and_are_put_back(family: str) -> None:
    model = small_model(family).to(torch.bfloat16)
    tokens = torch.randint(3, 40, (3, 7))
    with torch.no_grad():
        plain = model(tokens).logits
        with packed_weights(model):
            layers = [layer for layer in model.modules() if "forward" in vars(layer)]
            packed = model(tokens).logits
            assert not quicker_packed(model), "none is packed twice"
    # On a processor without bfloat16 instructions nothing is quicker packed.
    quicker = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (model.get_output_embeddings() in layers) == quicker
    torch.testing.assert_close(packed, plain, atol=0.02, rtol=0.02)
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_a_wide_vocabulary_is_projected_and_searched_exactly() -> None:
    """Large enough for the projection that is asked of oneDNN, and for the search by blocks."""
    model = small_model("llama", vocab_size=33_001)
    assert model.get_output_embeddings().weight.numel() > 1 << 20
    rollout = sample(model, engine=CachedEngine(max_new_tokens=6), top_k=8)
    assert_records_a_full_forward(model, PROMPTS, rollout)
    reference = sample(model, engine=GenerateEngine(max_new_tokens=6))
    assert torch.equal(rollout.tokens, reference.tokens)
    assert "forward" not in vars(model.get_output_embeddings())


def test_tokens_that_a_model_masks_are_never_sampled() -> None:
    model = small_model("llama")
    head = torch.nn.Linear(32, 53)
    head.weight = model.get_output_embeddings().weight
    head.bias.data.zero_()[:40] = -torch.inf
    model.set_output_embeddings(head)
    rollout = sample(model, eos_ids=())
    assert rollout.token.min() >= 40
    assert rollout.entropy.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_that_are_not_numbers_stop_with_row_and_position(
    engine: type[RolloutEngine],
) -> None:
    model = small_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[51] = torch.nan
    prompts = [[5, 6], [5, 51, 6]]
    with pytest.raises(NonFiniteError, match="prompt 1 at response position 0 is nan"):
        sample(model, prompts, engine(max_new_tokens=4), vocabulary=40)


@pytest.mark.parametrize("family", STRETCHED)
def test_rotary_frequencies_that_move_with_length_are_refused(family: str) -> None:
    """Cached keys of shorter sequences would be wrong; within the original length all is well."""
    model = small_model(family)
    with pytest.raises(ModelError, match=r"change beyond \d+ positions"):
        sample(model)
    prompts = ragged([1, 2, 3])
    assert_records_a_full_forward(
        model, prompts, sample(model, prompts, CachedEngine(max_new_tokens=5))
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        ([], [], "no prompts"),
        ([[3], []], [0, 1], "prompt 1 has no tokens"),
        ([[3], [4]], [0], "2 prompts but 1 seeds"),
    ],
)
def test_unusable_prompts_are_refused(
    engine: type[RolloutEngine], prompts: list[list[int]], seeds: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sample(small_model("llama"), prompts, engine(), seeds)
