"""Servers that misbehave: nothing is lost, nothing wrong is counted, and it is said what to do.

Rollouts and evaluations ask through the same session; where they go on from there by themselves, both are
tried. Diagnoses sample in this process, whatever the experiment's rollouts come from.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import logging
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from filelock import FileLock
from misbehaving_server import REPLIES, MisbehavingServer
from transformers import GenerationConfig, PreTrainedModel

from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.configuration.loader import load_experiment
from opdlab.console import Stopped, StopRequest
from opdlab.doctor.probe import draw
from opdlab.errors import AwayError, ConfigError, RefusedError, ServerError
from opdlab.evaluation import measured
from opdlab.evaluation.known_answers import Prints
from opdlab.evaluation.measured import asked_of, engine_of, evaluate
from opdlab.evaluation.measuring import open_subject
from opdlab.evaluation.served import Served, _require_plain, open_served
from opdlab.evaluation.store import sample_sets
from opdlab.evaluation.subjects import Subject
from opdlab.identity import Owner
from opdlab.modelling import models
from opdlab.prompts import open_prompts
from opdlab.records import Verdict
from opdlab.sampling import scored
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving import client as client_module, crew, health, heard as heard_module, taken
from opdlab.serving.access import Access
from opdlab.serving.client import Client, ReplyError
from opdlab.serving.dialect import TRANSFORMERS_FIXED, Draw, completion_body
from opdlab.serving.engine import OpenAIEngine, in_rounds
from opdlab.serving.heard import Heard
from opdlab.serving.identify import Identity, identify
from opdlab.serving.likeness import BLOCK, allowed, likeness
from opdlab.serving.received import RECEIVED, Received
from opdlab.serving.served_rollout import JUMP, Asked
from opdlab.serving.session import Session
from opdlab.serving.weights import _LINKS
from opdlab.sweeps.run import sweep
from opdlab.training.module import Distillation
from opdlab.training.pair import load_module, load_pair
from opdlab.training.run import train
from opdlab_evaluators.statistics.scores import summarise

STUDENT, TEACHER = models.EMBEDDED / "student", models.EMBEDDED / "teacher"
PROMPTS = [[1, 5, 9, 12 + row] for row in range(6)]
LENGTH = 8
ENDS: dict[str, Any] = {"eos_ids": (2,), "pad_id": 0}
COMPLETION = {
    "prompt": [1, 5],
    "max_tokens": 2,
    "temperature": 1.0,
    "top_p": 1.0,
    "seed": 0,
    "stop_token_ids": [2],
}


@pytest.fixture(scope="module")
def student() -> PreTrainedModel:
    return models.load_model(str(STUDENT))


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer(STUDENT) as server:
        yield server
        server.released.set()


def engine(server: MisbehavingServer, **changes: Any) -> OpenAIEngine:
    values = {"max_new_tokens": LENGTH, "patience_s": 1.0, **changes}
    return OpenAIEngine(url=server.url, **values)


def served_module(
    server: MisbehavingServer, folder: Path, prompts: int, length: int = LENGTH
) -> Distillation:
    """Ready to train on two answers of a server to each of so many prompts a step."""
    config = load_experiment(
        "quickstart",
        [
            f"rollout={{type: openai, url: '{server.url}', max_new_tokens: {length}, patience_s: 1}}",
            f"rollout.weights_folder={folder}",
            f"training.prompts_per_step={prompts}",
            "rollout.group_size=2",
        ],
    )
    return load_module(load_pair(config), config)


def client(server: MisbehavingServer, **changes: Any) -> Client:
    values = {"concurrency": 4, "patience_s": 1.0, "timeout_s": 5.0, **changes}
    return Client(Access(server.url, "NO_SUCH_KEY", **values))


Came = dict[int, Any]


def kept_in(folder: Path, rows: int = len(PROMPTS)) -> Received:
    """Where answers are kept as they come."""
    return Received(folder / RECEIVED, [str(row) for row in range(rows)])


def evaluated(server: MisbehavingServer, student: PreTrainedModel) -> Came:
    """An evaluation of what a server serves, its fingerprint aside."""
    session = Session(client(server), Identity(server.kind, "", "the-model", ""))
    served = Served(
        tokenizer=models.load_tokenizer(str(STUDENT)),
        engine=engine(server),
        template="none",
        session=session,
        prints=Prints(("",)),
        seen=Prints(("",)),
        vocabulary=42,
        **ENDS,
    )
    came: Came = {}
    asked = [(ids, "") for ids in PROMPTS]
    seeds = range(len(PROMPTS))
    try:
        with TemporaryDirectory() as folder:
            served.answer(
                *(engine(server), asked, list(seeds), 4, 99),
                *(came.__setitem__, lambda: None, kept_in(Path(folder))),
            )
    except RefusedError as error:
        came["refused"] = error
    return came


def rolled_out(server: MisbehavingServer, student: PreTrainedModel) -> Came:
    """An evaluation of the student on its rollout server, as within a training."""
    came: Came = {}
    try:
        engine(server).answer(
            student,
            PROMPTS,
            list(range(len(PROMPTS))),
            **ENDS,
            vocabulary=42,
            max_rows=4,
            max_tokens=99,
            on_response=came.__setitem__,
        )
    except RefusedError as error:
        came["refused"] = error
    return came


WAYS: dict[str, Callable[[MisbehavingServer, PreTrainedModel], Came]] = {
    "evaluation": evaluated,
    "rollout": rolled_out,
}


@pytest.fixture(autouse=True)
def no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server says to fixed prompts is the matter of `test_served_identity`."""
    monkeypatch.setattr(Served, "prove", lambda self: None)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


# Evaluations ask for no log-probabilities, and rollouts take no text.
REFUSED = [
    (way, name)
    for name, mode in REPLIES.items()
    for way in WAYS
    if not (mode.text_only if way == "rollout" else mode.log_probs)
]


@pytest.mark.parametrize(("chosen_way", "name"), REFUSED)
def test_an_answer_that_cannot_be_used_is_refused_in_words_and_the_others_are_kept(
    server: MisbehavingServer, student: PreTrainedModel, chosen_way: str, name: str
) -> None:
    mode = REPLIES[name]

    def alter(body: dict[str, Any], choice: Any, usage: Any) -> bool:
        chosen = body["prompt"] == PROMPTS[2]
        if chosen:
            mode.change(choice, usage)
        return chosen

    server.alter = alter
    came = WAYS[chosen_way](server, student)
    refused = came.pop("refused")
    assert sorted(came) == [0, 1, 3, 4, 5]
    assert list(refused.rows) == [2]
    with pytest.raises(RefusedError, match=mode.words):
        raise refused


