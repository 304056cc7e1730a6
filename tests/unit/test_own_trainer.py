"""The training in a program of one's own: its Trainer, its models, and what is refused of both."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

import opdlab
from opdlab.configuration import Experiment
from opdlab.errors import ConfigError, DataError, ModelError
from opdlab.methods.grpo import GRPO
from opdlab.methods.lgr import LGR
from opdlab.methods.opd import OPD
from opdlab.modelling import models
from opdlab.training import Distillation
from opdlab.training.own_trainer import require_trainer

SMALL = ("runs=[]", "training.prompts_per_step=2", "rollout.max_new_tokens=6")
PROMPTS = ["1+2=", "3+4=", "5+6="]
TOKENIZER = models.load_tokenizer("embedded:student")


def experiment(*changes: str) -> Experiment:
    return opdlab.load("quickstart", *SMALL, "training.steps=2", *changes)


def module(*changes: str, **given: Any) -> Distillation:
    return opdlab.distillation(experiment(*changes), **{"prompts": PROMPTS, **given})


def trainer(**settings: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    given = {"accelerator": "cpu", "enable_checkpointing": False, **quiet, **settings}
    return L.Trainer(**given)


def student() -> PreTrainedModel:
    return models.load_model("embedded:student")


def weights(found: Distillation) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in found.student.parameters()])


def test_a_trainer_that_was_told_no_steps_takes_those_of_the_experiment():
    fitted = trainer(max_epochs=-1)
    fitted.fit(module("training.schedule=linear"))
    assert fitted.global_step == 2
    assert fitted.callback_metrics["loss"] > 0  # for callbacks, whatever loggers there are


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 3}, r"max_steps=3\) goes beyond training.steps \(2\)"),
        ({"max_steps": 1, "precision": "64-true"}, "'64-true'.*is not one of 32-true"),
        (
            {"max_steps": 1, "devices": 3, "strategy": DDPStrategy()},
            r"prompts_per_step \(2\) must be a multiple of the devices \(3\)",
        ),
    ],
)
def test_a_trainer_that_would_train_something_else_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        require_trainer(experiment(), trainer(**settings))


def test_a_trainer_of_another_strategy_is_refused():
    with pytest.raises(ConfigError, match="this experiment is trained by opdlab's own"):
        require_trainer(
            experiment("training.strategy=fsdp", "training.devices=2"), trainer(max_steps=1)
        )


def test_weights_that_a_trainer_rounds_must_move():
    settings = ("training.learning_rate=1.0e-6",)
    with pytest.raises(ConfigError, match=r"training\.precision: weights in half precision"):
        require_trainer(experiment(*settings), trainer(max_steps=1, precision="bf16-true"))


def test_data_given_to_fit_is_not_passed_over():
    with pytest.raises(DataError, match=r"give the data as distillation\(prompts=\.\.\.\)"):
        trainer(max_steps=1).fit(module(), DataLoader(PROMPTS))  # pyright: ignore[reportArgumentType]


# What Lightning advises there is for models that are trained on what their next step is computed from.
ADVICE = pytest.mark.filterwarnings(
    "ignore:Using ModelCheckpoint with manual optimization", "ignore:.*callbacks used to create"
)
# peft 0.19 with transformers 5.18.
DEPRECATED = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


def kept_after(steps: int, folder: Path, *changes: str) -> Path:
    """The checkpoint that a callback of Lightning's wrote after so many steps."""
    keep = ModelCheckpoint(folder, every_n_train_steps=steps, filename="{step}")
    trainer(max_steps=steps, enable_checkpointing=True, callbacks=[keep]).fit(module(*changes))
    return folder / f"step={steps}.ckpt"


@ADVICE
def test_a_checkpoint_of_a_trainer_of_ones_own_resumes_bit_for_bit(tmp_path):
    changes = ("training.steps=3", "training.average=ema")
    whole, resumed = module(*changes), module(*changes)
    trainer(max_steps=3).fit(whole)
    trainer(max_steps=3).fit(resumed, ckpt_path=kept_after(2, tmp_path, *changes))
    for one in (whole, resumed):
        one.settle()
    assert torch.equal(weights(whole), weights(resumed))


@ADVICE
def test_a_checkpoint_between_the_epochs_of_a_rollout_says_so(tmp_path):
    capped = "method={type: opd, support: sampled, ratio_cap: 2.0}"
    with pytest.warns(UserWarning, match="Save after a multiple of 2 steps"):
        kept_after(1, tmp_path, "training.epochs=2", capped)


def test_fit_goes_on_where_the_module_is():
    found = module()
    trainer(max_steps=1).fit(found)
    trainer(max_steps=1).fit(found)
    assert found.collector.drawn == 4


def wrapped() -> Any:
    return get_peft_model(student(), LoraConfig(r=2, target_modules=["q_proj"]))


