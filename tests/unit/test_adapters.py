"""Low-rank adapters: what they say merged and not, what is kept of them, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from end_to_end.laboratory import save_model
from gpu.small_runs import experiment, models as folders, train
from safetensors.torch import load_file, save_file
from small_models import small_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from opdlab.configuration.config import Experiment
from opdlab.errors import ModelError, ResumeError
from opdlab.modelling import adapters, models
from opdlab.modelling.merging import merge
from opdlab.planning.footprint import Shape, activations, kept_for_backward, trained
from opdlab.planning.phases import memory
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving.copies import written
from opdlab.training.checkpoint import read_checkpoint
from opdlab.training.pair import load_module, load_pair

LORA = {"rank": 4, "alpha": 16.0}
TOKENS = torch.arange(24).reshape(2, 12) % 19 + 2


def moved(model: PreTrainedModel, seed: int = 5) -> PreTrainedModel:
    """The second matrices, which are zero at first, at random: as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(TOKENS).logits


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[PreTrainedModel, Path]:
    """A model with adapters that say something, and the folder where they are kept."""
    path = str(folders()[0])
    model = models.load_model(path)
    adapters.add(model, rank=4, alpha=16.0)
    moved(model)
    told = {"path": path, "revision": None, "dtype": "float32", "quantize": "none"}
    folder = tmp_path / "adapters"
    folder.mkdir()
    adapters.save(model, folder, told | {"files_sha256": models.files_sha256(path)})
    return model, folder


# Biases, weights that stand turned, experts, tied vocabularies, a head of latent attention.
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "mixtral", "gemma3", "deepseek_v3"])
@pytest.mark.filterwarnings("ignore:.*fan_in_fan_out")
def test_merged_adapters_say_what_they_said(tmp_path: Path, family: str) -> None:
    model = small_model(family)
    before = logits(model)
    adapters.add(model, rank=4, alpha=16.0, seed=1)
    assert torch.equal(logits(model), before)
    said = logits(moved(model))
    assert (said - before).abs().max() > 0.1
    adapters.whole(model).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(plain), said, rtol=1e-5, atol=1e-5 * float(said.abs().max()))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_are_read_as_they_were_written_here_and_by_peft(adapted) -> None:
    from peft import PeftModel

    model, folder = adapted
    assert torch.equal(logits(models.load_model(str(folder))), logits(model))
    theirs = PeftModel.from_pretrained(models.load_model(str(folders()[0])), str(folder))
    assert torch.equal(logits(theirs.eval()), logits(model))


def test_a_model_is_known_by_its_adapters_and_their_scale(adapted) -> None:
    model, folder = adapted
    loaded = models.load_model(str(folder))
    assert models.weights_sha256(loaded) == models.weights_sha256(model)
    assert models.config_sha256(loaded) == models.config_sha256(model)
    plain = models.load_model(str(folders()[0]))
    assert models.weights_sha256(plain) != models.weights_sha256(model)
    before = models.files_sha256(str(folder))
    settings = json.loads((folder / adapters.CONFIG).read_text())
    (folder / adapters.CONFIG).write_text(json.dumps(settings | {"lora_alpha": 8.0}))
    assert models.config_sha256(models.load_model(str(folder))) != models.config_sha256(model)
    assert models.files_sha256(str(folder)) != before


def test_samples_of_a_student_with_adapters_are_its_own(adapted) -> None:
    model, _ = adapted
    engine = CachedEngine(max_new_tokens=10)
    ends: dict[str, Any] = {"eos_ids": (0,), "pad_id": 0, "top_k": 2}
    found = engine.sample(model, [[3, 4, 5, 6], [7, 8]], [1, 2], **ends)
    for row in range(2):
        first, count = int(found.prompt_lengths[row]), int(found.response_lengths[row])
        with torch.no_grad():
            log_p = model(found.tokens[row : row + 1, : first + count]).logits.log_softmax(-1)[0]
        said = log_p[first - 1 : -1].gather(-1, found.tokens[row, first : first + count, None])
        torch.testing.assert_close(found.log_prob[found.row == row], said[:, 0], rtol=0, atol=1e-5)