def test_a_server_that_refuses_everything_is_not_asked_everything(
    server: MisbehavingServer, student: PreTrainedModel, way: Callable[..., Came]
) -> None:
    server.refuses_for_ever = lambda body: True
    many = PROMPTS * 20
    with pytest.raises(RefusedError, match="no more were asked"):
        engine(server, concurrency=2).answer(
            student,
            many,
            list(range(len(many))),
            **ENDS,
            max_rows=64,
            max_tokens=99,
            on_response=print,
        )
    assert server.seen["/v1/completions"] < 30


@pytest.mark.parametrize("status", [400, 500, 504])
def test_a_prompt_that_a_server_fails_at_each_time_ends_no_other(
    server: MisbehavingServer, student: PreTrainedModel, way: Callable[..., Came], status: int
) -> None:
    """Longer than the context; with a score that is not a number; answered too late for a proxy."""
    server.refuses_for_ever = lambda body: body["prompt"] == PROMPTS[0]
    server.refusal = status
    came = way(server, student)
    assert sorted(map(str, came)) == ["1", "2", "3", "4", "5", "refused"]
    assert f"status {status}: maximum context length is 8 tokens" in str(came["refused"])


def test_a_server_that_fails_at_all_but_a_single_token_is_away(
    server: MisbehavingServer, student: PreTrainedModel, way: Callable[..., Came]
) -> None:
    """Else each request costs the patience: a proxy's limit of time, or an engine that is broken."""
    server.refuses_for_ever = lambda body: body["max_tokens"] != 1
    server.refusal = 500
    with pytest.raises(AwayError, match="status 500"):
        way(server, student)


OTHER = COMPLETION | {"prompt": [1, 9]}


def test_a_server_that_breaks_costs_the_patience_once(server: MisbehavingServer) -> None:
    """It answers what it answered before no more, so no request is to blame."""
    asked = client(server, patience_s=0.1)
    url = asked.access.api("/completions")
    assert asked.post(url, OTHER)["choices"]
    server.refuses_for_ever, server.refusal = lambda body: body["max_tokens"] != 1, 500
    with pytest.raises(AwayError):
        asked.post(url, COMPLETION)