@DEPRECATED
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: "embedded:student", r'load\(\.\.\., "student.path=embedded:student"\)'),
        (lambda: torch.nn.Linear(2, 2), "Linear is not a causal language model"),
        (wrapped, r"wraps a model; give its get_base_model\(\)"),
        (lambda: student().base_model, "has no head over a vocabulary"),
        (lambda: student().requires_grad_(False), "no weight of the student is trained"),
        (lambda: student().half(), "in float16 the squares that AdamW keeps"),
    ],
)
def test_a_student_that_cannot_be_trained_is_refused(given, message):
    with pytest.raises((ModelError, ConfigError), match=message):
        module(student=given(), tokenizer=TOKENIZER)


def test_a_student_is_not_its_own_teacher_nor_shares_weights_with_it():
    one, other = student(), student()
    with pytest.raises(ModelError, match="share 21 weights in memory"):
        module(student=one, teacher=one, tokenizer=TOKENIZER)
    other.set_input_embeddings(one.get_input_embeddings())
    with pytest.raises(ModelError, match="training would change the teacher"):
        module(student=one, teacher=other, tokenizer=TOKENIZER)
    module(student=one, teacher=copy.deepcopy(one), tokenizer=TOKENIZER)


@DEPRECATED
def test_the_layers_of_a_wrapped_student_are_trained_alone():
    found = module(student=wrapped().get_base_model(), tokenizer=TOKENIZER)
    before = {name: one.clone() for name, one in found.student.named_parameters()}
    trainer(max_steps=1).fit(found)
    moved = {n for n, one in found.student.named_parameters() if not torch.equal(one, before[n])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_adapters_of_a_student_in_memory_name_the_files_that_it_came_from(tmp_path):
    found = module("student.lora={rank: 2}", student=student(), tokenizer=TOKENIZER)
    assert found.base is not None
    assert Path(found.base["path"]).name == "student"
    nameless = student()
    nameless.name_or_path = ""
    with pytest.raises(ModelError, match="write it by save_pretrained"):
        module("student.lora={rank: 2}", student=nameless, tokenizer=TOKENIZER)
    with pytest.raises(ModelError, match="a model in memory is taken as it is"):
        module("student.lora={rank: 2, quantize: nf4}", student=student(), tokenizer=TOKENIZER)


def test_a_tokenizer_without_models_is_refused():
    with pytest.raises(ModelError, match="belong together"):
        module(tokenizer=TOKENIZER)
    with pytest.raises(ModelError, match="load it by AutoTokenizer"):
        module(student=student(), tokenizer="embedded:student")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LGR, "give an instance"),
        ("lgr", "give an instance"),
        (LGR(top_k=1000), r"method\.top_k is 1000, but student and teacher share 42"),
        (GRPO(), r"rollout\.group_size: the method compares answers"),
    ],
)
def test_a_method_that_the_experiment_could_not_have_is_refused(method, message):
    with pytest.raises(ConfigError, match=message):
        module(method=method)


@dataclass(frozen=True)
class Unregistered(OPD):
    """A method that a notebook defines."""


def test_a_method_that_is_no_plugin_is_trained_and_checked_like_others():
    found = module(method=Unregistered())
    trainer(max_steps=1).fit(found)
    assert type(found.config.method) is Unregistered
    with pytest.raises(ConfigError, match=r"method Unregistered takes sampled tokens for draws"):
        module("rollout.temperature=0.5", method=Unregistered(support="sampled"))
    with pytest.raises(
        ConfigError, match=r"method\.top_k is 1000, but student and teacher share 42"
    ):
        module(method=Unregistered(support="top_k", top_k=1000))


def texts() -> Iterator[str]:
    yield from PROMPTS


def test_prompts_may_be_generated_or_a_column_of_a_table():
    pandas = pytest.importorskip("pandas")
    for given in (texts(), pandas.DataFrame({"prompt": PROMPTS}), pandas.Series(PROMPTS)):
        assert module(prompts=given).prompts.prompts == PROMPTS  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1+2=", "prompts are a str"),
        ({"train": PROMPTS}, "prompts are a mapping; give one of its values: train"),
        (set(PROMPTS), "prompts are a set"),
        (3, "prompts are a int"),
        (["  "], "number 0 is '  '"),
        ([[{"role": "user", "content": None}]], "number 0 is"),
        (["日本語"], "hold unknown text"),
        (["1+" * 300 + "1="], "has 603 tokens"),
    ],
)
def test_prompts_that_would_be_read_as_something_else_are_refused(given, message):
    with pytest.raises((DataError, ModelError), match=message):
        module(prompts=given)


def test_prompts_in_memory_have_no_given_answers_and_no_domains(tmp_path):
    data = tmp_path / "given.jsonl"
    data.write_text('{"prompt": "1+2=", "answer": "3"}\n')
    given = f"prompts={{type: dataset, path: {data}, completion_column: answer, given: 0.5}}"
    with pytest.raises(DataError, match=r"prompts\.given needs answers"):
        module(given)
    special = "specialists=[{path: 'embedded:teacher', domains: [math]}]"
    with pytest.raises(DataError, match="specialists teach domains"):
        module("method={type: opd, support: sampled}", special)


def test_prompts_in_memory_may_be_sent_to_another_process():
    found = module().prompts
    assert pickle.loads(pickle.dumps(found)).prompt(5) == found.prompt(5)
