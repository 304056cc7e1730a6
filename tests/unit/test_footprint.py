"""Plans, made without weights and without running, against what models really hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import stores
import torch
from small_models import FAMILIES, INDEXED, OWN_WAYS, STRETCHED, small_model
from typer.testing import CliRunner
from unit.test_ends import experiment

from opdlab.bench.holdings import measure, scored
from opdlab.cli.bench import app
from opdlab.errors import OutOfReachError
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.jsd import JSD
from opdlab.methods.sft import SFT
from opdlab.modelling import recurrent_layers, taken_over
from opdlab.planning import loss_rows, passes
from opdlab.planning.footprint import (
    Held,
    activations,
    alike,
    build,
    cached,
    contentless,
    kept_for_backward,
    kept_of_a_token,
    layers,
    over_layers,
    packed,
    sizes,
)
from opdlab.planning.loss_rows import held, loss_bytes, rows_held, told_bytes, told_to
from opdlab.planning.phases import SAMPLING, UPDATING, Site, memory
from opdlab.planning.scored_rows import ScoredRows
from opdlab.sampling.decode_step import without_states
from opdlab.sampling.decoder import most_columns
from opdlab.sampling.growing_cache import GrowingCache, PrefilledCache
from opdlab.sampling.rollout import CachedEngine

ROWS, LENGTH = 2, 150
CACHED = ("llama", "gemma3", "gpt2", "gpt_bigcode", "qwen3_moe", "deepseek_v3", "llama-dynamic")
# Kinds of recurrent layers, and of configurations that compute what kinds they have.
STATEFUL = ("qwen3_5", "lfm2-conv", "bamba", "zamba2", "minimax", "mamba", "recurrent_gemma")
ALL = (*FAMILIES, *STATEFUL, *STRETCHED, *OWN_WAYS, *INDEXED)


@pytest.mark.parametrize("family", ALL)
def test_what_a_model_of_any_family_holds_is_planned_within_a_tenth(family: str) -> None:
    model = small_model(family)
    # A loop over tokens takes a second for ten of them.
    length = 40 if family in ("rwkv", "mamba") else LENGTH
    found = {one.what: one for one in measure(model, ROWS, length)}
    assert {"weights", "activations of a step"} <= set(found)
    for one in found.values():
        assert one.planned == pytest.approx(one.measured, rel=0.1), one
    if family in CACHED:
        assert len(found) == 4 + (family in ("gpt2", "gpt_bigcode")), found


@pytest.mark.parametrize(
    "family", ["gpt2", "gemma3", "deepseek_v3", "modernbert-decoder", "qwen3_5"]
)
def test_few_layers_of_each_kind_tell_what_all_hold(family: str) -> None:
    config: Any = copy.deepcopy(small_model(family).config)
    text = config.get_text_config()
    if types := getattr(text, "layer_types", None):
        text.layer_types = [*types, *types]
    text.num_hidden_layers *= 2
    with contentless():
        model, tokens = build(config, torch.float32).eval(), torch.zeros(2, 17, dtype=torch.long)
        assert len(layers(model)) > 1 + len(alike(model))
        for measured in (
            kept_of_a_token,
            lambda some: kept_for_backward(some, tokens),
            lambda some: sum(one.numel() for one in cached(some, tokens)),
        ):
            assert over_layers(model, measured) == measured(model)
        assert kept_for_backward(model, tokens) > 0


def test_weights_that_layers_share_are_counted_once() -> None:
    config: Any = copy.deepcopy(small_model("zamba2").config)
    config.num_hidden_layers, config.hybrid_layer_ids = 3, [1, 2]
    kinds = ["hybrid" if n in config.hybrid_layer_ids else "linear_attention" for n in range(3)]
    config.layers_block_type = kinds
    found = sizes(config, torch.float32)
    outside = (config.vocab_size + 1) * config.hidden_size  # embeddings and the last norm
    assert found.parameters - found.layered == outside
    assert 0 < found.gathered < found.parameters


@pytest.mark.parametrize("lone", [2, 3])
def test_what_few_layers_do_not_show_is_measured_of_all(lone: int) -> None:
    """Of three layers alike, nothing is seen where there are two, or where there is one."""

    def seen(some: Any) -> int:
        count = len(layers(some))
        return 0 if (count == 2 if lone == 2 else count < 2) else 10 * count

    assert over_layers(small_model("llama"), seen) == 30


LOW = torch.bfloat16
# Whole rows and rows in pieces, none, few and all positions asked about, alone and of one prompt; a tree,
# one of several stretches, and whole forwards.
SCORED = [
    ("llama", torch.float32, ScoredRows(2, 10, 600)),
    ("llama", LOW, ScoredRows(5, 10, 100, top_k=4)),
    # Chains of keys that are computed together with queries and values.
    ("phi3", torch.float32, ScoredRows(2, 10, 30, top_k=4, steps=4)),
    ("gemma3", torch.float32, ScoredRows(2, 10, 300, top_k=4, active=0.05)),
    ("deepseek_v3", torch.float32, ScoredRows(2, 10, 600)),
    ("bloom", torch.float32, ScoredRows(2, 10, 600)),
    ("qwen3_moe", LOW, ScoredRows(4, 60, 40, group=2, top_k=3, active=0.3)),
    ("phi3-longrope", torch.float32, ScoredRows(2, 10, 90, top_k=2, active=0.5)),
    ("gpt2", torch.float32, ScoredRows(3, 20, 100, group=3, top_k=2, active=0.2, full=True)),
    ("llama-dynamic", torch.float32, ScoredRows(1, 10, 40, top_k=2, active=0.2)),
    # A forward for each token; layers that attend twice; trials of longer rows than scored; chunks.
    ("llama-dynamic", torch.float32, ScoredRows(2, 1, 79)),
    ("diffllama", torch.float32, ScoredRows(2, 1, 40, top_k=4)),
    ("minimax", torch.float32, ScoredRows(2, 10, 140, top_k=2, active=0.05)),
    ("llama4", torch.float32, ScoredRows(2, 1, 149, top_k=4)),
    ("phi3-longrope", torch.float32, ScoredRows(2, 1, 40, top_k=4)),
    # The trial's own rows, shared, in pieces, along chains, and again beyond a window.
    ("olmo2", torch.float32, ScoredRows(1, 1, 7)),
    ("llama", torch.float32, ScoredRows(1, 1, 7, top_k=1, steps=2)),
    ("mixtral", torch.float32, ScoredRows(1, 1, 7, top_k=4)),
    # A window beyond all rows, tried at load; tokens that layers count, beyond which no tree is right.
    ("modernbert-decoder", torch.float32, ScoredRows(1, 1, 12)),
    ("llama4-floor", torch.float32, ScoredRows(1, 1, 20, top_k=1)),
    # A window in a configuration of a model that is not scored by the tree.
    ("diffllama", torch.float32, ScoredRows(1, 1, 7)),
    # Chains that are not taken, as they end where the tree is not right, or keep a state.
    ("phi3-longrope", torch.float32, ScoredRows(1, 1, 14, top_k=2, steps=3)),
    ("lfm2-conv", torch.float32, ScoredRows(1, 1, 20, top_k=1, steps=2)),
    # States that are sums, or convolutions alone.
    ("qwen3_5", torch.float32, ScoredRows(2, 5, 35, top_k=4)),
    ("lfm2-conv", torch.float32, ScoredRows(2, 1, 40, top_k=4)),
]
WHOLE = (
    "ignore:(candidates of )?(Bloom|DiffLlama|MiniMax|Llama4|Lfm2)ForCausalLM "
    "(is scored by|depends on more|are followed)"
)


@pytest.mark.filterwarnings(WHOLE)
@pytest.mark.parametrize(("family", "dtype", "asked"), SCORED)
def test_what_a_teacher_holds_while_it_scores_is_planned_within_a_tenth(
    family: str, dtype: torch.dtype, asked: ScoredRows
) -> None:
    room = "n_positions" if family == "gpt2" else "max_position_embeddings"
    changes = {} if family in STRETCHED else {room: 1024}
    if family == "modernbert-decoder":
        changes["local_attention"] = 32
    elif family == "diffllama":
        changes["sliding_window"] = 8
    model: Any = small_model(family, **changes)
    one = scored(model.to(dtype), asked)
    assert one.planned == pytest.approx(one.measured, rel=0.1), one.ratio


@pytest.mark.parametrize(
    "asked", [ScoredRows(1, 1, 7), ScoredRows(1, 8, 192), ScoredRows(1, 8, 32, top_k=4)]
)
def test_what_is_said_over_a_wide_vocabulary_is_planned(asked: ScoredRows) -> None:
    one = scored(small_model("llama", vocab_size=8000), asked)
    assert one.planned == pytest.approx(one.measured, rel=0.1), one.ratio


@pytest.mark.parametrize("family", ["llama", "llama4-floor"])
def test_a_teacher_of_several_runs_is_tried_once(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    tried: list[int] = []

    def counted(_plan: passes._Plan, _followed: bool) -> int:
        tried.append(0)
        return 0

    monkeypatch.setattr(passes._Plan, "_held_by_trial", counted)
    monkeypatch.setattr(passes._Plan, "held", lambda *_: 0)  # of which each would take seconds
    config = small_model(family, vocab_size=71).config  # which no other test plans
    for top_k in (0, 4):
        passes.scoring(config, torch.float32, ScoredRows(2, 3, 5, top_k=top_k))
    assert len(tried) == 1


@torch.no_grad()
def go_on(model: Any) -> list[bool]:
    """Whether each recurrent layer goes on from a state with several tokens."""
    found: list[bool] = []

    def mix(layer: Any, inputs: Any, arguments: dict[str, Any]) -> Any:
        column = torch.arange(inputs.shape[1])[None]
        found.append(layer._goes_on(inputs, column, arguments))
        return layer.run(inputs, None, column, arguments)[0]

    cache: Any = PrefilledCache(1, torch.device("cpu"))
    with taken_over(recurrent_layers(model), mix):
        model(input_ids=torch.arange(8)[None] + 3, **without_states(model, cache))
    return found


@pytest.mark.parametrize("family", ["mamba", "jamba", "qwen3_5", "minimax", "lfm2-conv"])
def test_which_layers_begin_anew_with_several_tokens_is_known_without_content(family: str) -> None:
    """They take most in a row's first piece, others in its last one."""
    model = small_model(family)
    with contentless():
        planned = go_on(build(model.config, torch.float32).eval())
    assert planned == go_on(model)