@pytest.mark.parametrize("fresh", [False, True])
def test_requests_that_fail_each_time_cost_the_patience_twice_at_most(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """Where nothing else is asked for any more, in this process and in one that was answered nothing."""
    slept: list[float] = []
    monkeypatch.setattr(
        client_module, "_sleep", lambda seconds, _: slept.append(seconds) or seconds
    )
    asked = client(server, patience_s=8.0, concurrency=1)
    url = asked.access.api("/completions")
    if not fresh:
        asked.post(url, OTHER)
    server.refuses_for_ever, server.refusal = lambda body: body["prompt"] == [1, 5], 500
    with pytest.raises(RefusedError, match="fails at this request each time") as told:
        asked.post_all(url, [COMPLETION] * 6, lambda *_: None)
    assert len(told.value.rows) == 6
    assert 8.0 <= sum(slept) <= 16.0
    tried = [body for body in server.bodies if body["prompt"] != [1, 5]]
    assert tried[-1]["prompt"] == ([1] if fresh else [1, 9])
    asked.post(url, OTHER)
    slept.clear()
    with pytest.raises(ReplyError):
        asked.post(url, COMPLETION)
    assert sum(slept) >= 8.0, "a server that answered anew is waited for as at first"


@pytest.mark.parametrize(
    ("status", "kind", "interruptions"),
    [(504, ReplyError, 1), (429, AwayError, 0), (503, AwayError, 1)],
)
def test_what_the_last_try_fails_by_decides_whose_fault_it_is(
    server: MisbehavingServer, status: int, kind: type[ServerError], interruptions: int
) -> None:
    """A server that has no room then, or restarts, says nothing of the request."""
    asked = client(server, patience_s=0.1)
    url = asked.access.api("/completions")
    assert asked.post(url, OTHER)["choices"]

    def refuses(body: dict[str, Any]) -> bool:
        trial = body["prompt"] == OTHER["prompt"]
        server.refusal = status if trial else server.refusal
        return not trial

    server.refuses_for_ever, server.refusal = refuses, 500
    with pytest.raises(kind, match=f"status {status}"):
        asked.post(url, COMPLETION)
    assert asked.interruptions == interruptions


def test_an_aborted_answer_is_asked_for_again(
    server: MisbehavingServer, student: PreTrainedModel, way: Callable[..., Came]
) -> None:
    whole = way(server, student)
    left = ["error", "abort"]

    def alter(body: dict[str, Any], choice: Any, usage: Any) -> bool:
        aborts = body["prompt"] == PROMPTS[1] and bool(left)
        if aborts:
            choice["finish_reason"] = left.pop()
        return aborts

    server.alter = alter
    assert way(server, student) == whole
    server.alter = lambda body, choice, usage: choice.update(finish_reason="abort") or True
    assert "aborted" in str(way(server, student)["refused"])


def test_a_body_that_is_cut_without_a_length_is_asked_for_again(
    server: MisbehavingServer, student: PreTrainedModel, way: Callable[..., Came]
) -> None:
    whole = way(server, student)
    server.cuts = 2
    assert way(server, student) == whole


def test_a_prompt_that_is_refused_first_and_often_ends_no_other(
    server: MisbehavingServer, student: PreTrainedModel
) -> None:
    """An evaluation asks k times for the first problem before it asks for another."""
    server.refuses_for_ever = lambda body: body["prompt"] in PROMPTS[:2]
    came: Came = {}
    prompts = [ids for ids in PROMPTS[:4] for _ in range(16)]
    with pytest.raises(RefusedError, match=r"32 of 64 requests .*the others were answered"):
        engine(server, concurrency=2).answer(
            student,
            prompts,
            list(range(64)),
            **ENDS,
            max_rows=64,
            max_tokens=99,
            on_response=came.__setitem__,
        )
    assert sorted(came) == list(range(32, 64))


def test_a_long_region_of_refused_prompts_ends_no_other(
    server: MisbehavingServer, student: PreTrainedModel, way: Callable[..., Came]
) -> None:
    """Whoever is asked last is asked, however many different prompts were refused before."""
    prompts = [[1, 5 + n % 30, 5 + n // 30, *([7] * (n < 40))] for n in range(44)]
    server.refuses_for_ever = lambda body: body["prompt"] in prompts[:40]
    came: Came = {}
    with pytest.raises(RefusedError, match=r"80 of 88 requests .*the others were answered"):
        engine(server, concurrency=2).answer(
            student,
            [ids for ids in prompts for _ in range(2)],
            list(range(88)),
            **ENDS,
            max_rows=64,
            max_tokens=99,
            on_response=came.__setitem__,
        )
    assert sorted(came) == list(range(80, 88))


@pytest.mark.parametrize("size", [3, 8, 100])
@pytest.mark.parametrize("good", [(), ("e",), ("a", "e")])
def test_rounds_ask_each_prompt_once_before_the_rest_is_given_up(
    size: int, good: tuple[str, ...]
) -> None:
    prompts = [letter for letter in "abcde" for _ in range(4)]
    asked: list[int] = []

    def ask(rows: Sequence[int]) -> None:
        asked.extend(rows)
        refused = {n: "no" for n, row in enumerate(rows) if prompts[row] not in good}
        if refused:
            raise RefusedError(refused, len(rows))

    with pytest.raises(RefusedError) as told:
        in_rounds(prompts, range(len(prompts)), size, ask)
    assert len({*asked}) == len(asked)
    assert {prompts[row] for row in asked} == {*"abcde"}
    if good:
        assert len(asked) == 20
        assert not told.value.ended
    assert len(told.value.rows) == sum(prompts[row] not in good for row in asked)
    assert told.value.ended == (len(asked) < 20)


def test_what_a_server_refuses_is_a_fault_with_its_problem_and_is_asked_again(
    server: MisbehavingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("opdlab.evaluation.known_answers.TOKENS", 2)
    served = open_served(engine(server, max_new_tokens=4), "embedded:student", "none", tmp_path)
    both = [{"type": "math", "level": "short", "limit": 3}, {"type": "routes", "limit": 2}]
    settings = Evaluation.model_validate({"benchmarks": both, "samples": 1})
    last = settings.benchmarks[0].problems()[-1]
    ids = models.load_tokenizer(str(STUDENT))(last.prompt)["input_ids"]
    server.refuses_for_ever = lambda body: body["prompt"][-3:] == list(ids)[-3:]
    for _ in range(2):
        samples = evaluate(served, settings, Owner("x"), tmp_path)
        assert f"problem {last.id} of math/short" in caplog.text
        assert len(samples) == 5
        (fault,) = [one for one in samples if one.status in Verdict.FAULTS]
        assert (fault.problem, fault.status, fault.answered) == (last.id, "server_error", False)
        assert (fault.completion, fault.tokens) == ("", 0)
        assert fault.prompt == last.prompt
        assert "maximum context length is 8 tokens" in fault.reason
        first, _ = summarise(samples)
        assert first.mean.value is None
        assert first.mean.best == pytest.approx(first.mean.worst + 1 / 3)
        assert first.mean_tokens == sum(one.tokens for one in samples[:3]) / 2
        assert [len(one.generations()) for one in sample_sets(tmp_path)] == [2, 2]
    (refusals,) = tmp_path.glob("*/refusals-*")
    asked = server.seen["/v1/completions"]
    server.refuses_for_ever = lambda body: False
    samples = evaluate(served, settings, Owner("x"), tmp_path)
    assert server.seen["/v1/completions"] == asked + 1
    assert not {one.status for one in samples} & {*Verdict.FAULTS}
    assert summarise(samples)[0].mean.value is not None
    assert refusals.exists()


def test_what_is_left_of_an_evaluation_may_be_nothing_but_what_is_refused(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More samples of one problem than are asked at once, by a process that sees no other answered."""
    monkeypatch.setattr("opdlab.evaluation.known_answers.TOKENS", 2)
    through = engine(server, max_new_tokens=2, patience_s=0.1, concurrency=2)
    served = open_served(through, "embedded:student", "none", tmp_path)
    listed = [{"type": "math", "level": "short", "limit": 2}]
    settings = Evaluation.model_validate({"benchmarks": listed, "samples": 12})
    last = settings.benchmarks[0].problems()[-1]
    ids = list(models.load_tokenizer(str(STUDENT))(last.prompt)["input_ids"])
    server.refuses_for_ever = lambda body: body["prompt"][-3:] == ids[-3:]
    server.refusal = 500
    with monkeypatch.context() as patch:
        patch.setattr(measured, "_keep_refused", lambda *_: raised(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            evaluate(served, settings, Owner("x"), tmp_path)
    asked = server.seen["/v1/completions"]
    for _ in range(2):
        samples = evaluate(served, settings, Owner("x"), tmp_path)
        reasons = [one.reason for one in samples if one.status == "server_error"]
        assert len(samples) == 24
        assert len(reasons) == 12
        assert sum("fails at this request each time" in reason for reason in reasons) == 12
        assert any(reason.startswith("not asked for") for reason in reasons)
        assert summarise(samples)[0].mean.value is None
    assert server.seen["/v1/completions"] > asked


def test_a_fixed_prompt_that_is_refused_is_named(server: MisbehavingServer, tmp_path: Path) -> None:
    server.refuses_for_ever = lambda body: len(body["prompt"]) < 8
    with pytest.raises(ServerError, match=r"the fixed prompt '12\+7='"):
        open_served(engine(server), "embedded:student", "none", tmp_path)


def test_a_step_goes_on_without_the_prompts_that_are_refused_for_ever(
    server: MisbehavingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By name; all of a group where one answer is refused; and not without most of them."""
    module = served_module(server, tmp_path, prompts=4)
    some = [module.prompts.prompt(row) for row in range(12)]
    ordered = sorted(some, key=lambda prompt: len(prompt.tokens))
    prompts = [ordered[0], ordered[1], ordered[-1]]
    asked = [prompt for prompt in prompts for _ in range(2)]
    server.refuses_for_ever = lambda body: body["seed"] == 3
    rollout, rows = module.collector.drawn_answers(module.student, asked, range(6))
    assert rollout is not None
    assert (rows, rollout.seeds.tolist()) == ([0, 1, 4, 5], [0, 1, 4, 5])
    assert rollout.candidate_log_prob is not None
    assert len(rollout.candidate_log_prob) == len(rollout.token)
    (told,) = module.collector.refused
    assert told["problem"] == prompts[1].problem.named
    assert "maximum context length is 8 tokens" in told["reason"]
    assert f"{prompts[1].problem.named}: " in caplog.text
    assert "continues without 1 of its 3 prompts" in caplog.text
    server.refuses_for_ever = lambda body: body["seed"] in (0, 3)
    with pytest.raises(RefusedError, match=r"2 of 6 requests got no answer"):
        module.collector.drawn_answers(module.student, asked, range(6))
    server.refuses_for_ever = lambda _: False
    lengths = [len(prompt.tokens) for prompt in prompts]
    assert lengths[1] < lengths[2]
    server.card = {"max_model_len": lengths[1] + 8}
    bodies = len(server.bodies)
    _, rows = module.collector.drawn_answers(module.student, asked, range(6))
    assert len(rows) == 4
    assert "more than the server's context" in module.collector.refused[-1]["reason"]
    assert all(len(body["prompt"]) <= lengths[1] for body in server.bodies[bodies:])


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "eos_token_id": [2, 7]},
        {"model_type": "a-newer-one", "eos_token_id": [2, 7]},
        {"model_type": "gemma3", "text_config": {"eos_token_id": [2, 7], "vocab_size": 42}},
        {"model_type": "a-newer-one", "text_config": {"eos_token_id": [2, 7]}},
        None,
    ],
)
def test_the_ends_of_a_models_configuration_are_known_without_the_model(
    server: MisbehavingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any] | None,
) -> None:
    monkeypatch.setattr("opdlab.evaluation.known_answers.TOKENS", 2)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(STUDENT / name, tmp_path / name)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    served = open_served(engine(server), str(tmp_path), "none", tmp_path)
    assert served.eos_ids == ((2,) if config is None else (2, 7))
    assert served.vocabulary == 42
    assert server.bodies[-1]["stop_token_ids"] == list(served.eos_ids)


# What a server is


def test_a_key_that_is_refused_is_told_at_once_with_its_variable(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "right"
    for key, said in (("wrong", "is refused: correct it"), ("", "is not set")):
        monkeypatch.setenv("NO_SUCH_KEY", key)
        with pytest.raises(ServerError, match=f"401: who are you; .* NO_SUCH_KEY {said}"):
            identify(client(server), None)
    monkeypatch.setenv("NO_SUCH_KEY", "right\n")
    assert identify(client(server), None).model == "the-model"


@pytest.mark.parametrize("path", ["/v1/models", "/version"])
def test_a_failure_at_a_question_is_no_answer(server: MisbehavingServer, path: str) -> None:
    server.statuses = {path: [500, 500]}
    assert identify(client(server), None) == Identity("vllm", "0.33.0", "the-model", str(STUDENT))
    server.statuses = {path: [500] * 9}
    with pytest.raises(ServerError, match=f"{path}: status 500: not well"):
        identify(client(server), None)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("vllm", "/v1/models"),
        ("vllm", "/version"),
        ("sglang", "/server_info"),
        ("llamacpp", "/props"),
    ],
)
@pytest.mark.parametrize("said", ["text", 5, [], {"data": 5, "version": None}])
def test_what_a_server_says_of_itself_may_be_anything(
    server: MisbehavingServer, kind: str, path: str, said: Any
) -> None:
    server.kind, server.says = kind, {path: said}
    if path == "/v1/models":
        with pytest.raises(ServerError, match="the server lists none"):
            identify(client(server), None)
        return
    found = identify(client(server), None)
    assert (found.software.replace(".", ""), found.version) == (kind, "")


