"""Several rollout servers: rows shared by load, none lost and none twice, whoever dies or comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from token_server import EOS, TokenServer
from transformers import PreTrainedModel
from typing_extensions import override

from opdlab.configuration.config import misfits
from opdlab.configuration.loader import load_experiment
from opdlab.configuration.prompt_settings import DatasetPrompts
from opdlab.errors import AwayError, RefusedError, ServerError
from opdlab.methods.sft import SFT
from opdlab.modelling import models
from opdlab.records import Rollout
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving import fleet, health, weights
from opdlab.serving.engine import OpenAIEngine

STUDENT = models.EMBEDDED / "student"
LENGTH = 6
PROMPTS = [[1, 5 + row, 9] for row in range(12)]


class Mortal(TokenServer):
    """Dies at its n-th completion, without a word.

    Attributes:
        thawed: clear where it is frozen as a whole from then on instead, its port open.
        forgets_at: the completion after which it has other weights, and answers nothing any more.
    """

    dies_at = forgets_at = 0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.thawed = threading.Event()
        self.thawed.set()

    @override
    def get(self, path: str) -> Any:
        if self.dies_at < 0:
            self.thawed.wait()
        return super().get(path)

    @override
    def complete(self, body: dict[str, Any]) -> Any:
        self.forgets_at -= 1
        found = self.completed(body)
        if self.forgets_at == 0:
            self.forget()
            self.refuses, self.status = lambda _: True, 400
        return found

    def completed(self, body: dict[str, Any]) -> Any:
        if not self.thawed.is_set():
            self.dies_at -= 1
            if self.dies_at < 0:
                self.thawed.wait()
            return super().complete(body)
        with self.lock:
            self.dies_at -= 1
            if self.dies_at == 0:
                self.http.shutdown()
                self.http.server_close()
        if self.dies_at == 0:
            raise ConnectionAbortedError
        return super().complete(body)


@pytest.fixture
def student() -> PreTrainedModel:
    return models.load_model(str(STUDENT))


@pytest.fixture
def pair() -> Iterator[tuple[TokenServer, Mortal]]:
    with TokenServer(STUDENT) as one, Mortal(STUDENT) as other:
        yield one, other


def engine(pair: tuple[TokenServer, TokenServer], folder: Path, **changes: Any) -> OpenAIEngine:
    values: dict[str, Any] = {"max_new_tokens": LENGTH, "patience_s": 0.5, **changes}
    return OpenAIEngine(url=[one.url for one in pair], weights_folder=str(folder), **values)


def sample(engine: Any, model: PreTrainedModel) -> Rollout:
    seeds = list(range(len(PROMPTS)))
    return engine.sample(model, PROMPTS, seeds, eos_ids=(EOS,), pad_id=0, top_k=2)


def asked(server: TokenServer) -> int:
    return server.seen["/v1/completions"]


def assert_own(found: Rollout, model: PreTrainedModel) -> None:
    """Row by row what the student itself would have sampled."""
    own = sample(CachedEngine(max_new_tokens=LENGTH), model)
    assert torch.equal(found.tokens, own.tokens)
    assert torch.equal(found.candidates, own.candidates)
    torch.testing.assert_close(found.log_prob, own.log_prob, atol=2e-4, rtol=0)


def test_a_slow_server_gets_fewer_rows_and_the_rollout_is_the_same(
    pair, student: PreTrainedModel, tmp_path: Path
) -> None:
    fast, slow = pair
    slow.pause.wait = lambda _: threading.Event().wait(0.3)  # type: ignore[method-assign]
    through = engine(pair, tmp_path, concurrency=2)
    assert_own(sample(through, student), student)
    each = [dict(link.figures) for link in weights._LINKS[student].values()]
    told = through.figures(student)
    assert told["seconds/weights"] == sum(one["seconds/weights"] for one in each)
    assert told["server_gap"] == max(one["server_gap"] for one in each)
    assert asked(fast) + asked(slow) == len(PROMPTS)
    assert 0 < asked(slow) < asked(fast)
    assert fast.seen["/collective_rpc"] == slow.seen["/collective_rpc"] == 1


def test_a_server_that_dies_is_left_out_until_it_is_back(
    pair, student: PreTrainedModel, tmp_path: Path
) -> None:
    whole, mortal = pair
    through = engine(pair, tmp_path, concurrency=2)
    mortal.dies_at = 3
    assert_own(sample(through, student), student)
    assert asked(whole) == len(PROMPTS), "what it had answered by then is not counted"
    assert_own(sample(through, student), student)
    assert asked(whole) == 2 * len(PROMPTS)
    sent = mortal.seen["/collective_rpc"]
    mortal.forget()
    with mortal:
        assert_own(sample(through, student), student)
        assert mortal.seen["/collective_rpc"] == sent + 1, "it came back without the weights"
        assert asked(whole) < 3 * len(PROMPTS)
    whole.http.server_close()
    whole.http.shutdown()
    with pytest.raises(AwayError, match="none of the rollout servers is there"):
        sample(through, student)


def test_a_server_that_freezes_is_left_out(
    pair, student: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, frozen = pair
    for module, name in ((health, "TIMEOUT_S"), (health, "ASKED_AFTER_S"), (fleet, "TIMEOUT_S")):
        monkeypatch.setattr(module, name, 0.1)
    frozen.dies_at = 3
    frozen.thawed.clear()
    try:
        assert_own(sample(engine(pair, tmp_path, concurrency=2, patience_s=0.3), student), student)
    finally:
        frozen.thawed.set()
    assert asked(whole) == len(PROMPTS)


def test_a_server_that_says_it_is_well_and_answers_nothing_is_tried_once_a_rollout(
    pair, student: PreTrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair[1].failures = 10**6
    assert_own(sample(engine(pair, tmp_path, patience_s=1.0), student), student)
    assert caplog.text.count("Its answers are requested from the other servers") == 1


def test_a_server_that_refuses_everything_since_it_lost_the_weights_costs_its_own_rows_alone(
    pair, student: PreTrainedModel, tmp_path: Path
) -> None:
    _, other = pair
    other.forgets_at = 3
    with pytest.raises(RefusedError) as refused:
        sample(engine(pair, tmp_path, concurrency=1), student)
    rows, answered = refused.value.rows, refused.value.answered
    assert 0 < len(rows) < len(PROMPTS)
    kept = [prompt for row, prompt in enumerate(PROMPTS) if row not in rows]
    assert answered.tokens[:, : len(PROMPTS[0])].tolist() == kept


def test_each_server_passes_the_check(pair, student: PreTrainedModel, tmp_path: Path) -> None:
    _, other = pair
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    looked = engine(pair, tmp_path).look(student, PROMPTS[0], eos_ids=(EOS,), pad_id=0)
    assert (looked[0], looked[1].count("has other weights now")) == (False, 2)
    other.deaf = True
    with pytest.raises(ServerError, match=f"{other.url} does not serve the student"):
        sample(engine(pair, tmp_path), student)


def test_a_prompt_that_one_refuses_is_told_with_the_answers_to_the_others(
    pair, student: PreTrainedModel, tmp_path: Path
) -> None:
    for one in pair:
        one.status, one.refuses = 400, lambda body: body["prompt"] == PROMPTS[4]
    with pytest.raises(RefusedError) as refused:
        sample(engine(pair, tmp_path), student)
    assert list(refused.value.rows) == [4]
    assert len(refused.value.answered.tokens) == len(PROMPTS) - 1


def test_what_cannot_be_sampled_ahead_or_by_several_is_refused_with_the_reason() -> None:
    secret = "secretsecretsecret"
    rollout = f"{{type: openai, url: ['http://a:{secret}@h:1/v1', 'http://g:1'], ahead: 1}}"
    config = load_experiment("quickstart", ["runs=[]", f"rollout={rollout}"])
    assert secret not in str(config)
    assert not list(misfits(config))
    training, given = config.training, DatasetPrompts.model_construct(type="dataset", given=0.5)
    for update, words in (
        ({"rollout": config.rollout.in_process()}, None),
        ({"rollout": CachedEngine(ahead=1)}, "rollout.ahead: an engine in this process"),
        ({"training": training.model_copy(update={"rollout_parts": 2})}, "training.rollout_parts"),
        ({"training": training.model_copy(update={"devices": 2})}, "rollout.ahead: it is for"),
        ({"training": training.model_copy(update={"devices": 2})}, "rollout.url: several servers"),
        ({"method": SFT()}, "rollout.type: a server serves the student"),
        ({"prompts": given}, "rollout.ahead: given answers"),
    ):
        told = list(misfits(config.model_copy(update=update)))
        assert any(words in one for one in told) if words else not told
    with pytest.raises(ValueError, match="begins with http"):
        OpenAIEngine(url=["http://h:1/v1", "nowhere"])
