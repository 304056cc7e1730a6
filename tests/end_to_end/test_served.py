"""`opdlab eval --server` against a real server: `transformers serve`, killed and started again."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from end_to_end.laboratory import Laboratory
from end_to_end.model_server import TransformersServer
from planted import found, planted

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.errors import ServerError
from opdlab.evaluation.measured import evaluate
from opdlab.evaluation.served import open_served
from opdlab.evaluation.store import SampleSet, sample_sets
from opdlab.evaluation.subjects import Measured, Subject
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving.engine import OpenAIEngine

NEEDED = ("fastapi", "openai", "python_multipart", "uvicorn")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"`transformers serve` needs {', '.join(MISSING)}: pip install -e '.[dev]'",
)
STUDENT = models.EMBEDDED / "student"
PROBLEMS, SAMPLES, LENGTH = 20, 4, 48
SETTINGS: dict[str, Any] = {
    "benchmarks": [{"type": "math", "level": "short", "limit": PROBLEMS}],
    "samples": SAMPLES,
}


# By these the server would sample where a request does not say otherwise.
ODD = {
    "repetition_penalty": 1.3,
    "min_p": 0.2,
    "no_repeat_ngram_size": 2,
    "min_length": 40,
    "bad_words_ids": [[token] for token in range(5, 24)],
    "sequence_bias": [[[token], 4.0] for token in range(5, 9)],
    "exponential_decay_length_penalty": [2, 1.8],
    "max_time": 1e-4,
    "penalty_alpha": 0.6,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersServer]:
    model = tmp_path_factory.mktemp("served") / "student"
    shutil.copytree(STUDENT, model)
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(settings | ODD))
    with TransformersServer(model) as server:
        yield server


def served(server: TransformersServer) -> Measured:
    engine = OpenAIEngine(url=server.url, served_model=str(server.model), max_new_tokens=LENGTH)
    return open_served(engine, "embedded:student", "auto")


def here() -> Measured:
    model, tokenizer = models.load_model(str(STUDENT)), models.load_tokenizer(str(STUDENT))
    return Subject(
        model=model,
        tokenizer=tokenizer,
        engine=CachedEngine(max_new_tokens=LENGTH),
        eos_ids=models.eos_ids(model, tokenizer),
        pad_id=models.pad_id(model, tokenizer),
        template="auto",
    )


def measure(subject: Measured, folder: Path, **changes: Any) -> SampleSet:
    evaluate(subject, Evaluation.model_validate({**SETTINGS, **changes}), Owner("student"), folder)
    (found,) = sample_sets(folder)
    return found


def content(one: SampleSet) -> dict[tuple[str, int], tuple]:
    return {key: row.drawn for key, row in one.generations().items()}


def test_greedy_answers_of_a_server_are_those_of_the_process(
    server: TransformersServer, tmp_path: Path
) -> None:
    greedy = {"sampling": "greedy", "samples": 1}
    theirs = measure(served(server), tmp_path / "served", **greedy)
    ours = measure(here(), tmp_path / "here", **greedy)
    assert content(theirs) == content(ours)
    assert theirs.asked.protocol == ours.asked.protocol
    assert theirs.asked.software["server_software"] == "transformers"
    assert theirs.asked.software["server_model"] == str(server.model)


def test_rollouts_from_a_server_without_token_ids_are_refused(server: TransformersServer) -> None:
    engine = OpenAIEngine(url=server.url, served_model=str(server.model))
    model = models.load_model(str(STUDENT))
    with pytest.raises(ServerError, match=r"returns no token ids.*opdlab eval --server"):
        engine.sample(model, [[1, 5]], [0], eos_ids=(2,), pad_id=0)


def test_a_server_and_a_client_that_are_killed_lose_and_repeat_nothing(
    server: TransformersServer, laboratory: Laboratory, tmp_path: Path
) -> None:
    undisturbed = content(measure(served(server), tmp_path / "undisturbed"))
    changes = {f"evaluation__{key}": value for key, value in SETTINGS.items()}
    file = laboratory.write(rollout__max_new_tokens=LENGTH, **changes)
    address = planted(server.url)
    command = ("eval", file, "--model", server.model, "--server", address)

    client = laboratory.start(*command)
    wait_for_samples(laboratory, client)
    server.kill()
    client.kill()
    client.communicate()
    before = content(the_set(laboratory))
    assert 0 < len(before) < PROBLEMS * SAMPLES

    with socket.create_server(("127.0.0.1", server.port)) as nobody:
        client = laboratory.start(*command)
        nobody.settimeout(180)
        nobody.accept()[0].close()  # the client meets no server, and waits
    assert client.poll() is None
    server.start()
    text, _ = client.communicate(timeout=240)
    assert client.returncode == 0, text
    after = content(the_set(laboratory))
    assert len(after) == PROBLEMS * SAMPLES
    assert before.items() <= after.items()
    assert after == undisturbed
    assert len({row[2] for row in after.values()}) > 2 * PROBLEMS  # it did sample
    assert found(laboratory.folder, text) == []


def the_set(laboratory: Laboratory) -> SampleSet:
    (folder,) = laboratory.output.glob("evaluations/student-transformers-*")
    (found,) = sample_sets(folder / "samples")
    return found


def wait_for_samples(laboratory: Laboratory, client: Any) -> None:
    pattern = "evaluations/*/samples/*/generations-*.parquet"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and client.poll() is None:
        if list(laboratory.output.glob(pattern)):
            return
        time.sleep(0.02)
    assert client.poll() is None, client.communicate()[0]
    raise AssertionError("no samples came")
