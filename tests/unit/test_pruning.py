"""A pruned model is what its folder says, and what was cut is what mattered least."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_models import small_model

from opdlab.cli import main
from opdlab.configuration import Student, loader
from opdlab.errors import ConfigError, ModelError
from opdlab.modelling import drop_layers, layer_list, left_out, models
from opdlab.planning import hub_shapes
from opdlab.planning.footprint import footprint
from opdlab.pruning import Asked, cut_layers, cut_width, prune
from opdlab.pruning.cuts import changes, divergence, log_probs
from opdlab.training.pair import load_pair

TOKENS = torch.arange(24).reshape(1, 24) % 40
SAMPLE = [TOKENS[:, :12], TOKENS[:, 10:]]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def lazy(number: int, layers: int = 4) -> Any:
    """A Llama one of whose layers changes next to nothing, and of others one a little."""
    model: Any = small_model("llama", num_hidden_layers=layers)
    with torch.no_grad():
        for place, share in ((number, 1e-4), ((number + 2) % layers, 0.05)):
            for module in (
                model.model.layers[place].self_attn.o_proj,
                model.model.layers[place].mlp.down_proj,
            ):
                module.weight *= share
    return model


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"num_hidden_layers": 4}),
        ("qwen3", {"num_hidden_layers": 4}),
        (
            "gemma3",
            {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
        ),
        ("smollm3", {"num_hidden_layers": 4}),
    ],
)
def test_a_folder_without_layers_says_what_the_model_in_memory_says(
    tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    model: Any = small_model(family, **options)
    whole = logits(model)
    with left_out(model, 1):
        without = logits(model)
        assert len(layer_list(model)) == 3
    assert torch.equal(logits(model), whole)
    drop_layers(model, [1])
    assert torch.equal(logits(model), without)
    assert not torch.allclose(without, whole, atol=1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(models.load_model(str(tmp_path))), without)


def test_a_model_whose_configuration_cannot_tell_its_layers_is_refused() -> None:
    """Mixtures of experts say by number which layers are dense."""
    model = small_model("qwen3_moe", num_hidden_layers=3, mlp_only_layers=[2])
    with pytest.raises(
        ModelError, match=r"cannot be cut, because its configuration .* \(\d+ weights"
    ):
        drop_layers(model, [0])


def test_a_configuration_that_tells_another_computation_is_refused() -> None:
    """Its weights fit, and it computes something else of them."""
    model: Any = small_model("llama", num_hidden_layers=3)
    model.config.rms_norm_eps = 1.0
    with pytest.raises(ModelError, match=r"cannot be cut, .* \(its logits differ by"):
        drop_layers(model, [0])


@pytest.mark.parametrize("by", ["kl", "change"])
def test_the_layers_that_do_least_are_cut_first(by: Any) -> None:
    model = lazy(1)
    advanced: list[None] = []
    whole = log_probs(model, SAMPLE)
    cuts = cut_layers(model, SAMPLE, 2, by, lambda: advanced.append(None))
    assert [one.layer for one in cuts] == [1, 3]
    assert list(cuts[0].scores) == [0, 1, 2, 3]
    assert list(cuts[1].scores) == [0, 2, 3]
    assert 0 <= cuts[0].kl < 1e-4 < cuts[1].kl
    assert cuts[1].kl == pytest.approx(divergence(whole, log_probs(model, SAMPLE)), abs=1e-9)
    assert len(advanced) == (7 if by == "kl" else 2)
    with pytest.raises(ModelError, match="has 2 layers; cut at least 1 and at most 1"):
        cut_layers(model, SAMPLE, 2, by)


def test_a_divergence_is_the_mean_over_tokens_in_nats() -> None:
    before = [torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()]
    after = [torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()]
    first = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(0.5 / 0.75).log()
    assert divergence(before, after) == pytest.approx(float(first) / 3)


def test_a_layer_that_turns_its_input_round_changes_it_by_two() -> None:
    model: Any = small_model("llama", num_hidden_layers=2)
    layer = model.model.layers[1]
    layer.forward = lambda hidden_states, **_: -hidden_states
    assert changes(model, SAMPLE)[1] == pytest.approx(2, abs=1e-5)


def test_channels_that_carry_nothing_are_cut_for_nothing(tmp_path: Path) -> None:
    model: Any = small_model("llama", num_hidden_layers=2, intermediate_size=12)
    with torch.no_grad():
        for layer, idle in zip(model.model.layers, ([0, 5, 7, 8], [1, 2, 3, 11]), strict=True):
            layer.mlp.down_proj.weight[:, idle] = 0
    before = logits(model)
    assert cut_width(model, SAMPLE, 8) == pytest.approx(0, abs=1e-7)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(models.load_model(str(tmp_path))), before)
    assert models.load_config(str(tmp_path)).intermediate_size == 8
    with pytest.raises(ModelError, match="have 8 channels; keep between 1 and 7"):
        cut_width(model, SAMPLE, 8)


def test_the_command_writes_a_folder_with_a_card_that_tells_the_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = [
        "prune",
        "embedded:teacher",
        str(tmp_path / "small"),
        "--layers",
        "1",
        "--width",
        "100",
    ]
    monkeypatch.setattr(sys, "argv", ["opdlab", *words, "--sample", "quickstart", "--tokens", "96"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    record = json.loads((tmp_path / "small" / "pruning.json").read_text())
    deep = models.load_config("embedded:teacher").num_hidden_layers
    assert record["layers"] == [deep, deep - 1]
    assert f"{deep - 1} of {deep} layers" in capsys.readouterr().out
    config = models.load_config(str(tmp_path / "small"))
    assert (config.num_hidden_layers, config.intermediate_size) == (deep - 1, 100)
    card = (tmp_path / "small" / "README.md").read_text()
    (cut,) = record["cuts"]
    assert f"| 1 | {cut['layer']} | {min(cut['scores'].values()):.4f} | {cut['kl']:.4f} |" in card
    for layer, score in cut["scores"].items():
        assert f"| {layer} | {score:.4f} |" in card
    with pytest.raises(ModelError, match="is there already"):
        prune("embedded:teacher", tmp_path / "small", Asked(layers=1))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(), "say one of --layers N"),
        (Asked(layers=1, drop=(0,)), "say one of --layers N"),
        (Asked(drop=(7,), sample="quickstart"), "so layer 7 cannot be dropped"),
        (Asked(layers=1), "lacks characters of the built-in questions"),
        (Asked(layers=1, sample="nowhere.txt"), "give a text file"),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_a_remedy(
    tmp_path: Path, asked: Asked, said: str
) -> None:
    with pytest.raises((ConfigError, ModelError, ValueError), match=said):
        prune("embedded:student", tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()


def test_a_student_without_layers_is_trained_and_planned_as_such() -> None:
    config = loader.load_experiment("quickstart", ["student.drop_layers=[1]"])
    pair = load_pair(config)
    assert (
        len(layer_list(pair.student))
        == models.load_config("embedded:student").num_hidden_layers - 1
    )
    weights = sum(parameter.numel() for parameter in pair.student.parameters())
    assert footprint(config.student).parameters == weights
    assert hub_shapes.shape_of(config.teacher).num_hidden_layers == len(layer_list(pair.teacher))
    with pytest.raises(ModelError, match="layer 9 cannot be dropped; name layers below"):
        load_pair(loader.load_experiment("quickstart", ["student.drop_layers=[9]"]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drop_layers": [1, 1]}, "a layer is named twice"),
        ({"drop_layers": [-1]}, "greater than or equal to 0"),
        ({"drop_layers": [1], "lora": {}}, "opdlab prune MODEL FOLDER --drop"),
    ],
)
def test_layers_that_cannot_be_dropped_are_refused_at_load(change: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Student.model_validate({"path": "embedded:student"} | change)
