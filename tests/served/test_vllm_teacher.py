"""A teacher behind a real vLLM says what it says in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from served.vllm_server import VllmServer, small_llama, vllm_missing

from opdlab.errors import RefusedError, ServerError
from opdlab.modelling import models
from opdlab.records import Questions, Rollout
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.teacher import Teacher
from opdlab.serving.access import Access
from opdlab.serving.served_teacher import ServedTeacher

if missing := vllm_missing():
    pytest.skip(missing, allow_module_level=True)
pytestmark = pytest.mark.timeout(1200)
ENTRIES = 42
TEXT = [(11 + 5 * place) % ENTRIES for place in range(32)]
PROMPTS = [[1, 5, 9, 12 + row] + [7] * (row % 3) for row in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_llama(tmp_path_factory.mktemp("served") / "teacher", seed=1)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[VllmServer]:
    with VllmServer(folder) as server:
        yield server


@pytest.fixture(scope="module")
def rollout(folder: Path) -> Rollout:
    student = models.load_model(str(small_llama(folder.parent / "student", seed=2)))
    engine = CachedEngine(max_new_tokens=24)
    return engine.sample(student, PROMPTS, list(range(8)), eos_ids=(2,), pad_id=0, top_k=4)


def served(server: VllmServer) -> ServedTeacher:
    access = Access(server.url, "NO_SUCH_KEY", 16, 60.0, 300.0)
    return ServedTeacher(access, None, ENTRIES, ENTRIES, TEXT)


def test_scores_of_vllm_are_those_of_the_process(
    server: VllmServer, folder: Path, rollout: Rollout
) -> None:
    here = Teacher(models.load_model(str(folder)), ENTRIES)
    wanted = (torch.arange(len(rollout.token)) % 3 == 0)[:, None] & (rollout.candidates != 2)
    asked = Questions(rollout.candidates.masked_fill(~wanted, -1), top_k=5)
    found, truth = (one.score(rollout, asked) for one in (served(server), here))
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-4, "equal_nan": True}
    for name in ("log_prob", "fidelity", "sampled_confidence", "confidence"):
        torch.testing.assert_close(getattr(found, name), getattr(truth, name), **close)
    assert found.leaves == truth.leaves > 50
    assert truth.hidden is not None
    top = here.log_probs(truth.hidden).topk(5)
    torch.testing.assert_close(found.top_log_prob, top.values, **close)
    assert found.top_ids is not None
    assert (found.top_ids == top.indices).float().mean() > 0.99


def test_what_vllm_refuses_is_told(server: VllmServer, rollout: Rollout) -> None:
    teacher = served(server)
    with pytest.raises(RefusedError, match=r"status 400.*logprobs"):
        teacher.score(rollout, Questions(rollout.candidates[:, :0], top_k=30))
    named = ServedTeacher(teacher.access, "no-such", ENTRIES, ENTRIES, TEXT)
    with pytest.raises(ServerError, match="no model 'no-such'"):
        named.probe()