def test_a_server_that_is_away_is_asked_for_nothing_else() -> None:
    away = Client(Access("http://127.0.0.1:9/v1", "NO_SUCH_KEY", 1, 0.2, 5.0))
    with pytest.raises(ServerError, match=r"/v1/models: no answer .*connection refused"):
        identify(away, None)


def test_an_address_without_v1_is_told_with_it(server: MisbehavingServer) -> None:
    server.gone = ("/models",)
    bare = Client(Access(server.url.removesuffix("/v1"), "NO_SUCH_KEY", 1, 1.0, 5.0))
    with pytest.raises(ServerError, match=rf"OpenAI's API begins at {server.url}; write that"):
        identify(bare, None)


def test_what_an_unknown_server_fills_in_is_not_known_and_compares_with_nothing(
    server: MisbehavingServer,
) -> None:
    def record(kind: str) -> dict[str, Any]:
        session = Session(client(server), Identity(kind, "", "the-model", ""))
        served = Served(
            tokenizer=models.load_tokenizer(str(STUDENT)),
            engine=engine(server),
            template="none",
            session=session,
            prints=Prints(("",)),
            seen=Prints(("",)),
            **ENDS,
        )
        (benchmark,) = load_experiment("quickstart", []).evaluation.benchmarks[:1]
        settings = load_experiment("quickstart", []).evaluation
        asked = asked_of(benchmark, served, settings, Owner("x"), served.identity())
        return {"protocol": asked.protocol, "options": asked.options}

    assert record("unknown")["options"]["server_defaults"] == "not known"
    assert record("unknown")["protocol"] != record("llama.cpp")["protocol"]
    assert record("vllm")["protocol"] == record("transformers")["protocol"]


HARMLESS = {
    *("max_length", "use_cache", "cache_config", "max_cache_len", "bos_token_id", "low_memory"),
    *("decoder_start_token_id", "compile_config", "disable_compile", "prefill_chunk_size"),
    # Of searches by beams and of helpers that one of the settings above begins.
    *("early_stopping", "length_penalty", "diversity_penalty", "num_beam_groups"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind"),
    *("assistant_ensemble_weight", "speculation_type", "continuous_batching_config"),
    # What else is returned.
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "transformers_version"),
}


def test_each_generation_setting_is_sent_or_refused_or_known_to_change_nothing() -> None:
    draw = Draw(1.0, 1.0, 8, (2,), 0, 42)
    body = completion_body(Identity("transformers", "", "m", ""), draw, [1, 5], "5", 0)
    sent = {*json.loads(body["generation_config"])}
    known = sent | {*TRANSFORMERS_FIXED} | HARMLESS | {"cache_implementation"}
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields <= known, fields - known
    assert not sent & {*TRANSFORMERS_FIXED}


