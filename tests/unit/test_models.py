"""Models are found or refused with a remedy; teacher and student share a vocabulary or are refused."""

from __future__ import annotations

import json
import re
import time
import warnings
from pathlib import Path

import pytest
import torch
from small_models import small_model
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from opdlab.errors import ModelError, OutOfReachError
from opdlab.modelling import models
from opdlab.modelling.models import (
    eos_ids,
    load_model,
    load_tokenizer,
    manifest,
    pad_id,
    shared_vocabulary,
    weights_sha256,
)

WORDS = ["<pad>", "<bos>", "<eos>", *"abcdefghijklmnopqrstuvwxyz"]


def tokenizer(
    words: list[str] = WORDS, eos: str | None = "<eos>", template: str | None = None
) -> PreTrainedTokenizerFast:
    model = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    model.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    found = PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<bos>", eos_token=eos, pad_token="<pad>"
    )
    found.chat_template = template
    return found


def model(rows: int = len(WORDS), eos: int | list[int] | None = 2) -> PreTrainedModel:
    made = small_model("llama", vocab_size=rows)
    assert made.generation_config is not None
    made.generation_config.eos_token_id = eos
    return made


@pytest.fixture
def folder(tmp_path: Path) -> str:
    model().save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    return str(tmp_path / "m")


def test_a_saved_model_comes_back_the_same_and_ready_to_score(folder: str) -> None:
    loaded = load_model(folder)
    assert not loaded.training
    assert weights_sha256(loaded) == weights_sha256(model())
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_tokenizer(folder).get_vocab() == tokenizer().get_vocab()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere/at/all", "no such model folder"),
        ("./runs/student", "no such model folder"),
        ("runs/student", "no such folder, and a model of the Hugging Face hub needs a revision"),
        ("embedded:oracle", "no such embedded model; this package has: "),
    ],
)
def test_what_is_not_there_is_refused_with_a_remedy(path: str, said: str) -> None:
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError, match=said):
            load(path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="no causal language model can be loaded"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="no causal language model can be loaded"):
        load_model(str(tmp_path))


