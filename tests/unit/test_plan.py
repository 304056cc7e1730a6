"""What `opdlab plan` predicts, against models that really run."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from opdlab.configuration.config import Experiment
from opdlab.configuration.loader import load_experiment, load_pretraining, variants
from opdlab.configuration.model_settings import Model, Specialist
from opdlab.configuration.prompt_settings import DatasetPrompts
from opdlab.console.terminal import SymbolConsole
from opdlab.errors import ModelError
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.future_kl import FutureKL
from opdlab.methods.jsd import JSD
from opdlab.modelling import DTYPES, models
from opdlab.planning import plan
from opdlab.planning.footprint import activations, footprint
from opdlab.planning.lengths import longest_prompt
from opdlab.planning.phases import memory
from opdlab.pretraining.characters import character_tokenizer
from opdlab.serving.engine import OpenAIEngine
from opdlab.sweeps.extent import outermost
from opdlab.training.averaging import WeightAverage

SHAPE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 70}
LLAMA = LlamaConfig(**SHAPE, num_key_value_heads=2, intermediate_size=160, tie_word_embeddings=True)
QWEN = Qwen3Config(**SHAPE, num_key_value_heads=4, intermediate_size=256, head_dim=16)
UNKNOWN = ("not known here: deepseek-ai/", "not known here: Qwen/")
GPT2 = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=70)


def kept_for_backward(config: LlamaConfig, rows: int, length: int, dropout: bool = False) -> int:
    """Bytes that a real forward keeps."""
    model = AutoModelForCausalLM.from_config(config).train(dropout)
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.base_model(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("config", [LLAMA, QWEN, GPT2], ids=["llama", "qwen3", "gpt2"])
def test_activations_are_predicted_within_15_percent_without_running(config: LlamaConfig):
    predicted = activations(config, 3, 70, torch.float32)
    assert predicted == pytest.approx(kept_for_backward(config, 3, 70), rel=0.15)
    assert activations(config, 6, 70, torch.float32) == pytest.approx(2 * predicted, rel=0.02)
    assert activations(config, 3, 70, torch.bfloat16) < 0.8 * predicted


def test_dropout_is_counted_only_where_it_acts():
    asleep, awake = (activations(GPT2, 3, 70, torch.float32, dropout) for dropout in (False, True))
    assert awake == pytest.approx(kept_for_backward(GPT2, 3, 70, dropout=True), rel=0.15)
    assert awake > 1.4 * asleep


def test_parameters_are_counted_without_weights(tmp_path: Path):
    LLAMA.save_pretrained(tmp_path)
    found = footprint(Model(path=str(tmp_path), dtype="bfloat16"))
    real = AutoModelForCausalLM.from_config(LLAMA)
    assert found.parameters == sum(p.numel() for p in real.parameters())
    assert (found.kind, found.layers, found.width, found.bytes) == ("LlamaForCausalLM", 3, 64, 2)
    assert found.cache == 2 * 3 * 2 * 16


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    characters = "0123456789abcdefghijklmnopqrstuvwxyz+-*=;#:>,()MRC?"
    for name in ("student", "teacher"):
        character_tokenizer(characters, 512).save_pretrained(name)
        LLAMA.save_pretrained(name)
    return load_experiment(
        "quickstart",
        ["student.path=./student", "teacher.path=./teacher", "training.prompts_per_step=16"],
    )


def test_memory_is_held_and_passing(experiment: Experiment):
    (needed,) = memory(experiment, longest_prompt=30).values()
    weights = 4 * footprint(experiment.student).parameters
    assert needed.held["student weights"] == weights
    assert needed.held["AdamW, two moments"] == 2 * weights
    assert needed.peak == sum(needed.held.values()) + max(needed.passing.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_average_of_the_weights_is_held_as_training_keeps_it(experiment: Experiment, dtype: str):
    student = experiment.student.model_copy(update={"dtype": dtype})
    averaging = experiment.training.model_copy(update={"average": "ema"})
    without = experiment.model_copy(update={"student": student})
    (needed,) = memory(without.model_copy(update={"training": averaging}), 30).values()
    weights = [torch.nn.Parameter(torch.zeros(5, dtype=DTYPES[dtype]))]
    kept = WeightAverage(weights, 0.9)
    kept.update()
    each = kept.mean[0].itemsize
    assert needed.held["average of the weights"] == each * footprint(student).parameters
    (less,) = memory(without, 30).values()
    assert needed.peak - less.peak == each * footprint(student).parameters


def test_devices_that_hold_parts_of_the_weights_are_counted_so(experiment: Experiment):
    parts = {"strategy": "fsdp", "devices": 2}
    sharded = experiment.model_copy(
        update={"training": experiment.training.model_copy(update=parts)}
    )
    (whole,) = memory(experiment, longest_prompt=30).values()
    (shared,) = memory(sharded, longest_prompt=30).values()
    for what, size in whole.held.items():
        assert shared.held[what] == size // 2, what
    student = footprint(experiment.student)
    one_layer = student.layered // student.layers
    assert student.gathered == student.parameters - student.layered + 2 * one_layer
    assert 0 < student.gathered < student.parameters
    # To sample, each has the student whole.
    sampling = "sampling (keys and values)"
    assert shared.passing[sampling] == whole.passing[sampling] / 2 + student.weights


def test_a_teacher_on_a_device_of_its_own_is_counted_there(experiment: Experiment):
    apart = experiment.training.model_copy(
        update={"accelerator": "cpu", "teacher_device": "cuda:1"}
    )
    other = experiment.model_copy(update={"training": apart})
    student, teacher = memory(other, 30).values()
    (together,) = memory(experiment, 30).values()
    assert student.held | teacher.held == together.held
    assert set(student.passing) | set(teacher.passing) == set(together.passing)
    assert student.peak < together.peak
    assert teacher.peak >= footprint(experiment.teacher).weights
    text = StringIO()
    plan.show(other, SymbolConsole(file=text, width=80))
    assert "most at a time, teacher's device" in text.getvalue()


def test_a_plan_fits_80_columns_and_says_what_will_be_done(experiment: Experiment, tmp_path: Path):
    text = StringIO()
    plan.show(experiment, SymbolConsole(file=text, width=80))
    shown = text.getvalue()
    weights = f"{footprint(experiment.student).weights / 1024:.3g} KiB"
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    for line in (
        "opd nothing",
        "responses a step 16 16",
        "response tokens a step, at most 1,536 1,536",
        "teacher cost at 10% active 1.00 1.80",
        "math/short 64 8 512",
    ):
        assert line in lines
    # A path that leaves no room beside it turns the table into blocks.
    assert "runs/quickstart-001/lgr/" in shown
    assert f"metrics, samples, model ({weights}), last" in " ".join(shown.split())
    assert not (tmp_path / "runs").exists()


def lines_of(experiment: Experiment, width: int = 120) -> list[str]:
    text = StringIO()
    plan.show(experiment, SymbolConsole(file=text, width=width))
    return [" ".join(line.split()) for line in text.getvalue().splitlines()]


def test_a_plan_counts_each_rollout_once_and_the_copies_that_stay(experiment: Experiment):
    changes = {"training": experiment.training.model_copy(update={"epochs": 3, "keep_every": 100})}
    length = experiment.rollout.max_new_tokens
    changes["rollout"] = OpenAIEngine(url=["http://a", "http://b"], ahead=1, max_new_tokens=length)
    lines = lines_of(experiment.model_copy(update={"runs": [], **changes}))
    weights = footprint(experiment.student).weights
    for line in (
        "optimizer steps 400",
        "rollouts 134",
        "rollout servers 2, one step ahead",
        f"response tokens in all, at most {1536 * 134:,}",
        "prompts looked at 256 of 2,144",
    ):
        assert line in lines
    copies = f"3 copies of the student ({3 * weights / 1024**2:.3g} MiB in all)"
    assert copies in " ".join(lines)


def test_the_plan_of_a_sweep_counts_the_largest_trial_of_the_space(experiment: Experiment):
    space = {
        "training.steps": {"type": "int", "low": 10, "high": 1000},
        "training.epochs": {"type": "choice", "values": [1, 4]},
        "method": {
            "type": "choice",
            "values": {"opd": {"type": "opd", "ratio_cap": 2.0}, "lgr": {"type": "lgr"}},
        },
        "method.top_k": {"type": "int", "low": 2, "high": 16, "when": {"method": "lgr"}},
        "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True},
    }
    data = experiment.model_dump(mode="json") | {
        "runs": [],
        "sweep": {"trials": 3, "seeds": [0, 1], "space": space},
    }
    data["evaluation"] |= {"every": 100, "samples": 2, "max_new_tokens": 96}
    swept = Experiment.model_validate_json(json.dumps(data))
    problems = sum(len(one.problems()) for one in swept.evaluation.benchmarks)
    assert swept.sweep is not None
    text = StringIO()
    table = plan._sweep_table(swept, swept.sweep, outermost(swept, swept.sweep))
    SymbolConsole(file=text, width=120).print(table)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    for line in (
        f"optimizer steps, at most {6 * 1000:,}",
        f"response tokens, at most {6 * 1000 * 16 * 96:,}",
        f"answers evaluated, at most {6 * 10 * problems * 2:,}",
        "teacher cost at 25% active, at most 5.00",
    ):
        assert line in lines


def test_a_plan_says_how_many_prompts_it_looked_at_and_finds_the_longest(
    experiment: Experiment, tmp_path: Path
):
    rows = ["1+2="] * 2999 + ["1" * 300]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    prompts = DatasetPrompts(type="dataset", path=str(path))
    lines = lines_of(experiment.model_copy(update={"runs": [], "prompts": prompts}))
    assert "prompts looked at 256 of 3,000 and the longest" in lines
    (tokens,) = (line for line in lines if line.startswith("tokens a prompt"))
    assert int(tokens.rpartition(" ")[2]) >= 300


def test_a_plan_counts_the_prompts_and_models_of_each_run(tmp_path: Path):
    for name, rows in {"short": ["1+2="] * 20, "long": ["1" * 120 + "="] * 7}.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    runs = (
        f"runs=[{{name: a}}, {{name: b, set: {{prompts.path: {tmp_path}/long.jsonl}}}}, "
        "{name: c, set: {student.path: 'embedded:teacher'}}]"
    )
    prompts = f"prompts={{type: dataset, path: {tmp_path}/short.jsonl}}"
    config = load_experiment("quickstart", [prompts, "method={type: opd}", runs])
    lines = lines_of(config)
    assert "prompts looked at 20 of 20 7 of 7 20 of 20" in lines
    assert "tokens a prompt, mean and most 5, 5 122, 122 5, 5" in lines
    (models_of,) = (line for line in lines if line.startswith("student teacher"))
    assert models_of == "student teacher student (c)"
    weights = [str(line) for line in lines if "model (" in line]
    assert ["897 KiB" in line for line in weights] == [False, False, True]
    assert longest_prompt(config) == 122


def test_a_plan_says_what_cannot_be_known_here_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(models.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv("OPDLAB_DATA", raising=False)
    for name in ("paper/1.5b", "paper/objectives"):
        text = StringIO()
        plan.show(load_experiment(name), SymbolConsole(file=text, width=80))
        lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
        # Of tokenizers; the models' shapes come with the package.
        assert sum(line.startswith(UNKNOWN) for line in lines) == 1
        assert any(line.startswith("optimizer steps 200") for line in lines)
        assert not any("student weights" in line for line in lines)
        assert any(line.startswith("parameters") for line in lines)
    text = StringIO()
    unknown = load_experiment("paper/7b", ["teacher.path=nobody/nothing"])
    plan.show(unknown, SymbolConsole(file=text, width=80))
    # Nothing beyond a model's name is made up.
    assert "parameters" not in text.getvalue()
    assert "nobody/nothing" in text.getvalue()


def test_the_papers_settings_are_those_of_the_paper():
    for name, config in variants(load_experiment("paper/1.5b")):
        assert config.rollout.max_new_tokens == 9216
        if name.startswith("lgr"):
            method = config.method
            assert (method.top_k, method.entropy_threshold, method.reward_weight) == (8, 0.2, 1.0)
    lengths = {c.rollout.max_new_tokens for _, c in variants(load_experiment("paper/lengths"))}
    assert lengths == {3 * 1024, 9 * 1024, 16 * 1024, 39 * 1024}
    weights = {c.method.reward_weight for _, c in variants(load_experiment("paper/ablations"))}
    assert weights == {0.1, 1.0, 1.5, 10.0}
    others = [c.method for _, c in variants(load_experiment("paper/objectives"))]
    assert {m.discount for m in others if isinstance(m, FutureKL)} == {0.99, 0.999, 0.9999}
    assert {ForwardKL, JSD} <= set(map(type, others))


def test_a_plan_counts_the_weights_of_every_teacher(experiment: Experiment):
    one = Specialist(path="./teacher", domains=["code/*"])
    sampled = load_experiment(
        "quickstart",
        ["student.path=./student", "teacher.path=./teacher", "method={type: opd}", "runs=[]"],
    )
    changed = sampled.model_copy(update={"specialists": [one]})
    alone, both = (memory(each, 30)[""].held["teacher weights"] for each in (experiment, changed))
    assert both == 2 * alone
    text = StringIO()
    plan.show(changed, SymbolConsole(file=text, width=80))
    assert "teacher of code/*" in text.getvalue()


def test_the_plan_of_a_pretraining_counts_what_will_be_made():
    config = load_pretraining("pretrain/student")
    text = StringIO()
    plan.show(config, SymbolConsole(file=text, width=80))
    parameters = footprint(Model(path="embedded:student")).parameters
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert f"parameters {parameters:,}" in lines
    assert f"traces in all {config.steps * config.batch_size:,}" in lines


def test_every_model_whose_folder_is_missing_is_named(tmp_path: Path):
    gone = [f"{who}.path={tmp_path}/{who}" for who in ("student", "teacher")]
    with pytest.raises(ModelError) as error:
        plan.show(load_experiment("quickstart", gone))
    assert [f"{tmp_path}/{who}: no such" in str(error.value) for who in ("student", "teacher")] == [
        True
    ] * 2
