"""Pretraining: what a batch is, what carries loss, and a resume that changes no bit."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_chat import save
from transformers import AutoModelForCausalLM, AutoTokenizer

from opdlab.configuration.loader import save_resolved
from opdlab.configuration.pretrain_config import Pretraining
from opdlab.errors import DataError, ModelError, ResumeError
from opdlab.files import claimed
from opdlab.modelling import models
from opdlab.pretraining.characters import EOS_ID, PAD_ID, UNKNOWN_ID, character_tokenizer
from opdlab.pretraining.run import CONFIG, pretrain
from opdlab.pretraining.traces import IGNORED, Reading, TraceBatches, turns

CHARACTERS = "0123456789abcdefghijpqrsMCR+-*=;#(),:>"


def small(**values: Any) -> Pretraining:
    return Pretraining.model_validate(
        {
            "kind": "pretrain",
            "name": "tiny",
            "characters": CHARACTERS,
            "architecture": {
                "hidden_size": 16,
                "layers": 1,
                "heads": 2,
                "intermediate_size": 16,
                "max_positions": 96,
            },
            "sources": [{"type": "math"}, {"type": "code"}, {"type": "routes", "longest": 3}],
            "weights": [1, 2, 1],
            "steps": 12,
            "batch_size": 4,
            "warmup_steps": 2,
            "checkpoint_every": 5,
        }
        | values
    )


def batches(config: Pretraining) -> TraceBatches:
    tokenizer = character_tokenizer(config.characters, config.architecture.max_positions)
    return TraceBatches(config, tokenizer)


def test_the_tokenizer_splits_characters_and_joins_them_again(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(CHARACTERS, 64)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for one in (tokenizer, again):
        ids = one("M2a*3b-2=")["input_ids"]
        assert ids == [1, 28, 6, 14, 33, 7, 15, 32, 6, 34]
        assert one.decode(ids, skip_special_tokens=True) == "M2a*3b-2="
        assert one("2 é", add_special_tokens=False)["input_ids"] == [6, UNKNOWN_ID, UNKNOWN_ID]
        assert (one.pad_token_id, one.bos_token_id, one.eos_token_id) == (0, 1, 2)


def test_sources_take_turns_as_often_as_they_weigh() -> None:
    assert turns([1, 1, 1]) == [0, 1, 2]
    assert turns([1, 2, 1]) == [1, 0, 2, 1]
    assert sorted(turns([3, 1, 2])) == [0, 0, 0, 1, 2, 2]


def test_only_trace_tokens_and_their_eos_carry_loss() -> None:
    data = batches(small())
    for number in range(4):
        batch = data.batch(number)
        for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            text = data.tokenizer.decode(tokens, skip_special_tokens=True)
            answered = labels != IGNORED
            trace = data.tokenizer.decode(tokens[answered], skip_special_tokens=True)
            prompt = text.removesuffix(trace)
            assert prompt[-1] in "=:"
            assert trace[-2 if trace[0] in "a>:" else -1] == "#"
            assert labels[answered].equal(tokens[answered])
            assert tokens[answered][-1] == EOS_ID
            assert int(answered.sum()) == len(trace) + 1
            assert (tokens[len(text) + 2 :] == PAD_ID).all()


def test_a_batch_holds_one_source_and_depends_on_its_number_alone() -> None:
    data, again = batches(small()), batches(small())
    letters = {number: set() for number in range(4)}
    for number in (3, 1, 2, 0):
        batch = data.batch(number)
        assert batch["input_ids"].equal(again.batch(number)["input_ids"])
        for row in batch["input_ids"]:
            letters[number].add(data.tokenizer.decode(row[1]))
    assert letters == {0: {"C"}, 1: {"M"}, 2: {"R"}, 3: {"C"}}
    other = batches(small(seed=1)).batch(0)["input_ids"]
    assert not torch.equal(other, data.batch(0)["input_ids"])


def test_the_digest_goes_on_where_it_stopped() -> None:
    whole, first = batches(small()), batches(small())
    for _ in whole:
        pass
    for _, _ in zip(range(5), first, strict=False):
        pass
    second = batches(small())
    second.load_state_dict(first.state_dict())
    for _ in second:
        pass
    assert second.digest == whole.digest
    assert whole.digest != batches(small(seed=1)).digest


def test_a_missing_character_and_a_short_model_are_named() -> None:
    with pytest.raises(DataError, match="lacks ';'"):
        batches(small(characters=CHARACTERS.replace(";", ""))).batch(1)
    shape = small().architecture.model_copy(update={"max_positions": 20})
    with pytest.raises(DataError, match=r"architecture\.max_positions"):
        batches(small(architecture=shape)).batch(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1, 2]}, "one number for each source"),
        ({"weights": [1, 0, 1]}, "must be 1 or more"),
        ({"characters": "aab"}, "'a' is given twice"),
        ({"warmup_steps": 12}, "must be below steps"),
        (
            {"architecture": {"hidden_size": 18, "layers": 1, "heads": 4, "intermediate_size": 8}},
            "even multiple",
        ),
    ],
)
def test_contradictions_are_refused_at_load(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"characters": None}, "characters: a new model needs it beside architecture"),
        ({"architecture": None}, "architecture: a new model needs it beside characters"),
        ({"characters": None, "architecture": None}, "name the model to continue from in `start`"),
    ],
)
def test_a_model_is_new_or_goes_on_from_another(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small(**change)


def going_on(start: str, **values: Any) -> Pretraining:
    sources = [{"type": "word_problems", "steps": steps} for steps in (1, 2)]
    shape = {"characters": None, "architecture": None, "weights": []}
    return small(start=start, sources=sources, precision="bf16-mixed", **shape, **values)


def test_a_chat_model_is_trained_in_its_template_and_ends_as_it_does(tmp_path: Path) -> None:
    start = save(tmp_path / "chat", 640)
    tokenizer = models.load_tokenizer(start)
    config = going_on(start, output=str(tmp_path), name="more", steps=2, warmup_steps=0)
    reading = Reading.of_model(models.load_model(start), tokenizer)
    batch = TraceBatches(config, tokenizer, reading).batch(1)
    for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        answered = labels != IGNORED
        shown = tokenizer.decode(tokens[: int(answered.nonzero()[0])])
        assert shown.startswith("<bos>[user]")
        assert shown.endswith("'Answer: ' and the number.\n[assistant]")
        said = tokenizer.decode(tokens[answered])
        assert re.search(r" = (\d+)\.\nAnswer: \1<eos>\Z", said)
        assert labels[answered].equal(tokens[answered])
    folder = pretrain(config)
    after, before = models.load_model(str(folder)), models.load_model(start)
    assert after.dtype == torch.float32
    assert not torch.equal(after.lm_head.weight, before.lm_head.weight)
    assert models.load_tokenizer(str(folder)).chat_template == tokenizer.chat_template
    card = (folder / "README.md").read_text()
    assert f"Made from `{start}`" in card
    assert "license" not in card
    with pytest.raises(DataError, match="and the model takes 64: raise"):
        pretrain(going_on(save(tmp_path / "short", 64), output=str(tmp_path), name="other"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_pretraining_makes_a_model_folder_that_others_can_load(tmp_path: Path) -> None:
    benchmarks = [{"type": "math", "limit": 4}, {"type": "routes", "limit": 4}]
    config = small(
        output=str(tmp_path),
        description="For a test.",
        evaluation={"benchmarks": benchmarks, "samples": 2, "references": []},
    )
    folder = pretrain(config)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == EOS_ID
    assert model.generation_config.pad_token_id == PAD_ID
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(folder)("2=")["input_ids"] == [1, 6, 34]
    card = (folder / "README.md").read_text()
    for part in ("# tiny", "For a test.", "| math/short | ", "| routes | ", "mean@2", "SHA-256"):
        assert part in card
    with pytest.raises(ResumeError, match="--resume"):
        pretrain(config)
    with pytest.raises(ResumeError, match="learning_rate"):
        pretrain(config.model_copy(update={"learning_rate": 1.0}), resume=True)


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(tmp_path: Path) -> None:
    made = [
        weights(pretrain(small(output=str(tmp_path / str(place)), seed=seed, steps=4)))
        for place, seed in enumerate((0, 0, 1))
    ]
    assert all(made[0][name].equal(made[1][name]) for name in made[0])
    assert not any(
        made[0][name].equal(made[2][name]) for name in made[0] if not name.endswith("norm.weight")
    )


def test_a_model_is_kept_and_measured_in_the_format_that_was_asked_for(tmp_path: Path) -> None:
    folders = {
        dtype: pretrain(small(output=str(tmp_path / dtype), dtype=dtype, evaluation={}))
        for dtype in ("float32", "float16")
    }
    exact, rounded = (models.load_model(str(folder)) for folder in folders.values())
    for name, weight in exact.state_dict().items():
        assert torch.equal(weight.half().float(), rounded.state_dict()[name]), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders.values()]
    assert sizes[1] < 0.6 * sizes[0]
    assert models.weights_sha256(rounded) in (folders["float16"] / "README.md").read_text()


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="holds no pretraining"):
        pretrain(small(output=str(tmp_path)), resume=True)


def test_a_pretraining_takes_no_folder_in_which_others_keep_files(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "model").mkdir(parents=True)
    (tmp_path / "tiny" / "model" / "README.md").write_text("mine")
    with pytest.raises(ResumeError, match="holds model and no pretraining: choose another"):
        pretrain(small(output=str(tmp_path)))
    assert (tmp_path / "tiny" / "model" / "README.md").read_text() == "mine"
    shutil.rmtree(tmp_path / "tiny" / "model")
    (tmp_path / "tiny" / ".pretraining.yaml.0123abcd.partial").write_text("killed")
    pretrain(small(output=str(tmp_path), steps=3, evaluation={}))


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_pretraining_of_a_folder_names_the_first_and_changes_nothing(
    tmp_path: Path, resume: bool
) -> None:
    """Not that the folder could be removed, from under the process that works there."""
    (tmp_path / "tiny").mkdir()
    with claimed(tmp_path / "tiny"):
        if resume:
            save_resolved(small(output=str(tmp_path)), tmp_path / "tiny" / CONFIG)
        before = sorted(path.name for path in (tmp_path / "tiny").iterdir())
        with pytest.raises(ResumeError, match=f"in use by process {os.getpid()} on "):
            pretrain(small(output=str(tmp_path), seed=3), resume)
        assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == before


def test_a_pretraining_goes_on_from_another_model(tmp_path: Path) -> None:
    base = pretrain(small(output=str(tmp_path), name="base"))
    rate = {"learning_rate": 1e-9, "warmup_steps": 0, "steps": 1, "seed": 5}
    child = pretrain(small(output=str(tmp_path), name="child", start=str(base), **rate))
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (base, child)
    )
    assert f"Made from `{base}`" in (child / "README.md").read_text()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-7, rtol=0)
    wide = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 16}
    with pytest.raises(ModelError, match="another architecture"):
        pretrain(small(output=str(tmp_path), name="a", start=str(base), architecture=wide))
    with pytest.raises(ModelError, match="another characters"):
        pretrain(
            small(output=str(tmp_path), name="b", start=str(base), characters=CHARACTERS[::-1])
        )