DAMAGED = {
    "a width of text": ("config.json", {"vocab_size": "48"}),
    "no heads": ("config.json", {"num_attention_heads": 0}),
    "a pad token beyond the embeddings": ("config.json", {"pad_token_id": 99}),
    "a way of packing that is not installed": (
        "config.json",
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    ),
    "weights of text": ("model.safetensors", None),
    "settings of text": ("generation_config.json", None),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_model_is_told_by_its_folder_whatever_the_library_meets(
    tmp_path: Path, what: str
) -> None:
    small_model("llama").save_pretrained(tmp_path)
    file, change = DAMAGED[what]
    path = tmp_path / file
    known = "" if change is None else json.dumps(json.loads(path.read_text()) | change)
    path.write_text(known or "hello")
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        load_model(str(tmp_path))


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    small_model("llama", num_hidden_layers=2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"9 weights are not in its files .*layers\.2"):
        load_model(str(tmp_path))


def test_an_unknown_number_format_is_refused(folder: str) -> None:
    with pytest.raises(ModelError, match="unknown number format 'int4'"):
        load_model(folder, dtype="int4")


def test_the_hub_is_given_up_at_once_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A port of this machine that nobody listens on stands for a hub out of reach.
    monkeypatch.setattr(models.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(models.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(models.constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"opdlab/nothing@main: .* it cannot be reached"):
        load_model("opdlab/nothing", revision="main")
    assert time.monotonic() - started < 5
    (tmp_path / "models--opdlab--nothing").mkdir()
    with pytest.raises(ModelError, match="no causal language model can be loaded"):
        load_model("opdlab/nothing", revision="main")
    assert time.monotonic() - started < 20
    monkeypatch.setattr(models.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        load_tokenizer("opdlab/other", revision="main")


def test_responses_end_by_every_eos_that_is_named() -> None:
    assert eos_ids(model(eos=[5, 2]), tokenizer(eos="b")) == (2, 4, 5)
    assert eos_ids(model(eos=None), tokenizer()) == (2,)
    with pytest.raises(ModelError, match="no response could end"):
        eos_ids(model(eos=None), tokenizer(eos=None))


def test_padding_is_the_tokenizers_or_an_eos() -> None:
    assert pad_id(model(), tokenizer()) == 0
    without = tokenizer()
    without.pad_token = None
    assert pad_id(model(), without) == 2


def test_equal_tokenizers_share_everything_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shared_vocabulary(tokenizer(), tokenizer(), model(), model()) == len(WORDS)


def test_padded_embeddings_and_later_tokens_are_cut() -> None:
    more = tokenizer([*WORDS, "<think>", "</think>"])
    assert shared_vocabulary(tokenizer(), more, model(40), model(64)) == len(WORDS)
    assert shared_vocabulary(more, tokenizer(), model(64), model(40)) == len(WORDS)
    # A tokenizer may name tokens for which a model has no row (images, say): they cannot be shared.
    assert shared_vocabulary(more, more, model(30), model(31)) == 30


def test_a_teacher_with_other_strings_is_refused_by_the_first_of_them() -> None:
    other = WORDS.copy()
    other[4], other[9] = other[9], other[4]
    first = r"\(id 4: student 'b', teacher 'g'; id 9: student 'g', teacher 'b'\)"
    said = f"2 of the first 29 token ids .*{first}"
    with pytest.raises(ModelError, match=said):
        shared_vocabulary(tokenizer(), tokenizer(other), model(), model())


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (tokenizer(eos="z"), "eos_token is '<eos>' and 'z'"),
        (tokenizer(template="{{ messages }}"), "chat templates differ"),
    ],
)
def test_differences_that_leave_the_ids_alone_are_warned_of(
    teacher: PreTrainedTokenizerFast, said: str
) -> None:
    with pytest.warns(UserWarning, match=said):
        assert shared_vocabulary(tokenizer(), teacher, model(), model()) == len(WORDS)


def test_another_split_of_text_into_the_same_tokens_is_warned_of() -> None:
    words = [*WORDS, "ab"]
    whole = tokenizer(words)
    whole.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.warns(UserWarning, match="split text into tokens differently"):
        shared_vocabulary(tokenizer(words), whole, model(40), model(40))


def test_a_manifest_tells_teachers_apart(folder: str, tmp_path: Path) -> None:
    first = manifest(load_model(folder), folder)
    assert first == manifest(load_model(folder), folder)
    assert first["architecture"] == "LlamaForCausalLM"
    assert first["parameters"] == sum(weight.numel() for weight in model().parameters())
    touched = load_model(folder)
    with torch.no_grad():
        touched.lm_head.weight[3, 5] += 1e-6
    assert manifest(touched, folder)["weights_sha256"] != first["weights_sha256"]
    other = WORDS.copy()
    other[4], other[9] = other[9], other[4]
    tokenizer(other).save_pretrained(folder)
    assert manifest(load_model(folder), folder)["tokenizer_sha256"] != first["tokenizer_sha256"]


def test_a_revision_may_stand_behind_the_name_of_a_hub_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # Without a way to the hub the refusal says what was looked for.
    with pytest.raises(OutOfReachError, match=r"^org/name@v1\.2: not a folder"):
        models.locate("org/name@v1.2", None)
    with pytest.raises(ModelError, match="write org/name@REVISION"):
        models.locate("org/name", None)


def test_a_shipped_experiment_names_the_command_that_makes_its_models() -> None:
    with pytest.raises(OutOfReachError, match="`opdlab pretrain pretrain/routes-student` makes it"):
        models.locate("runs/routes-student/model", None)


@pytest.mark.parametrize("path", ["embedded:student", "{folder}"])
def test_a_revision_of_a_model_that_lies_here_is_refused(path: str, tmp_path: Path) -> None:
    path = path.format(
        folder=models.locate("embedded:student", None)["pretrained_model_name_or_path"]
    )
    for name, revision in ((path, "v1"), (f"{path}@v1", None)):
        with pytest.raises(ModelError, match=r"the revision 'v1' names a commit on the hub"):
            models.locate(name, revision)