def test_a_server_gets_the_merged_model(adapted, tmp_path: Path) -> None:
    model, _ = adapted
    place = written(model, tmp_path / "weights", "now")
    found = AutoModelForCausalLM.from_pretrained(place)
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_writes_a_whole_model(adapted, tmp_path: Path, dtype: str) -> None:
    model, folder = adapted
    models.sign(folder, "abc")
    made = merge(str(folder), tmp_path / "made", dtype)
    assert models.trained_by(str(made)) == "abc"
    found = models.load_model(str(made))
    assert models.load_config(str(made)).dtype == models.DTYPES[dtype]
    limit = 1e-4 if dtype == "float32" else 0.2
    torch.testing.assert_close(logits(found), logits(model), rtol=1e-4, atol=limit)
    assert models.load_tokenizer(str(made)).get_vocab()
    with pytest.raises(ModelError, match="is there already"):
        merge(str(folder), made, dtype)
    with pytest.raises(ModelError, match="no adapters there"):
        merge(str(made), tmp_path / "again", dtype)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_model_name_or_path": "nowhere/at-all"}, "base_model_name_or_path in .* revision"),
        ({"base_model_name_or_path": None}, "names no model"),
        ({"modules_to_save": ["lm_head"]}, "merge them by the tool that made them"),
        ({"peft_type": "IA3"}, "only LORA is read"),
        ({"r": 8}, "do not fit the model"),
        ({"target_modules": ["q_proj"]}, "do not fit the model"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_adapters_that_cannot_be_read_right_are_refused(adapted, change, said: str) -> None:
    _, folder = adapted
    settings = json.loads((folder / adapters.CONFIG).read_text())
    (folder / adapters.CONFIG).write_text(json.dumps(settings | change))
    with pytest.raises(ModelError, match=f"(?s){said}"):
        models.load_model(str(folder))


def test_a_folder_with_a_model_and_adapters_is_refused(adapted) -> None:
    _, folder = adapted
    shutil.copy(folders()[0] / "config.json", folder)
    with pytest.raises(ModelError, match=r"a model .* and adapters"):
        models.load_model(str(folder))


def test_adapters_of_a_model_whose_files_changed_are_refused(adapted, tmp_path: Path) -> None:
    _, folder = adapted
    other = tmp_path / "other"
    shutil.copytree(folders()[0], other)
    settings = json.loads((folder / adapters.CONFIG).read_text())
    changed = settings | {"base_model_name_or_path": str(other)}
    (folder / adapters.CONFIG).write_text(json.dumps(changed))
    models.load_model(str(folder))  # the same model elsewhere
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="another model than the adapters were trained on"):
        models.load_model(str(folder))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["lm_head"], "the vocabulary's own gets none"),
        (["q_proj", "nope"], "no nope; .* has the linear layers down_proj, .*q_proj"),
        ([], "nothing to adapt"),
    ],
    ids=["the head", "no such layer", "none"],
)
def test_layers_that_can_have_no_adapter_are_named(targets: list[str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        adapters.add(small_model("llama"), rank=4, alpha=8.0, targets=targets)


@pytest.mark.parametrize(
    "family", ["nemotron_h", "falcon_h1", "zamba2", "mamba", "bamba", "kimi_linear"]
)
def test_every_layer_of_a_hybrid_that_can_have_an_adapter_gets_one(family: str) -> None:
    model: Any = small_model(family)
    wanted = adapters.chosen(model, adapters.ALL_LINEAR)
    assert wanted
    # Kernels of state-space layers read its weight past it.
    assert "out_proj" not in {name.rpartition(".")[2] for name in wanted}
    adapters.add(model, rank=2, alpha=2.0)
    assert {name for name, one in model.named_modules() if hasattr(one, "lora_A")} == set(wanted)
    model(input_ids=torch.arange(3, 12)[None], use_cache=False).logits.sum().backward()
    trained = [one for one in model.parameters() if one.requires_grad]
    assert all(one.grad is not None for one in trained)


def test_a_layer_that_kernels_read_past_is_named_where_it_is_asked_for() -> None:
    with pytest.raises(ModelError, match="out_proj gets no adapter"):
        adapters.add(small_model("nemotron_h"), rank=2, alpha=2.0, targets=["out_proj"])


def with_lora(
    method: dict[str, Any], lora: dict[str, Any] | None = None, **more: Any
) -> Experiment:
    """A small experiment whose student has adapters; `student.` and `teacher.` keys change these."""
    student = {k.removeprefix("student_"): more.pop(k) for k in [*more] if k.startswith("student_")}
    teacher = {k.removeprefix("teacher_"): more.pop(k) for k in [*more] if k.startswith("teacher_")}
    settings = experiment(method, accelerator="cpu", **more).model_dump(mode="json")
    settings["student"] |= {"lora": lora or LORA, **student}
    settings["teacher"] |= teacher
    return Experiment.model_validate(settings)


METHODS: list[dict[str, Any]] = [
    {"type": "opd", "support": "full"},
    {"type": "lgr", "support": "full", "top_k": 4},
    {"type": "grpo"},
    {"type": "sft"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one["type"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_method_trains_the_adapters_alone(tmp_path: Path, method, dtype: str) -> None:
    config = with_lora(method, steps=2, learning_rate=1e-2, student_dtype=dtype)
    before = models.weights_sha256(models.load_model(config.student.path, None, dtype))
    module, kept = train(config, tmp_path)
    assert kept.rows[-1].get("updated_share", 1) > 0.5
    names = {name for name, weight in module.student.named_parameters() if weight.requires_grad}
    assert names
    assert all(".lora_" in name for name in names)
    trained_weights = [one for one in module.student.parameters() if one.requires_grad]
    assert {weight.dtype for weight in trained_weights} == {torch.float32}
    for name, weight in module.student.named_parameters():
        assert (weight.grad is not None) == (name in names)
    state = {
        name.replace(".base_layer", ""): weight
        for name, weight in module.student.state_dict().items()
        if ".lora_" not in name
    }
    plain = models.load_model(config.student.path, None, dtype)
    plain.load_state_dict(state)
    assert models.weights_sha256(plain) == before
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert {name.removeprefix("student.") for name in checkpoint["state_dict"]} == names
    assert len(checkpoint["optimizer_states"][0]["state"]) == len(names)


def test_a_resumed_training_of_adapters_ends_bit_for_bit(tmp_path: Path) -> None:
    def to(steps: int, folder: str) -> dict[str, torch.Tensor]:
        config = with_lora(METHODS[1], steps=steps, average="ema", learning_rate=1e-2)
        return dict(train(config, tmp_path / folder)[0].student.named_parameters())

    whole = to(3, "whole")
    to(2, "stopped")
    again = to(3, "stopped")
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())


def sharded(folder: Path) -> dict[str, torch.Tensor]:
    for steps in (2, 3):
        config = with_lora(METHODS[1], steps=steps, learning_rate=1e-2, strategy="fsdp")
        module, _ = train(config, folder)
    assert module.exported is not None
    return module.exported


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_sharded_adapters_are_resumed_and_exported(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, fork, partial(torch.set_num_threads, 1)) as one:
        found = one.submit(sharded, tmp_path / "sharded").result()
    config = with_lora(METHODS[1], steps=3, learning_rate=1e-2)
    whole = train(config, tmp_path / "whole")[0].student
    wanted = {name: one for name, one in whole.named_parameters() if one.requires_grad}
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight.detach(), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_other_adapters_is_refused(tmp_path: Path) -> None:
    train(with_lora(METHODS[0], steps=1), tmp_path)
    with pytest.raises(ResumeError, match="other weights than the adapters"):
        train(with_lora(METHODS[0], {"targets": ["q_proj"]}, steps=2), tmp_path)


def test_the_first_step_is_full_trainings_projected_on_the_second_matrices(tmp_path: Path) -> None:
    """While these are zero: d loss / d B = scale * (d loss / d W) A^T, another way to the gradient."""
    config = with_lora(METHODS[1], gradient_clip=0)
    _, ours = train(config, tmp_path / "adapters")
    first = dict(load_module(load_pair(config), config).student.named_parameters())
    _, whole = train(experiment(METHODS[1], accelerator="cpu", gradient_clip=0), tmp_path / "whole")
    scale = LORA["alpha"] / LORA["rank"]
    checked = 0
    for name, gradient in ours.gradients.items():
        if ".lora_B." not in name:
            assert not gradient.any()
            continue
        layer = name.partition(".lora_B.")[0]
        inner = first[f"{layer}.lora_A.default.weight"].detach()
        torch.testing.assert_close(
            gradient, scale * whole.gradients[f"{layer}.weight"] @ inner.T, rtol=1e-4, atol=1e-7
        )
        checked += 1
    assert checked == 14


def test_a_teacher_that_is_the_students_own_model_is_in_memory_once() -> None:
    student = str(folders()[0])
    config = with_lora({"type": "grpo"}, teacher_path=student)
    pair = load_pair(config)
    module = load_module(pair, config)
    moved(pair.student)
    plain = models.load_model(student)
    assert torch.equal(logits(module.teacher.model), logits(plain))
    assert not torch.equal(logits(module.student.eval()), logits(plain))
    own = {w.data_ptr() for w in module.student.parameters() if not w.requires_grad}
    assert {w.data_ptr() for w in module.teacher.model.parameters()} == own
    assert pair.ends(pair.teacher) == pair.ends(pair.student)
    assert memory(config, 30)[""].held["teacher weights"] == 0
    for apart in (
        {"teacher_offload": True},
        {"precision": "bf16-true"},
        {"lora": {**LORA, "quantize": "nf4"}},
        {"teacher_dtype": "bfloat16"},
    ):
        changed = with_lora({"type": "grpo"}, **{"teacher_path": student, **apart})
        assert not changed.one_model


def test_adapters_are_no_student(adapted) -> None:
    _, folder = adapted
    config = with_lora(METHODS[0], student_path=str(folder))
    with pytest.raises(ModelError, match=r"opdlab merge .* FOLDER"):
        load_pair(config)
    # As a teacher they are what they say.
    taught = experiment(METHODS[0], accelerator="cpu").model_dump(mode="json")
    taught["teacher"]["path"] = str(folder)
    assert adapters.has(load_pair(Experiment.model_validate(taught)).teacher)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")], ids=["all", "two"])
def test_the_plan_counts_what_adapters_keep(dtype: torch.dtype, targets: Any) -> None:
    path = str(folders()[0])
    config = with_lora(METHODS[0], {"rank": 3, "targets": targets})
    lora: Any = config.student.lora
    shape = models.load_config(path)
    model = models.load_model(path, None, str(dtype).removeprefix("torch."))
    adapters.add(model, rank=3, alpha=lora.alpha, targets=targets)
    numbers, wrapped = trained(Shape.of(shape), lora)
    assert numbers == sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert wrapped == sum(
        w.numel() for n, w in model.named_parameters() if "base_layer.weight" in n
    )
    for rows, length in ((1, 20), (3, 40)):
        kept = kept_for_backward(model, torch.zeros(rows, length, dtype=torch.long))
        assert activations(shape, rows, length, dtype, lora=lora) == kept
    planned = memory(config, 30)[""]
    plain = memory(experiment(METHODS[0], accelerator="cpu"), 30)[""]
    assert planned.held["AdamW, two moments"] == 8 * numbers
    assert planned.held["student weights"] == plain.held["student weights"] + 4 * numbers


def test_dropout_of_adapters_needs_training_mode() -> None:
    with pytest.raises(ValueError, match=r"set student\.dropout: true as well"):
        with_lora(METHODS[0], {"dropout": 0.1})


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("wide") / "student", 64)


@pytest.mark.filterwarnings("ignore:bitsandbytes")
def test_a_student_in_four_bits_trains_is_kept_and_merged(tmp_path: Path, wide: Path) -> None:
    pytest.importorskip("bitsandbytes")
    lora = {**LORA, "quantize": "nf4"}
    config = with_lora(METHODS[1], lora, steps=2, learning_rate=1e-2, student_path=str(wide))
    module, kept = train(config, tmp_path / "run")
    assert kept.rows[-1]["updated_share"] > 0.5
    folder = tmp_path / "kept"
    folder.mkdir()
    module.save(folder)
    found = models.load_model(str(folder))
    said = logits(module.student.eval())
    assert torch.equal(logits(found), said)
    assert models.weights_sha256(found) == models.weights_sha256(module.student)
    whole = models.load_model(str(merge(str(folder), tmp_path / "whole", "float32")))
    torch.testing.assert_close(logits(whole), said, rtol=1e-3, atol=1e-3)
    # Four bits are another model than the one they were made of.
    assert not torch.allclose(said, logits(models.load_model(str(wide))), atol=1e-2)


def test_four_bits_without_their_library_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'opdlab\[qlora\]'"):
        models.load_model(str(folders()[0]), quantize="nf4")
