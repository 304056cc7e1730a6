"""Which experiments a store fits: others are refused when they are read, or ask the models there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import stores
import torch

from opdlab.configuration import loader
from opdlab.configuration.config import Experiment
from opdlab.errors import ConfigError, DamagedError, DataError, ModelError
from opdlab.offline import plan
from opdlab.offline.request import Asked, prepared
from opdlab.scores.kinds import Kind
from opdlab.scores.reader import Scores

LGR = {"type": "lgr", "ratio_cap": 2.0, "top_k": 4, "entropy_threshold": 0.5}
STUDENTS = {"answers": "student", "prompts": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("fitting")
    stores.models(found)
    stores.made(found, "sampled", "given")
    stores.made(found, "top_k:6", "own", method="opd", **STUDENTS)
    stores.made(found, "sampled", "candidates", method=LGR, **STUDENTS)
    return found


@pytest.fixture
def moved(folder: Path, tmp_path: Path) -> Path:
    """The same models, but the student has other weights than when its answers were scored."""
    stores.models(tmp_path)
    model = stores.AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    torch.manual_seed(11)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(tmp_path / "student")
    return tmp_path


def rollout_of(config: Experiment) -> tuple[Any, Scores, list[int]]:
    """Answers of a step, the store, and their numbers there."""
    module = stores.module_of(config)
    found = module.collector.sample(range(4), stores.HERE)
    rows = [problem.extra["stored"] for problem in found.problems]
    return found.rollout.host, module.prompts.scores, rows  # pyright: ignore[reportAttributeAccessIssue]


def stored(scores: Scores, rows: list[int], name: str) -> torch.Tensor:
    return torch.cat([scores.tensor(name, row) for row in rows])


@pytest.mark.parametrize("store", ["own", "candidates"])
def test_a_live_teacher_is_asked_about_the_candidates_of_the_student_that_trains(
    folder: Path, moved: Path, store: str
) -> None:
    """And the weights of a ratio stay those of the student that wrote the answers."""
    method = LGR | {"top_k": 5, "entropy_threshold": 0.0}
    config = stores.with_live_teacher(moved, folder / store, method)
    rollout, scores, rows = rollout_of(config)
    assert (rollout.candidates >= 0).all()
    torch.testing.assert_close(rollout.log_prob, stored(scores, rows, "student_log_prob"))
    assert (rollout.entropy - stored(scores, rows, "student_entropy")).abs().max() > 1e-3
    gradient, _ = stores.first_step(config)
    assert gradient.isfinite().all()


def test_a_divergence_takes_the_word_of_the_student_that_trains(folder: Path, moved: Path) -> None:
    config = stores.with_live_teacher(moved, folder / "own")
    rollout, scores, rows = rollout_of(config)
    assert (rollout.entropy - stored(scores, rows, "student_entropy")).abs().max() > 1e-3
    masked = {"mask": {"entropy_share": 0.5}}
    method = {"type": "opd", "ratio_clip": 0.2}
    config = stores.with_live_teacher(moved, folder / "own", method, training=masked)
    rollout, _, _ = rollout_of(config)
    assert (rollout.entropy - stored(scores, rows, "student_entropy")).abs().max() > 1e-3
    torch.testing.assert_close(rollout.log_prob, stored(scores, rows, "student_log_prob"))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"variant": "topk"},
            r"method\.variant: .* holds no confidences at tokens that end an answer",
        ),
        ({"probability_mass": 0.9}, ""),
        ({"top_k": 3}, ""),
    ],
)
def test_candidates_that_were_never_stored_are_refused(
    folder: Path, more: dict[str, Any], why: str
) -> None:
    store = folder / "candidates"
    if why:
        with pytest.raises(ValueError, match=why):
            stores.from_store(folder, store, LGR | more)
    else:
        stores.first_step(stores.from_store(folder, store, LGR | more))
    stores.with_live_teacher(folder, store, LGR | more)  # who is there is asked about them


def test_a_store_of_a_smaller_mass_holds_too_few_candidates(folder: Path, tmp_path: Path) -> None:
    method = LGR | {"probability_mass": 0.5, "variant": "topk"}
    store = stores.made(folder, "sampled", str(tmp_path / "mass"), method=method, **STUDENTS)
    for more in ({"probability_mass": 0.5}, {"probability_mass": 0.3, "variant": "sampled"}):
        stores.first_step(stores.from_store(folder, store, method | more))
    for mass in (0.6, None):
        with pytest.raises(ValueError, match=r"method\.probability_mass: .*0\.5; set that or less"):
            stores.from_store(folder, store, method | {"probability_mass": mass})


def test_answers_are_checked_whoever_teaches(folder: Path) -> None:
    with pytest.raises(ValueError, match="the method imitates answers, and those of"):
        stores.with_live_teacher(folder, folder / "own", "sft")
    shorter = {"type": "cached", "max_new_tokens": stores.LONGEST - 1}
    with pytest.raises(ValueError, match=r"rollout\.max_new_tokens \(7\): answers in"):
        stores.with_live_teacher(folder, folder / "own", rollout=shorter)
    top_k = {"type": "forward_kl", "support": "top_k", "top_k": 7}
    stores.with_live_teacher(folder, folder / "own", top_k)  # the store's own six are not asked


def test_a_changed_file_is_refused_beside_a_live_teacher(folder: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(folder / "own", tmp_path / "store"))
    module = stores.module_of(stores.with_live_teacher(folder, store))
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.on_fit_start()
    path = store / "shards" / "00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"00000\.arrow has changed since it was written"):
        module.on_fit_start()


def written(folder: Path, turns: list[str], **prompts: Any) -> Experiment:
    """An experiment on chats of a user's and an assistant's turn, without given answers."""
    roles = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant"), turns, strict=True)
    ]
    path = folder / "chats.jsonl"
    path.write_text(json.dumps({"prompt": roles}) + "\n")
    data = {"type": "dataset", "path": str(path)}
    return stores.experiment(folder, "opd", prompts=data | prompts)


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        (["1+" * 60, "2"], r"tokens, which are \d+ with rollout\.max_new_tokens \(8\)"),
        (["好" * 9, "2"], "The tokenizer of .* does not have these characters"),
        (["1+1?", "2" * 9], r"has 10 tokens, EOS included, and rollout\.max_new_tokens is 8"),
    ],
)
def test_answers_that_no_training_could_use_are_not_scored(
    folder: Path, tmp_path: Path, turns: list[str], why: str
) -> None:
    with pytest.raises((DataError, ModelError), match=why):
        stores.score(written(folder, turns), tmp_path / "out", kind="sampled")
    assert not (tmp_path / "out").exists()


def test_given_answers_after_a_prefill_and_a_teacher_behind_the_students_server_are_refused(
    folder: Path,
) -> None:
    begun = written(folder, ["1+1?", "2"], prefill="So ")
    with pytest.raises(ConfigError, match=r"prompts\.prefill: it does not go with given answers"):
        prepared(begun, Asked(kind=Kind("sampled")))
    prepared(begun, Asked("student", Kind("sampled")))
    served = {"type": "openai", "url": "http://localhost:1/v1", "max_new_tokens": 8}
    config = stores.experiment(folder, "opd", given=False, rollout=served)
    with pytest.raises(ConfigError, match=r"rollout\.type: a server serves the student"):
        prepared(config, Asked("teacher", Kind("sampled")))


def test_the_potential_reward_comes_from_a_store_with_candidates_and_no_other(folder: Path) -> None:
    method = LGR | {"reward": "potential"}
    stored_one, _ = stores.first_step(stores.from_store(folder, folder / "candidates", method))
    live, made = stores.first_step(stores.with_live_teacher(folder, folder / "candidates", method))
    assert made.advantage.abs().max() > 1e-3
    torch.testing.assert_close(stored_one, live, atol=1e-5, rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"method\.confidence: .* reward: group in the experiment, whose store"
    ):
        stores.from_store(folder, folder / "own", method)


def test_runs_of_one_experiment_train_from_several_stores(folder: Path, tmp_path: Path) -> None:
    """Of a run's store all follows that followed from the first one; also when the file is read again."""
    told = stores.from_store(folder, folder / "top").model_dump(mode="json")
    del told["teacher"]["path"], told["prompts"]["path"]
    other = str(folder / "other")
    told["runs"] = [{"name": "one", "set": {}}, {"name": "two", "set": {"teacher.scores": other}}]
    loader.save_resolved(Experiment.model_validate(told), tmp_path / "config.yaml")
    config = loader.load_experiment(tmp_path / "config.yaml")
    one, two = (dict(loader.variants(config))[name] for name in ("one", "two"))
    assert [run.teacher.path for run in (one, two)] == [f"{folder}/top/teacher", f"{other}/teacher"]
    assert [run.prompts.model_dump()["path"] for run in (one, two)] == [f"{folder}/top", other]
    with pytest.raises(ValueError, match=r"path: `scores` names a teacher"):
        stores.experiment(folder, teacher={"scores": other, "path": str(folder / "teacher")})


@pytest.mark.parametrize("kind", ["top_k:6", "drawn:4"])
def test_tokens_of_a_store_are_spread_out_on_the_device_of_the_student(
    folder: Path, kind: str
) -> None:
    store = stores.made(folder, kind, f"spread-{kind}")
    top_k = {"support": "top_k", "top_k": 6} if kind == "top_k:6" else {}
    module = stores.module_of(stores.from_store(folder, store, {"type": "forward_kl"} | top_k))
    said = module.collector.collect(stores.HERE).scores.distributions
    assert said is not None
    module.teacher.place(torch.device("meta"))
    assert module.teacher.logits(said)(slice(0, 2)).device.type == "meta"


def test_a_plan_counts_prompts_and_the_head(folder: Path) -> None:
    scores = Scores(stores.made(folder, "hidden:float32", "planned"))
    (shard,) = scores.folder.glob("shards/*.arrow")
    written = shard.stat().st_size
    head = (scores.folder / "teacher" / "head.safetensors").stat().st_size
    told = plan(stores.experiment(folder), Asked(kind=Kind.read("hidden:float32")))
    assert told.bytes == pytest.approx(written + head, rel=0.05)
    assert 0.95 * head < told.once["hidden:float32"] <= told.bytes
