"""Models whose weights lie in parts on two processes say what the whole model says.

The processes have rows of unequal number and length, so they make unequal numbers of forwards.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.small_runs import experiment, models, train
from small_models import random_rollout, small_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from two_processes import in_two_processes

from opdlab.errors import ModelError
from opdlab.modelling import ShardedWeights
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.sampling import CachedEngine, RolloutEngine
from opdlab.sampling.rollout import GenerateEngine
from opdlab.scoring import Teacher
from opdlab.scoring.length_groups import states_before_tokens
from opdlab.scoring.tree import part

# Tied weights, experts, sliding windows, latent attention, and layers that no tree can be hooked into.
FAMILIES = ("llama", "qwen3", "gemma3", "deepseek_v3", "mixtral", "gpt_oss", "mamba")
ROWS = ([0], [1, 2, 3, 4])
ENDS: dict[str, Any] = {"eos_ids": (0,), "pad_id": 0, "top_k": 2}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded.*fork:DeprecationWarning",
    "ignore:.*whole forward:UserWarning",
    "ignore::FutureWarning",
)


def sharded(family: str) -> ShardedWeights:
    model = small_model(family)
    weights = ShardedWeights(model, init_device_mesh("cpu", (2,)), MixedPrecisionPolicy())
    for weight in model.parameters():
        assert isinstance(weight, DTensor)
        assert weight.to_local().numel() < max(weight.numel(), 2)
    return weights


def rows(rollout: Rollout, some: list[int]) -> tuple[Rollout, Questions]:
    """With room for little, so that one has many forwards."""
    mine, _ = part(rollout, torch.tensor(some))
    return mine, Questions(mine.candidates)


def rollout_of() -> Rollout:
    return random_rollout([3, 9, 4, 6, 5], [2, 11, 7, 3, 9], top_k=3)


def teacher_of(model: Any) -> Teacher:
    return Teacher(model, leaf_chunk=5, trunk_tokens=16)


def scored(family: str, rank: int) -> dict[str, Any]:
    weights = sharded(family)
    teacher = teacher_of(weights.model)
    teacher.weights = weights
    scores = teacher.score(*rows(rollout_of(), ROWS[rank]))
    weights.model.requires_grad_(True)
    # What was scored leaves nothing behind that a step with gradient would trip over.
    with weights.head():
        pass
    return vars(scores) | {"way": teacher.way}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sharded_teacher_scores_as_the_whole_one(tmp_path: Path, family: str) -> None:
    alone = teacher_of(small_model(family))
    found = in_two_processes(tmp_path, partial(scored, family))
    for some, said in zip(ROWS, found, strict=True):
        assert not isinstance(said, str), said
        assert said["way"] == alone.probe().way
        expected: TeacherScores = alone.score(*rows(rollout_of(), some))
        for name in ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence"):
            torch.testing.assert_close(
                said[name], getattr(expected, name), rtol=0, atol=1e-6, equal_nan=True
            )


def answered(engine: RolloutEngine, roomy: bool, rank: int) -> dict[str, Any]:
    weights = sharded("qwen3")
    weights.roomy = roomy
    with weights.sampling():
        found = engine.sample(weights.model, *asked(ROWS[rank]), **ENDS)
    # Afterwards each has a part again.
    assert all(isinstance(weight, DTensor) for weight in weights.model.parameters())
    return {"tokens": found.tokens, "log_prob": found.log_prob}


def asked(some: list[int]) -> tuple[list[list[int]], list[int]]:
    rollout = rollout_of()
    prompts = [rollout.tokens[row, : rollout.prompt_lengths[row]].tolist() for row in some]
    return prompts, [100 + row for row in some]


@pytest.mark.parametrize("engine", [CachedEngine, GenerateEngine])
@pytest.mark.parametrize("roomy", [True, False], ids=["gathered once", "gathered layer by layer"])
def test_a_sharded_student_answers_as_the_whole_one(
    tmp_path: Path, engine: type[RolloutEngine], roomy: bool
) -> None:
    made = engine(max_new_tokens=24)
    model = small_model("qwen3")
    found = in_two_processes(tmp_path, partial(answered, made, roomy))
    lengths = set()
    for some, said in zip(ROWS, found, strict=True):
        assert not isinstance(said, str), said
        expected = made.sample(model, *asked(some), **ENDS)
        assert torch.equal(said["tokens"], expected.tokens)
        torch.testing.assert_close(said["log_prob"], expected.log_prob, rtol=0, atol=1e-6)
        lengths.add(int(expected.response_lengths.max()))
    assert len(lengths) == 2  # so that one process is ready first


def gradients(family: str, rank: int) -> dict[str, Any]:
    weights = sharded(family)
    mine, _ = rows(rollout_of(), ROWS[rank])

    def work() -> torch.Tensor:
        return states_before_tokens(weights.model, mine, grouped=False).square().sum()

    for _ in range(2):  # a second micro-batch adds to the first
        weights.run(work).backward()
    found = {}
    for name, weight in weights.model.named_parameters():
        if weight.grad is not None:
            assert isinstance(weight.grad, DTensor)
            found[name] = weight.grad.full_tensor()
    return found


@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral"])
def test_gradients_are_the_mean_over_both(tmp_path: Path, family: str) -> None:
    model = small_model(family)
    for some in ROWS:
        mine, _ = rows(rollout_of(), some)
        states_before_tokens(model, mine, grouped=False).square().sum().backward()
    for said in in_two_processes(tmp_path, partial(gradients, family)):
        assert not isinstance(said, str), said
        for name, weight in model.named_parameters():
            if weight.grad is not None:  # two backward passes, the mean of two processes
                scale = float(weight.grad.abs().max())
                torch.testing.assert_close(said[name], weight.grad, rtol=0, atol=1e-5 * scale)


def failing(rank: int) -> None:
    weights = sharded("llama")
    teacher = teacher_of(weights.model)
    teacher.weights = weights
    mine, questions = rows(rollout_of(), ROWS[rank])
    if rank == 1:
        mine = replace(mine, prompt_lengths=mine.prompt_lengths * 0)
    teacher.score(mine, questions)


def test_a_teacher_that_refuses_rows_in_one_process_ends_both(tmp_path: Path) -> None:
    found = in_two_processes(tmp_path, failing)
    assert all(one.startswith("PeerError: training process 1 failed") for one in found), found


def taught_by_answers(folder: Path) -> None:
    student = shutil.copytree(models()[0], folder / "student") / "config.json"
    student.write_text(json.dumps({**json.loads(student.read_text()), "is_causal": False}))
    config = experiment({"type": "sft"}, strategy="fsdp")
    looking = config.student.model_copy(update={"path": str(student.parent)})
    train(config.model_copy(update={"student": looking}), folder)


def test_a_student_that_looks_ahead_is_refused_before_it_learns_what_others_wrote(
    tmp_path: Path,
) -> None:
    fork = multiprocessing.get_context("fork")
    with (
        ProcessPoolExecutor(1, fork, partial(torch.set_num_threads, 1)) as one,
        pytest.raises(ModelError, match="depends on later tokens"),
    ):
        one.submit(taught_by_answers, tmp_path).result()
