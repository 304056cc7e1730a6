"""A real vLLM: rollouts with weights sent, evaluations, and what becomes of them when it dies.

Run where `tests/served/install` has made its environment; a server of a small random Llama takes a minute
to start on two cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from served.vllm_server import VllmServer, small_llama, vllm_missing
from transformers import PreTrainedModel

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.errors import RefusedError, ServerError
from opdlab.evaluation.measured import evaluate
from opdlab.evaluation.served import open_served
from opdlab.evaluation.store import SampleSet, sample_sets
from opdlab.evaluation.subjects import Measured, Subject
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.serving.engine import OpenAIEngine

if missing := vllm_missing():
    pytest.skip(missing, allow_module_level=True)
pytestmark = pytest.mark.timeout(1200)
PROMPTS = [[1, 5, 9, 12 + row] for row in range(16)]
SEEDS = list(range(16))
ENDS: dict[str, Any] = {"eos_ids": (2,), "pad_id": 0}
LENGTH = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_llama(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[VllmServer]:
    with VllmServer(folder) as server:
        yield server


def engine(server: VllmServer, **changes: Any) -> OpenAIEngine:
    values: dict[str, Any] = {"max_new_tokens": LENGTH, "patience_s": 60.0, **changes}
    return OpenAIEngine(url=server.url, **values)


def moved(folder: Path, by: float) -> PreTrainedModel:
    model, noise = models.load_model(str(folder)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=noise))
    return model


def served(server: VllmServer, folder: Path, output: Path) -> Measured:
    return open_served(engine(server), str(folder), "none", output)


def measure(subject: Measured, folder: Path, **changes: Any) -> SampleSet:
    settings = {"benchmarks": [{"type": "math", "level": "short", "limit": 8}], "samples": 2}
    evaluate(subject, Evaluation.model_validate(settings | changes), Owner("x"), folder)
    (found,) = sample_sets(folder)
    return found


def test_greedy_answers_of_vllm_are_those_of_the_process(
    server: VllmServer, folder: Path, tmp_path: Path
) -> None:
    model, tokenizer = models.load_model(str(folder)), models.load_tokenizer(str(folder))
    here = Subject(
        model=model,
        tokenizer=tokenizer,
        engine=engine(server).in_process(),
        template="none",
        **ENDS,
    )
    greedy = {"sampling": "greedy", "samples": 1}
    theirs = measure(served(server, folder, tmp_path), tmp_path / "served", **greedy)
    ours = measure(here, tmp_path / "here", **greedy)
    said = {key: row.drawn for key, row in theirs.generations().items()}
    assert said == {key: row.drawn for key, row in ours.generations().items()}
    assert theirs.asked.protocol == ours.asked.protocol
    assert theirs.asked.software["server_version"] == "0.32.0"


def test_weights_go_over_at_every_change_and_are_seen_to(
    server: VllmServer, folder: Path, tmp_path: Path
) -> None:
    through = engine(server, weights_folder=str(tmp_path))
    for by in (0.05, 1e-4):
        student = moved(folder, by)
        for sends in (True, False):
            found = through.sample(student, PROMPTS, SEEDS, **ENDS, top_k=3)
            # The model's folder names a top-k of 3 to servers that are not told another.
            assert not (found.token[:, None] == found.candidates).any(1).all()
            figures = through.figures(student)
            assert ("seconds/weights" in figures) == sends
            assert figures["server_gap"] < 1e-5
            assert found.response_lengths.max() <= LENGTH
    # Another training's, and none that was sent.
    tag = f"{server.root}/update_weight_version"
    requests.post(tag, json={"new_version": "opdlab-other"}, timeout=60)
    with pytest.raises(ServerError, match="weights of another training"):
        through.sample(student, PROMPTS, SEEDS, **ENDS)
    requests.post(tag, json={"new_version": "default"}, timeout=60)
    through.sample(student, PROMPTS, SEEDS, **ENDS)
    assert "seconds/weights" in through.figures(student)


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.6}, {"top_p": 0.9}, {"temperature": 0.0}]
)
def test_other_weights_are_refused_however_it_samples(
    server: VllmServer, folder: Path, sampling: dict[str, float]
) -> None:
    with pytest.raises(ServerError, match="does not serve the student"):
        engine(server, **sampling).sample(moved(folder, 0.03), PROMPTS, SEEDS, **ENDS)


def test_a_prompt_longer_than_its_context_ends_no_other_and_one_near_it_is_not_cut(
    server: VllmServer, folder: Path, tmp_path: Path
) -> None:
    came: dict[int, Any] = {}
    asked = [*PROMPTS[:3], [1] * 300, *PROMPTS[3:6], [1] * 250]
    with pytest.raises(RefusedError, match=r"row 3: .*status 400.*context length") as told:
        engine(server, weights_folder=str(tmp_path)).answer(
            models.load_model(str(folder)),
            asked,
            list(range(8)),
            **ENDS,
            max_rows=64,
            max_tokens=9999,
            on_response=came.__setitem__,
        )
    assert "ended by its length after 6 of 24 tokens" in told.value.rows[7]
    assert sorted(came) == [0, 1, 2, 4, 5, 6]


def test_a_server_that_is_killed_in_a_rollout_and_started_again_gets_the_weights_again(
    server: VllmServer, folder: Path, tmp_path: Path
) -> None:
    student = moved(folder, 0.05)
    through = engine(server, weights_folder=str(tmp_path), max_new_tokens=200, patience_s=400.0)
    through.sample(student, PROMPTS, SEEDS, **ENDS)
    through.figures(student)

    def restart() -> None:
        time.sleep(0.3)
        server.kill()
        server.start(wait=False)

    beside = threading.Thread(target=restart)
    beside.start()
    many = PROMPTS * 16
    found = through.sample(student, many, list(range(len(many))), **ENDS)
    beside.join()
    figures = through.figures(student)
    assert "seconds/weights" in figures
    assert figures["server_gap"] < 1e-5
    assert len(found.response_lengths) == len(many)


def test_an_engine_that_dies_is_told_with_its_last_words(server: VllmServer, folder: Path) -> None:
    """It is the last test of this server."""
    many = PROMPTS * 64
    killer = threading.Timer(1.0, server.kill_engine)
    killer.start()
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"engine|connection refused"):
        engine(server, max_new_tokens=200, patience_s=8.0).sample(
            models.load_model(str(folder)), many, list(range(len(many))), **ENDS
        )
    killer.join()
    assert time.monotonic() - started < 60