def test_settings_of_a_models_folder_that_no_request_switches_off_are_refused_by_name(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    session = Session(client(server), Identity("transformers", "", str(tmp_path), ""))
    assert not _require_plain(session, str(tmp_path / "none"), None)
    for odd in ({}, {"top_k": 3, "repetition_penalty": 1.5}):
        (tmp_path / "generation_config.json").write_text(json.dumps(odd))
        assert _require_plain(session, str(tmp_path), None)
    odd = {"top_h": 0.3, "stop_strings": ["1"], "cache_implementation": "quantized"}
    (tmp_path / "generation_config.json").write_text(json.dumps(odd))
    with pytest.raises(ServerError, match=r"stop_strings, top_h, cache_implementation\. Remove"):
        _require_plain(session, str(tmp_path), None)
    vllm = Session(client(server), Identity("vllm", "", str(tmp_path), ""))
    assert _require_plain(vllm, str(tmp_path), None)


# On the way


def test_a_redirect_that_would_change_the_request_is_told_with_its_place(
    server: MisbehavingServer,
) -> None:
    asked = client(server)
    url, body = asked.access.api("/completions"), {"prompt": [1, 5], "max_tokens": 2}
    for status in (301, 302):
        server.redirect = status, ""
        with pytest.raises(ServerError, match=rf"redirect \(status {status}\).*write that"):
            asked.post(url, body)
    server.redirect = 307, "http://elsewhere.invalid"
    with pytest.raises(ServerError, match="leaves the server"):
        asked.post(url, body)
    server.redirect = 308, ""
    assert asked.post(url, COMPLETION)["choices"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://no-such-host.invalid/v1", "the host 'no-such-host.invalid' has no address"),
        ("https://127.0.0.1:{port}/v1", "no encrypted connection .*begins with http://"),
    ],
)
def test_what_no_waiting_cures_is_told_at_once(
    server: MisbehavingServer, url: str, said: str
) -> None:
    started = time.monotonic()
    address = url.format(port=server.http.server_port)
    with pytest.raises(ServerError, match=said):
        Client(Access(address, "NO_SUCH_KEY", 1, 600.0, 5.0)).ask("/version")
    assert time.monotonic() - started < 20