@pytest.mark.parametrize(
    ("family", "active", "piece", "response"),
    [("qwen3", 0.05, 300, 900), ("qwen3", 1.0, 300, 900), ("lfm2-conv", 0.2, 24, 72)],
)
def test_the_plan_counts_the_pieces_of_a_long_row(
    monkeypatch: pytest.MonkeyPatch, family: str, active: float, piece: int, response: int
) -> None:
    for module in ("scoring.teacher", "planning.passes"):
        monkeypatch.setattr(f"opdlab.{module}.trunk_piece", lambda width: piece)
    asked = ScoredRows(2, 5, response, top_k=3, active=active)
    one = scored(small_model(family, max_position_embeddings=1024), asked)
    assert one.planned == pytest.approx(one.measured, rel=0.1), one.ratio


def held_by_the_engine(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    prompts: list[int],
    new: int,
    places: int,
    eos_ids: tuple[int, ...] = (),
) -> int:
    """Bytes of the buffers for keys and values, at most, while answers of so many tokens are sampled."""
    held: list[int] = []
    move = GrowingCache._move

    def moved(cache: GrowingCache, *where: Any) -> None:
        move(cache, *where)
        buffers = (one for layer in cache.layers for one in layer.buffers)
        held.append(sum(one.untyped_storage().nbytes() for one in buffers))

    monkeypatch.setattr(GrowingCache, "_move", moved)
    asked = [[3 + place % 50 for place in range(n)] for n in prompts]
    CachedEngine(max_new_tokens=new).sample(
        model, asked, range(len(asked)), eos_ids=eos_ids, pad_id=0, max_rows=places
    )
    return max(held)


@pytest.mark.parametrize("family", ["llama", "deepseek_v3"])
def test_keys_and_values_that_the_engine_holds_are_planned(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = small_model(family)
    each = sizes(model.config, torch.float32).cache * 4
    # All at once, they grow to the known end: also where an eighth of the prompt is more than the answer.
    for prompts, new in (([20] * 4, 200), ([200, 9], 8)):
        held = held_by_the_engine(monkeypatch, model, prompts, new, len(prompts))
        assert held == pytest.approx(each * len(prompts) * (max(prompts) + new), rel=0.02)
    # Answers that end at different times leave places, which are filled again.
    held = held_by_the_engine(monkeypatch, model, [20, 60] * 5, 90, 3, (2,))
    assert each * 3 * 150 < held <= each * 3 * most_columns(150, 90, on_cpu=True)


@pytest.mark.parametrize("family", ["lfm2-conv", "kimi_linear", "mamba2", "recurrent_gemma"])
def test_states_and_keys_of_recurrent_models_are_planned(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model, held = small_model(family), [0]
    fill = GrowingCache.fill

    def filled(cache: GrowingCache, *what: Any) -> None:
        fill(cache, *what)
        assert cache.states is not None
        held.append(sum(part.nbytes for part in cache.states.tensors))

    monkeypatch.setattr(GrowingCache, "fill", filled)
    found, plan = [0], sizes(model.config, torch.float32)
    if plan.cache:
        found.append(held_by_the_engine(monkeypatch, model, [20] * 4, 30, 4))
    else:
        CachedEngine(max_new_tokens=3).sample(model, [[3, 4]] * 4, range(4), eos_ids=(), pad_id=0)
    assert max(held) == 4 * plan.states
    assert max(found) == pytest.approx(4 * 4 * plan.cache * 50, rel=0.03)


def test_states_are_there_once_while_prompts_of_any_length_are_prefilled() -> None:
    layers = {"num_hidden_layers": 12, "layer_types": ["conv"] * 12}
    model = small_model("lfm2-conv", conv_L_cache=64, **layers)
    prompts = [[3 + n] * (2 + n % 3) for n in range(8)]
    with Held(model) as held:
        CachedEngine(max_new_tokens=1).sample(model, prompts, range(8), eos_ids=(), pad_id=0)
    states = 8 * sizes(model.config, torch.float32).states
    assert states < held.peak < 1.5 * states


@pytest.mark.filterwarnings("ignore:Llama4ForCausalLM counts the tokens")
def test_rows_that_go_together_for_their_length_hold_what_is_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small_model("llama4-floor")
    model.config.save_pretrained(tmp_path)
    held = held_by_the_engine(monkeypatch, model, [20] * 6, 30, 3, (2,))
    engine = {"type": "cached", "max_new_tokens": 30}
    settings = {"steps": 1, "prompts_per_step": 6, "rollout_rows": 3}
    config = experiment(tmp_path, tmp_path, rollout=engine, training=settings)
    (plan,) = memory(config, 20, Site.on("cpu", config.training)).values()
    weights = packed(model.config, torch.float32)
    assert held == pytest.approx(plan.passing[SAMPLING] - weights, rel=0.1)


def test_frequencies_that_look_at_positions_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    known = STRETCHED["phi3-longrope"]
    scales = {"short_mscale": 1.1, "long_mscale": 1.3}
    settings = {"model_type": "phimoe", "num_local_experts": 4, "num_experts_per_tok": 2}
    settings |= {"rope_parameters": known["rope_parameters"] | scales}
    monkeypatch.setitem(FAMILIES, "phimoe", known | settings)
    for one in measure(small_model("phimoe"), ROWS, LENGTH):
        assert one.planned == pytest.approx(one.measured, rel=0.1), one


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("jetmoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8}),
        # Experts that are picked where there is something for them.
        (
            "longcat_flash",
            {
                **FAMILIES["deepseek_v3"],
                "expert_ffn_hidden_size": 16,
                "moe_topk": 2,
                "zero_expert_num": 2,
                "num_layers": 2,
            },
        ),
    ],
)
def test_a_model_that_looks_at_values_is_not_known_to_a_plan(
    monkeypatch: pytest.MonkeyPatch, family: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setitem(FAMILIES, family, settings)
    with pytest.raises(OutOfReachError, match="which a plan does not know"):
        activations(small_model(family).config, ROWS, LENGTH, torch.float32)


def test_the_command_shows_what_a_model_holds(tmp_path: Path) -> None:
    small_model("gpt2").config.save_pretrained(tmp_path)
    found = tmp_path / "found.json"
    options = ["--rows", "2", "--length", "24", "--json", str(found)]
    done = CliRunner().invoke(app, ["memory", "--model", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    assert "keys and values while scoring a row" in done.output
    (holdings,) = json.loads(found.read_text())["models"].values()
    assert [one["what"] for one in holdings[5:]] == [
        "scoring",
        "scoring, 4 candidates a position",
    ]


@pytest.mark.parametrize(
    ("method", "told", "copies"),
    [
        (SFT(), "nothing", 5),
        (ForwardKL(), "everything", 8),
        (JSD(), "everything", 12),
        (ForwardKL("top_k", 5), "tokens", 5),
        (ForwardKL(), "tokens", 5),
    ],
)
def test_what_a_loss_holds_of_the_vocabulary_is_planned_within_a_tenth(
    method: Any, told: Any, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss by tokens holds less than one over whole distributions."""
    assert rows_held(method, told) == pytest.approx(copies, abs=0.3)
    monkeypatch.setattr(loss_rows, "rows_at_a_time", lambda *_: (64, 8))
    planned = loss_bytes(method, told, 3000, torch.device("cpu"), 64)
    assert planned == pytest.approx(held(method, told, 3000, 64, 8), rel=0.1)


def test_a_store_of_tokens_needs_less_memory_than_one_of_whole_distributions(
    tmp_path: Path,
) -> None:
    stores.models(tmp_path)
    kinds = {"top_k:6": {"support": "top_k", "top_k": 5}, "drawn:4": {}, "hidden": {}}
    runs = {
        kind: stores.from_store(
            tmp_path, stores.made(tmp_path, kind, kind), {"type": "forward_kl"} | method
        )
        for kind, method in kinds.items()
    }
    assert {kind: told_to(run) for kind, run in runs.items()} == {
        "top_k:6": "tokens",
        "drawn:4": "tokens",
        "hidden": "everything",
    }
    assert [told_bytes(runs[kind]) for kind in ("top_k:6", "drawn:4")] == [7 * 12, 4 * 12]
    card = Site(torch.device("cuda"), torch.device("cuda"))
    needed = {kind: memory(run, 10, card)[""].passing[UPDATING] for kind, run in runs.items()}
    assert needed["drawn:4"] <= needed["top_k:6"] < needed["hidden"]