def test_a_proxy_is_named_and_not_used_for_this_machine(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert identify(client(server), None).model == "the-model"
    with pytest.raises(
        ServerError, match=r"through the proxy 127\.0\.0\.1:9.*NO_PROXY=a\.server"
    ) as told:
        Client(Access("http://a.server/v1", "NO_SUCH_KEY", 1, 600.0, 5.0)).ask("/version")
    assert "secret" not in str(told.value)


def test_no_key_is_printed_and_no_other_login_sent(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login joe password hunter2\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for key, sent in (("", None), (" sk-topsecret\r\n", "Bearer sk-topsecret")):
        monkeypatch.setenv("NO_SUCH_KEY", key)
        client(server).ask("/version")
        assert server.headers_seen[-1].get("Authorization") == sent
    for key in ("sk-töpsecret", "sk-top\nsecret"):
        monkeypatch.setenv("NO_SUCH_KEY", key)
        with pytest.raises(ServerError, match="the key in NO_SUCH_KEY holds a character") as told:
            client(server).ask("/version")
        assert "secret" not in str(told.value)


def test_no_key_is_printed_that_a_server_repeats(
    server: MisbehavingServer,
    student: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-topsecret")
    server.echoes = True
    with pytest.raises(RefusedError, match=r"is not a completion: .*Bearer \*\*\*") as told:
        sampled(server, student)
    assert "secret" not in str(told.value)
    server.echoes, server.says = False, {"/collective_rpc": {"sent": "Bearer sk-topsecret"}}
    with pytest.raises(ServerError, match=r"did not take the weights .*Bearer \*\*\*") as failed:
        sampled(server, student, weights_folder=str(tmp_path))
    assert "secret" not in str(failed.value)


def test_more_connections_than_files_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(256, 300)]
    monkeypatch.setattr(crew.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(crew.resource, "setrlimit", lambda _, values: limits.append(values))
    assert crew.within_files(100) == 100
    assert len(limits) == 1
    assert crew.within_files(1024) == 300 - crew.SPARE_FILES
    assert limits[-1] == (300, 300)


def test_a_process_without_free_files_says_so_at_once(server: MisbehavingServer) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked, opened = client(server, patience_s=600.0), []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 16, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(ServerError) as told:
            asked.ask("/version")
    finally:
        for one in opened:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "may open no more files: raise its limit (ulimit -n)" in str(told.value)


# Waiting


@pytest.mark.timeout(30)
def test_an_engine_that_died_behind_an_open_port_is_told_within_seconds(
    server: MisbehavingServer, student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ASKED_AFTER_S", 0.1)
    monkeypatch.setattr(health, "DEAD_S", 0.3)
    server.hangs, server.healthy = True, False
    with pytest.raises(ServerError, match="its engine is dead, says /health"):
        engine(server, patience_s=600.0).sample(student, PROMPTS[:2], [0, 1], **ENDS)


@pytest.mark.timeout(30)
def test_the_last_words_of_a_dead_engine_are_told(
    server: MisbehavingServer, student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ASKED_AFTER_S", 0.1)
    monkeypatch.setattr(health, "DEAD_S", 0.3)
    server.statuses, server.healthy = {"/v1/completions": [500] * 99}, False
    with pytest.raises(ServerError, match="last words: status 500: not well"):
        engine(server, patience_s=600.0).sample(student, PROMPTS[:2], [0, 1], **ENDS)


def test_a_slow_server_and_one_that_loads_are_not_called_dead(
    server: MisbehavingServer, student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ASKED_AFTER_S", 0.05)
    monkeypatch.setattr(health, "DEAD_S", 0.1)
    for kind, healthy in (("vllm", True), ("sglang", False)):
        server.kind, server.healthy, server.hangs = kind, healthy, True
        server.released.clear()
        asked = client(server)
        identify(asked, None)
        for _ in range(8):
            asked.pulse.require(1.0)
            time.sleep(0.05)


def raised(error: BaseException) -> None:
    raise error


def stopping(check: Callable[[], bool]) -> StopRequest:
    """A request to stop that comes when a condition holds."""
    stop = StopRequest()

    def look(*_: object) -> None:
        if check():
            raise Stopped(signal.SIGTERM)

    stop.check = look  # type: ignore[method-assign]
    return stop


@pytest.mark.timeout(30)
@pytest.mark.parametrize("fault", ["hangs", "is away"])
def test_a_rollout_that_waits_stops_when_it_is_told_to(
    server: MisbehavingServer, student: PreTrainedModel, fault: str
) -> None:
    asked = engine(server, patience_s=600.0, timeout_s=600.0)
    if fault == "hangs":
        server.hangs = True
    else:
        server.statuses = {"/v1/completions": [503] * 999}
    counted = itertools.count()
    with stopping(lambda: next(counted) > 2), pytest.raises(Stopped):
        asked.sample(student, PROMPTS, list(range(6)), **ENDS)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("path", ["/v1/models", "/version", "/weight_info", "/collective_rpc"])
def test_a_single_request_that_waits_stops_when_it_is_told_to(
    server: MisbehavingServer, tmp_path: Path, path: str
) -> None:
    asked = engine(server, patience_s=600.0, timeout_s=600.0, weights_folder=str(tmp_path))
    server.hangs_at = path
    counted = itertools.count()
    with stopping(lambda: next(counted) > 8), pytest.raises(Stopped):
        asked.sample(models.load_model(str(STUDENT)), PROMPTS, list(range(6)), **ENDS)


@pytest.mark.timeout(30)
def test_how_many_answers_came_is_told_while_none_comes(
    server: MisbehavingServer,
    student: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(client_module, "SILENT_S", 0.05)
    server.hangs = True
    caplog.set_level(logging.WARNING, "opdlab")
    with stopping(lambda: "0 of 6 answers came" in caplog.text), pytest.raises(Stopped):
        engine(server).sample(student, PROMPTS, list(range(6)), **ENDS)


def test_a_server_with_room_for_few_is_not_given_up_while_it_works(
    server: MisbehavingServer,
) -> None:
    """Its one place is taken for longer than the patience: the others are refused all the time."""
    server.status, taken = 429, []

    def refuses(body: dict[str, Any]) -> bool:
        return bool(taken) and body["number"] != taken[0]

    def work(path: str, body: dict[str, Any]) -> Any:
        taken.append(body["number"])
        server.pause.wait(1.5)
        taken.clear()
        return {}

    server.refuses, server.post = refuses, work  # type: ignore[method-assign]
    asked, done = client(server, patience_s=0.4, concurrency=2), []
    bodies = [{"number": number} for number in range(2)]
    asked.post_all(asked.access.api("/completions"), bodies, lambda row, _: done.append(row))
    assert sorted(done) == [0, 1]


# Whose weights


def moved(model: PreTrainedModel, by: float) -> PreTrainedModel:
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=noise))
    return model


def sampled(server: MisbehavingServer, model: PreTrainedModel, **changes: Any) -> Any:
    return engine(server, **changes).sample(model, PROMPTS, list(range(6)), **ENDS)


def test_a_student_whose_weights_another_training_replaced_is_not_sampled(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    student = models.load_model(str(STUDENT))
    sampled(server, student, weights_folder=str(tmp_path))
    server.model, server.tag = moved(models.load_model(str(STUDENT)), 1e-4), "opdlab-other-1"
    with pytest.raises(ServerError, match=r"weights of another training \(opdlab-other-1\)"):
        sampled(server, student, weights_folder=str(tmp_path))


@pytest.mark.parametrize("tag", ["default", None])
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_that_lost_the_weights_gets_them_again_with_tags_and_without(
    server: MisbehavingServer, tmp_path: Path, kind: str, tag: str | None
) -> None:
    server.kind, server.tag = kind, tag
    student = moved(models.load_model(str(STUDENT)), 0.05)
    own = CachedEngine(max_new_tokens=LENGTH).sample(student, PROMPTS, list(range(6)), **ENDS)
    path = "/collective_rpc" if kind == "vllm" else "/update_weights_from_disk"
    for sent in (1, 1, 2):
        if sent == 2:
            server.forget()
        found = sampled(server, student, weights_folder=str(tmp_path))
        assert torch.equal(found.tokens, own.tokens)
        assert server.seen[path] == sent


@pytest.mark.parametrize("tag", ["default", None])
def test_a_server_that_lost_the_weights_during_a_round_answers_it_anew(
    server: MisbehavingServer, tmp_path: Path, tag: str | None
) -> None:
    """What it answered with the weights before is too like to be told by its answers, in bfloat16."""
    server.tag = tag
    exact = server._take

    def take(folder: str) -> None:
        exact(folder)
        server.model = server.model.to(torch.bfloat16)

    def alter(body: dict[str, Any], choice: Any, usage: Any) -> bool:
        if next(came) == 2:
            server.forget()
            server.model = server.model.to(torch.bfloat16)
        return False

    server._take = take  # type: ignore[method-assign]
    student = moved(models.load_model(str(STUDENT)), 1e-4)
    sampled(server, student, weights_folder=str(tmp_path))
    server.alter, came = alter, itertools.count()
    sampled(server, moved(student, 1e-4), weights_folder=str(tmp_path), concurrency=1)
    assert server.seen["/collective_rpc"] == 3
    assert next(came) == 2 * len(PROMPTS)


def test_a_server_that_shows_no_tag_any_more_has_lost_its_weights(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    student = models.load_model(str(STUDENT))
    sampled(server, student, weights_folder=str(tmp_path))
    server.statuses = {"/weight_info": [500]}
    sampled(server, student, weights_folder=str(tmp_path))
    assert server.seen["/collective_rpc"] == 2


def test_a_server_is_taken_by_one_training_at_a_time(
    server: MisbehavingServer, student: PreTrainedModel, tmp_path: Path
) -> None:
    sampled(server, student, weights_folder=str(tmp_path / "w"))
    (lock,) = (tmp_path / "w").glob(".server-*")
    name = next(one for one in taken._TAKEN if one.endswith(lock.stem.removeprefix(".server-")))
    for one in (str(lock), name):
        taken._give_back(one)
        other = moved(models.load_model(str(STUDENT)), 1e-3)
        with (
            FileLock(lock) if one == str(lock) else contextlib.closing(taken._named(name)),
            pytest.raises(ServerError, match="is taken by another training"),
        ):
            sampled(server, other, weights_folder=str(tmp_path / "w"))
    assert not {str(lock), name} & {*taken._TAKEN}, "of a server that is not taken nothing is kept"


@pytest.mark.parametrize(
    "other", ["http://localhost:8000", "http://LOCALHOST:8000/v1/", "http://[::1]:8000"]
)
def test_a_server_is_the_same_under_every_name_of_this_machine(other: str) -> None:
    here = Access("http://127.0.0.1:8000/v1", "NO_SUCH_KEY", 1, 1.0, 5.0)
    assert Access(other, "NO_SUCH_KEY", 1, 1.0, 5.0).server == here.server
    for elsewhere in ("http://127.0.0.1:8001", "http://gpu7:8000", "http://127.0.0.1:8000/b/v1"):
        assert Access(elsewhere, "NO_SUCH_KEY", 1, 1.0, 5.0).server != here.server


def test_workers_of_a_sweep_do_not_share_a_server(tmp_path: Path) -> None:
    engine = f"rollout={{type: openai, url: 'http://127.0.0.1:9/v1', weights_folder: {tmp_path}}}"
    with pytest.raises(ConfigError, match="2 workers would send the weights of 2 students"):
        sweep("sweeps/lookahead", [engine, f"output={tmp_path}"], workers=2)


def test_a_sweep_whose_server_would_get_no_weights_is_refused_when_its_file_is_read() -> None:
    served = "rollout={type: openai, url: 'http://127.0.0.1:9/v1', max_new_tokens: 8}"
    with pytest.raises(ConfigError, match=r"rollout.weights_folder is missing: a trial samples"):
        load_experiment("sweeps/lookahead", [served])


def test_vllm_without_development_mode_is_told_how_to_get_it(
    server: MisbehavingServer, student: PreTrainedModel, tmp_path: Path
) -> None:
    server.gone = ("/collective_rpc",)
    with pytest.raises(
        ServerError, match=r"404: None\. vLLM .* start it with VLLM_SERVER_DEV_MODE=1"
    ):
        sampled(server, student, weights_folder=str(tmp_path))


def test_a_student_that_is_trained_while_its_server_gets_nothing_is_refused(
    server: MisbehavingServer,
) -> None:
    student = models.load_model(str(STUDENT))
    sampled(server, student)
    with pytest.raises(ServerError, match=r"have changed, .* set rollout.weights_folder"):
        sampled(server, moved(student, 1e-6))


def test_a_training_whose_server_would_get_no_weights_is_refused_before_it_begins(
    tmp_path: Path,
) -> None:
    served = "rollout={type: openai, url: 'http://127.0.0.1:9/v1', max_new_tokens: 8}"
    config = load_experiment("quickstart", [served, f"output={tmp_path}"])
    with pytest.raises(ConfigError, match=r"rollout.weights_folder is missing"):
        train(config)
    assert not list(tmp_path.iterdir())


def stepped(model: PreTrainedModel, steps: int, rate: float) -> PreTrainedModel:
    """After steps of AdamW on a loss over its own prompts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    ids = torch.tensor(PROMPTS)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("dtype", "older", "temperature", "told"),
    [
        ("float32", "same", 1.0, False),
        ("float32", "one step of 1e-5", 1.0, True),
        ("float32", "one step of 1e-5", 0.6, True),
        ("bfloat16", "same", 1.0, False),
        ("bfloat16", "same", 0.6, False),
        ("bfloat16", "teacher", 1.0, True),
        ("bfloat16", "ten steps of 1e-3", 1.0, True),
    ],
)
def test_a_server_of_other_weights_is_told_from_one_that_rounds(
    server: MisbehavingServer,
    dtype: str,
    older: str,
    temperature: float,
    told: bool,
) -> None:
    """In float32 by one step; bfloat16 hides that, and neither ten larger ones nor a teacher."""
    served = models.load_model(str(TEACHER if older == "teacher" else STUDENT))
    student = models.load_model(str(STUDENT))
    if "step" in older:
        count, rate = {"one": 1, "ten": 10}[older.split()[0]], float(older.split()[-1])
        student = stepped(student, count, rate)
    server.model = served.to(getattr(torch, dtype))
    config = load_experiment("quickstart", ["prompts.sources=[{type: math, level: short}]"])
    tokenizer = models.load_tokenizer(str(STUDENT))
    prompts = open_prompts(config.prompts, tokenizer, 0)
    asked = [list(prompts.prompt(row).tokens) for row in range(16)]
    through = engine(server, max_new_tokens=20, temperature=temperature, largest_gap=None)
    rollout = through._rollout(student, None, alone=True)
    found = rollout.once(Asked(asked, range(16), (2,), 0, 0, None))
    jumped = dtype == "float32" and not found.likeness.within(JUMP)
    assert (jumped or not found.fits) == told, found.likeness
    assert rollout.link.exact == ((dtype, older) == ("float32", "same"))


@pytest.mark.parametrize("rate", [1e-5, 5e-6])
def test_a_server_in_float32_that_keeps_the_weights_of_one_step_before_is_refused(
    server: MisbehavingServer, tmp_path: Path, rate: float
) -> None:
    student = models.load_model(str(STUDENT))
    through = engine(server, weights_folder=str(tmp_path))
    through.sample(student, PROMPTS, list(range(6)), **ENDS)
    stepped(student, 1, rate).zero_grad()
    server.deaf = True
    with pytest.raises(
        ServerError, match=r"was sent the student's weights, and answers with others"
    ):
        through.sample(student, PROMPTS, list(range(6, 12)), **ENDS)


def test_a_server_that_confirms_weights_and_keeps_the_first_is_told_in_bfloat16(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By steps that change what it says by less than rounding does."""
    take = server._take

    def rounded(model: PreTrainedModel, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
        # No buffers: servers compute positions in float32.
        for weight in model.parameters():
            weight.data = weight.data.to(dtype)
        return model

    def takes(folder: str) -> None:
        take(folder)
        rounded(server.model)

    server._take = takes  # type: ignore[method-assign]
    # Too few prompts to tell show that it is looked at.
    monkeypatch.setattr(heard_module, "FAULTY", -99.0)
    student = models.load_model(str(STUDENT))
    starts = [[1, 5, 9], [5, 9], [9], [1, 9], [5], [1, 5]]
    asked = [[*start, end] for start in starts for end in range(12, 36)]
    through = engine(server, weights_folder=str(tmp_path))
    through.sample(student, asked[:4], list(range(4)), **ENDS)
    before = [weight.data_ptr() for weight in student.parameters()]
    stepped(student, 5, 1e-5).zero_grad()
    server.deaf = True
    with pytest.raises(ServerError, match=r"confirmed .* answers with the first"):
        through.sample(student, asked[:8], list(range(8)), **ENDS)
    (link,) = _LINKS[student].values()
    assert not link.heard.settled
    assert [weight.data_ptr() for weight in student.parameters()] == before
    monkeypatch.undo()
    stepped(student, 10, 1e-5)
    answers = [torch.arange(12, 20).roll(row % 7) for row in range(len(asked))]
    first = models.load_model(str(STUDENT))
    for dtype, has in (
        (torch.bfloat16, first),
        (torch.bfloat16, student),
        (torch.float32, student),
    ):
        heard, told = Heard(link.heard.first), []
        theirs = scored(rounded(copy.deepcopy(has), dtype), asked, answers, None, 0).log_prob
        for some in (slice(0, 72), slice(72, None)):
            heard.sent(student)
            said = theirs[some.start * 8 : some.stop and some.stop * 8]
            told.append(heard.look(student, asked[some], answers[some], said, None))
            assert (heard.first is None) == heard.settled, "held as long as they are needed"
        print(dtype, heard.beyond, heard.share, told)
        assert (any(told), heard.settled) == (has is first, has is student), heard.beyond


def test_no_server_is_taken_for_deaf_by_rounding() -> None:
    """However unequal its prompts are, how short the way is, and whether answers to a prompt are alike."""
    chance, refused = torch.Generator().manual_seed(0), 0
    for trial in range(600):
        heard, short = Heard(), 0.1 ** (trial % 4)
        for _ in range(3):
            size = torch.randn(64, 16, generator=chance).mul(trial % 3).exp()
            off = torch.randn(64, 16, generator=chance) * size
            way = torch.randn(64, 16, generator=chance) * size * short
            sums = zip((off * way).sum(1).tolist(), way.square().sum(1).tolist(), strict=True)
            refused += heard.add({row % 60: both for row, both in enumerate(sums)})
    assert not refused
    few = Heard()
    assert not any(few.add({row % 40: (1.0, 1.0)}) for row in range(200)), "too few prompts"
    assert Heard().add(dict.fromkeys(range(50), (1.0, 1.0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_server_that_rounds_is_let_in_by_a_single_answer(
    server: MisbehavingServer, dtype: torch.dtype
) -> None:
    """Few tokens may be off by more than many are on average: an evaluation may lack one answer."""
    server.model = models.load_model(str(TEACHER)).to(torch.bfloat16)
    teacher = models.load_model(str(TEACHER)).to(dtype)
    config = load_experiment("quickstart", ["prompts.sources=[{type: routes}]"])
    prompts = open_prompts(config.prompts, models.load_tokenizer(str(TEACHER)), 0)
    through = engine(server)._rollout(teacher, None, alone=True)
    asked = [list(prompts.prompt(row).tokens) for row in (1, 9, 33, 40)]
    for ids in asked:
        found = through.once(Asked([ids], [0], (2,), 0, 0, None))
        assert found.fits, (found.likeness, found.limit)
    student = engine(server)._rollout(models.load_model(str(STUDENT)), None, alone=True)
    assert not student.once(Asked(asked, range(4), (2,), 0, 0, None)).fits


def test_few_tokens_that_rounding_hits_at_the_server_alone_are_let_in() -> None:
    """Of 3000 single answers some are off by four times what bfloat16 does to them here."""
    student, served = models.load_model(str(STUDENT)), models.load_model(str(STUDENT))
    for weight in served.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    rows = (196, 200, 283)
    asked = [[1, 5, 9, 12 + row % 24] for row in rows]
    drawn = CachedEngine(max_new_tokens=24).sample(student, asked, rows, **ENDS)
    answers = [
        tokens[4 : 4 + n] for tokens, n in zip(drawn.tokens, drawn.response_lengths, strict=True)
    ]
    for ids, answer in zip(asked, answers, strict=True):
        ours, theirs = (scored(one, [ids], [answer], None, 0).log_prob for one in (student, served))
        found = likeness(theirs, ours, [len(answer)], [0])
        assert found.within(allowed(student, [ids], [answer], None, ours)), found


def test_the_last_answers_are_looked_at_by_themselves() -> None:
    """A server that was started again at the end of a long round: the mean over all hides it."""
    ours = torch.full((20 * BLOCK,), -1.0)
    theirs = ours.clone()
    theirs[-BLOCK // 2 :] += 0.3
    rows = [BLOCK // 4] * 80
    found = likeness(theirs, ours, rows, range(80))
    assert found.gap < 0.06
    assert found.worst > 0.2
    assert not found.within(0.1)
    back = likeness(theirs, ours, rows, list(reversed(range(80))))
    assert back.worst == pytest.approx(found.worst)


def test_numbers_that_are_none_are_never_alike() -> None:
    ours = torch.full((9,), -1.0)
    theirs = ours.clone()
    theirs[4] = torch.nan
    assert not likeness(theirs, ours, [9], [0]).within(1e9)


# What a file's rollouts decide


def test_a_model_that_is_measured_without_a_server_is_not_that_of_the_files_server() -> None:
    config = load_experiment(
        "quickstart", ["rollout={type: openai, url: 'http://127.0.0.1:9/v1', max_new_tokens: 8}"]
    )
    for name in ("student", "teacher"):
        subject, label = open_subject(config, f"embedded:{name}", f"embedded:{name}", None)
        assert isinstance(subject, Subject)
        assert engine_of(subject.engine)["type"] == "CachedEngine"
        assert name in label


def test_doctor_asks_no_server_for_the_answers_it_looks_at(student: PreTrainedModel) -> None:
    config = load_experiment(
        "quickstart", ["rollout={type: openai, url: 'http://127.0.0.1:9/v1', max_new_tokens: 8}"]
    )
    tokenizer = models.load_tokenizer(str(STUDENT))
    asked = [open_prompts(config.prompts, tokenizer, 0).prompt(0)]
    assert draw(config, student, tokenizer, asked, [0], 0, 42).tokens.shape[0] == 1


def test_a_look_at_a_server_sends_it_nothing(
    server: MisbehavingServer, student: PreTrainedModel, tmp_path: Path
) -> None:
    through = engine(server, weights_folder=str(tmp_path))
    fits, said = through.look(student, PROMPTS[0], **ENDS)
    assert fits
    assert "has the student's weights" in said
    server.model = models.load_model(str(TEACHER))
    fits, said = through.look(student, PROMPTS[0], **ENDS)
    assert not fits
    assert "has other weights now" in said
    assert not server.seen["/collective_rpc"]
    assert not list(tmp_path.iterdir())
