"""A model behind a server: the very tokens that were sampled, from the very student, or a refusal."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from small_models import small_model
from token_server import EOS, TokenServer
from transformers import PreTrainedModel

from opdlab.configuration.loader import load_experiment
from opdlab.errors import ConfigError, PeerError, ServerError
from opdlab.evaluation.measuring import evaluate_alone
from opdlab.modelling import models
from opdlab.peers import failing_together
from opdlab.records import Rollout
from opdlab.sampling.draws import concatenate
from opdlab.sampling.rescoring import scored
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving import copies, fingerprint as module
from opdlab.serving.access import Access
from opdlab.serving.client import Client
from opdlab.serving.dialect import Draw, completion_body, prompt_text
from opdlab.serving.engine import OpenAIEngine
from opdlab.serving.fingerprint import fingerprint
from opdlab.serving.identify import Identity, identify

PROMPTS = [[1, 5, 9, 12], [1, 7], [1, 20, 21, 22, 23, 24]]
SEEDS = [3, 4, 5]
TOKENS = 60


@pytest.fixture
def folder() -> Path:
    return models.EMBEDDED / "student"


@pytest.fixture
def student(folder: Path) -> PreTrainedModel:
    return models.load_model(str(folder))


@pytest.fixture(params=["vllm", "sglang"])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[TokenServer]:
    with TokenServer(folder, request.param) as server:
        yield server


@pytest.fixture
def vllm(folder: Path) -> Iterator[TokenServer]:
    with TokenServer(folder) as server:
        yield server


def engine(server: TokenServer, **changes: Any) -> OpenAIEngine:
    values: dict[str, Any] = {"max_new_tokens": TOKENS, "patience_s": 5.0, **changes}
    return OpenAIEngine(url=server.url, **values)


def sample(engine: Any, model: PreTrainedModel, **options: Any) -> Rollout:
    return engine.sample(model, PROMPTS, SEEDS, eos_ids=(EOS,), pad_id=0, **options)


def moved(model: PreTrainedModel, by: float = 0.1) -> PreTrainedModel:
    """The model after a step of an optimizer, by default so large that answers change."""
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=noise))
    return model


def assert_same(one: Rollout, other: Rollout) -> None:
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.ended, other.ended)
    assert torch.equal(one.candidates, other.candidates)
    torch.testing.assert_close(one.log_prob, other.log_prob, atol=2e-4, rtol=0)
    torch.testing.assert_close(one.entropy, other.entropy, atol=2e-4, rtol=0)


def test_a_rollout_from_a_server_is_that_of_the_process(
    server: TokenServer, student: PreTrainedModel
) -> None:
    found = sample(engine(server), student, top_k=4)
    assert_same(found, sample(CachedEngine(max_new_tokens=TOKENS), student, top_k=4))
    assert found.ended.any()


def test_every_response_is_handed_over_with_its_tokens(
    server: TokenServer, student: PreTrainedModel
) -> None:
    came: dict[int, list[int]] = {}
    found = sample(engine(server), student, on_response=came.__setitem__)
    rows = found.token.split(found.response_lengths.tolist())
    assert came == {row: tokens.tolist() for row, tokens in enumerate(rows)}


@pytest.mark.parametrize(
    ("hidden", "said"), [("token_ids", "no token ids"), ("logprobs", "no log-probabilities")]
)
def test_a_server_that_hides_what_training_needs_is_refused(
    vllm: TokenServer, student: PreTrainedModel, hidden: str, said: str
) -> None:
    vllm.hides = (hidden,)
    with pytest.raises(ServerError, match=said):
        sample(engine(vllm), student)


def test_a_server_of_no_known_kind_is_refused_before_it_is_asked(
    vllm: TokenServer, student: PreTrainedModel
) -> None:
    vllm.kind = "someone"
    with pytest.raises(ServerError, match="unknown"):
        sample(engine(vllm), student)
    assert not vllm.bodies


def test_a_server_that_reads_another_prompt_is_refused(
    vllm: TokenServer, student: PreTrainedModel
) -> None:
    vllm.extra_prompt = [1]
    for hidden in ((), ("prompt_token_ids",)):
        vllm.hides = hidden
        with pytest.raises(ServerError, match="read a prompt as 5 tokens that has 4"):
            engine(vllm).sample(student, PROMPTS[:1], SEEDS[:1], eos_ids=(EOS,), pad_id=0)
    vllm.hides = ("prompt_token_ids", "usage")
    with pytest.raises(ServerError, match="does not say how many"):
        sample(engine(vllm), student)


def test_a_server_that_cuts_the_eos_off_is_refused(
    vllm: TokenServer, student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm.kind = "sglang"
    whole = vllm.complete
    monkeypatch.setattr(vllm, "complete", lambda body: whole({**body, "no_stop_trim": False}))
    with pytest.raises(ServerError, match="no EOS"):
        sample(engine(vllm), student)


def test_a_server_with_other_weights_is_refused(
    server: TokenServer, student: PreTrainedModel
) -> None:
    with pytest.raises(ServerError, match="does not serve the student"):
        sample(engine(server), moved(student))


def test_weights_are_sent_when_they_changed_and_only_then(
    server: TokenServer,
    student: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = "/collective_rpc" if server.kind == "vllm" else "/update_weights_from_disk"
    monkeypatch.chdir(tmp_path)
    through = engine(server, weights_folder="weights")
    for sent in (1, 2):
        moved(student, by=1e-4)
        for _ in range(2):
            found = sample(through, student)
            assert server.seen[path] == sent
            served = server.model.state_dict()
            for name, weight in student.state_dict().items():
                assert torch.equal(served[name], weight)
            assert_same(found, sample(CachedEngine(max_new_tokens=TOKENS), student))
    (copy,) = (tmp_path / "weights").glob("weights-*")
    before = {path.name: path.stat().st_ino for path in copy.iterdir()}
    assert copies.written(student, copy.parent, fingerprint(student)) == str(copy)
    assert {path.name: path.stat().st_ino for path in copy.iterdir()} == before


def test_a_server_started_again_gets_the_weights_again(
    server: TokenServer, student: PreTrainedModel, tmp_path: Path
) -> None:
    through = engine(server, weights_folder=str(tmp_path / "weights"))
    sample(through, moved(student))
    server.forget()
    assert_same(sample(through, student), sample(CachedEngine(max_new_tokens=TOKENS), student))


def test_weights_that_do_not_arrive_are_noticed(
    server: TokenServer, student: PreTrainedModel, tmp_path: Path
) -> None:
    server.deaf = True
    said = "does not serve the student.* It was sent the student's weights, and answers with others"
    with pytest.raises(ServerError, match=said):
        sample(engine(server, weights_folder=str(tmp_path)), moved(student))


def test_a_busy_server_is_asked_again_and_nothing_is_lost(
    vllm: TokenServer, student: PreTrainedModel
) -> None:
    vllm.failures, vllm.headers = 4, {"Retry-After": "1"}
    started = time.monotonic()
    found = sample(engine(vllm), student)
    assert time.monotonic() - started > 1
    assert_same(found, sample(CachedEngine(max_new_tokens=TOKENS), student))


def test_what_a_server_refuses_is_told_at_once_in_its_words(
    vllm: TokenServer, student: PreTrainedModel
) -> None:
    vllm.failures, vllm.status = 9, 400
    with pytest.raises(ServerError, match="status 400: not now"):
        sample(engine(vllm), student)
    assert vllm.seen["/v1/completions"] <= len(PROMPTS)


def access(url: str, **changes: Any) -> Access:
    values = {"concurrency": 3, "patience_s": 0.5, "timeout_s": 5.0, **changes}
    return Access(url, "NO_SUCH_KEY", **values)


def test_patience_ends() -> None:
    with pytest.raises(ServerError, match="connection refused"):
        Client(access("http://127.0.0.1:9/v1")).ask("/version")


def test_a_caller_that_stops_is_not_kept_waiting(vllm: TokenServer) -> None:
    vllm.failures, vllm.headers = 99, {"Retry-After": "60"}
    client, notices = Client(access(vllm.url, patience_s=600)), []

    def tick() -> None:
        notices.append(client.notice)
        if len(notices) > 2:
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        client.post_all(f"{vllm.url}/completions", [{}] * 5, print, tick)
    assert time.monotonic() - started < 5
    assert "status 503: not now" in notices[-1]
    asked = vllm.seen["/v1/completions"]
    time.sleep(0.6)
    assert vllm.seen["/v1/completions"] == asked


def test_a_server_is_asked_as_many_at_once_whatever_this_process_may_hold(
    vllm: TokenServer, student: PreTrainedModel
) -> None:
    came: dict[int, list[int]] = {}
    asked = {"eos_ids": (EOS,), "pad_id": 0, "max_rows": 64}
    through = engine(vllm, concurrency=3)
    through.answer(
        student, PROMPTS * 2, SEEDS * 2, max_tokens=1, on_response=came.__setitem__, **asked
    )
    assert vllm.busiest == 3
    found = sample(through, student)
    rows = [part.tolist() for part in found.token.split(found.response_lengths.tolist())]
    assert [came[row] for row in range(6)] == rows * 2


def test_so_many_requests_are_under_way_at_once(
    vllm: TokenServer, student: PreTrainedModel
) -> None:
    many = {"eos_ids": (EOS,), "pad_id": 0}
    engine(vllm, concurrency=3).sample(student, PROMPTS * 4, SEEDS * 4, **many)
    assert vllm.busiest == 3
    vllm.busiest = 0
    engine(vllm, concurrency=3).sample(student, PROMPTS * 4, SEEDS * 4, max_rows=2, **many)
    assert vllm.busiest == 2


def test_a_key_goes_along_where_there_is_one(
    vllm: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    client = Client(Access(vllm.url, "MY_KEY", 1, 1.0, 1.0))
    client.ask("/version")
    assert vllm.headers_seen[-1]["Authorization"] == "Bearer secret"
    Client(access(vllm.url)).ask("/version")
    assert "Authorization" not in vllm.headers_seen[-1]


def test_a_server_says_what_it_is(server: TokenServer, folder: Path) -> None:
    version = {"vllm": "0.33.0", "sglang": "0.5.9"}[server.kind]
    client = Client(access(server.url))
    assert identify(client, None) == Identity(server.kind, version, "the-model", str(folder))
    with pytest.raises(ServerError, match=r"no model 'other' is served.*the-model"):
        identify(client, "other")


def test_what_transformers_serve_lists_is_not_what_it_serves(
    vllm: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "/v1/models": {"data": [{"id": "downloaded-once", "owned_by": "someone"}]},
        "/openapi.json": {"paths": {"/load_model": {}}},
    }
    monkeypatch.setattr(vllm, "get", said.get)
    client = Client(access(vllm.url))
    assert identify(client, None, "/my/model") == Identity("transformers", "", "/my/model", "")
    with pytest.raises(ServerError, match="lists none"):
        identify(client, None)


def test_every_sampling_setting_is_said_because_servers_have_defaults_of_their_own() -> None:
    draw = Draw(0.6, 0.95, 100, (2, 7), 0)
    by_kind = {
        kind: completion_body(Identity(kind, "", "m", ""), draw, [1, 5], "text", 11)
        for kind in ("vllm", "sglang", "transformers", "llama.cpp", "unknown")
    }
    common = {"model": "m", "max_tokens": 100, "temperature": 0.6, "top_p": 0.95, "seed": 11}
    none = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert by_kind["unknown"] == {**common, **none, "prompt": "text"}
    tokens = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": [2, 7]}
    tokens |= {"min_tokens": 0, "stop": [], "ignore_eos": False, "skip_special_tokens": True}
    asked = {**common, **none, **tokens, "prompt": [1, 5], "return_token_ids": True}
    assert by_kind["vllm"] == asked
    assert by_kind["sglang"] == {**asked, "no_stop_trim": True}
    assert by_kind["llama.cpp"].items() >= {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}.items()
    told = json.loads(by_kind["transformers"]["generation_config"])
    assert told.items() >= {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}.items()
    assert told.items() >= {"no_repeat_ngram_size": 0, "typical_p": 1.0, "min_length": 0}.items()
    greedy = completion_body(
        Identity("transformers", "", "m", ""), Draw(0, 1, 9, (2,), 0), [1], "t", 1
    )
    assert '"do_sample": false' in greedy["generation_config"]


def test_a_prompt_is_sent_as_a_text_that_gives_its_tokens_or_not_at_all(folder: Path) -> None:
    tokenizer = models.load_tokenizer(str(folder))
    ids = tokenizer("3+4=")["input_ids"]
    assert prompt_text(tokenizer, ids, "3+4=") == "3+4="
    assert prompt_text(tokenizer, ids, f"{tokenizer.bos_token}3+4=") == "3+4="
    with pytest.raises(ServerError, match="text only"):
        prompt_text(tokenizer, ids[1:], "3+4=")


def test_the_time_that_a_server_works_on_a_request_uses_up_no_patience(vllm: TokenServer) -> None:
    """The first answer does not come within the time limit, which is longer than the patience."""
    asked: list[Any] = []

    def slow(path: str, body: dict[str, Any]) -> Any:
        asked.append(body)
        if len(asked) == 1:
            vllm.pause.wait(1.5)
        return {"answer": len(asked)}

    vllm.post = slow  # type: ignore[method-assign]
    client = Client(access(vllm.url, patience_s=0.5, timeout_s=1.0))
    assert client.post(client.access.api("/completions"), {}) == {"answer": 2}


def test_a_server_that_answers_others_is_not_given_up(vllm: TokenServer) -> None:
    """The first request is refused for longer than its patience, while others are answered."""
    answered: list[int] = []
    vllm.status = 429
    vllm.refuses = lambda body: body["number"] == 0 and len(answered) < 14

    def work(path: str, body: dict[str, Any]) -> Any:
        vllm.pause.wait(0.1)
        answered.append(body["number"])
        return {}

    vllm.post = work  # type: ignore[method-assign]
    client, done = Client(access(vllm.url, concurrency=2, patience_s=0.6)), []
    bodies = [{"number": number} for number in range(15)]
    client.post_all(client.access.api("/completions"), bodies, lambda row, _: done.append(row))
    assert sorted(done) == list(range(15))
    assert done[-1] == 0


@pytest.mark.parametrize(
    "url",
    ["''", "localhost:8000/v1", "127.0.0.1:8000", "ftp://host/v1", "[]", "[http://host/v1, '']"],
)
def test_a_url_without_http_is_refused_at_load(url: str):
    with pytest.raises(ConfigError, match=r"rollout.url begins with http:// or https://"):
        load_experiment("quickstart", ["rollout.type=openai", f"rollout.url={url}"])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://", "url has no host, or no number as its port"),
        ("http:///v1", "url has no host"),
        ("http://host:port/v1", "url has no host, or no number as its port"),
        ("http://host:99999/v1", "url has no host, or no number as its port"),
        ("http://a host/v1", "url has no host"),
        (
            "http://host/v1/completions/",
            "url ends where OpenAI's API begins: leave /completions out",
        ),
        ("http://host/v1/models", "url ends where .* leave /models out"),
    ],
)
def test_a_url_that_no_server_can_have_is_refused_at_load(url: str, words: str):
    with pytest.raises(ConfigError, match=rf"rollout.{words}"):
        load_experiment("quickstart", ["rollout.type=openai", f"rollout.url='{url}'"])
    with pytest.raises(ConfigError, match=rf"--server .*: the .*{words[4:]}"):
        evaluate_alone(load_experiment("quickstart"), "embedded:student", url)


@pytest.mark.parametrize("end", ["/", "//", "/#top", " ", "/?version=1"])
def test_a_url_may_end_in_a_slash_or_a_query(
    server: TokenServer, student: PreTrainedModel, tmp_path: Path, end: str
) -> None:
    through = replace(
        engine(server, weights_folder=str(tmp_path)), url=server.url.replace("/v1", "//v1") + end
    )
    found = sample(through, moved(student))
    assert_same(found, sample(CachedEngine(max_new_tokens=TOKENS), student))


def test_an_address_has_single_slashes_and_keeps_its_query() -> None:
    for url in ("http://host/v1", "http://host/v1/", "http://host//v1//", " http://host/v1/ "):
        there = access(url)
        assert (there.url, there.root) == ("http://host/v1", "http://host")
        assert there.api("/completions") == "http://host/v1/completions"
        assert there.beside_api("/version") == "http://host/version"
    there = access("http://host/a//v1/?version=1")
    assert there.api("/models") == "http://host/a/v1/models?version=1"
    assert there.beside_api("/version") == "http://host/a/version?version=1"
    assert access("http://host/v1beta").root == "http://host/v1beta"


def test_answers_of_a_server_are_scored_again_many_at_a_time(student: PreTrainedModel) -> None:
    lengths = torch.randint(1, 50, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    noise = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 40, (length,), generator=noise) for length in lengths]
    prompts = [[1, 5, 9, 12][: 1 + number % 4] for number in range(60)]
    forwards: list[int] = []
    hook = student.register_forward_hook(lambda *_: forwards.append(1))
    found = scored(student, prompts, rows, None, 4)
    hook.remove()
    assert len(forwards) < 30  # an answer's states and logits took two forwards each: 120
    alone = concatenate(
        scored(student, [prompt], [row], None, 4) for prompt, row in zip(prompts, rows, strict=True)
    )
    torch.testing.assert_close(found.log_prob, alone.log_prob, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropy, alone.entropy, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.candidates, alone.candidates)


def test_copies_of_killed_processes_are_removed(tmp_path: Path, student: PreTrainedModel) -> None:
    writer = f"{socket.gethostname()}-{copies._boot()}"
    gone = {f"weights-{writer}-999999999-abc", f"weights-{writer}-999999999-abc.part"}
    # A process has the id of the last, and not its lock.
    gone |= {f"weights-{writer}-{os.getppid()}-abc"}
    for name in gone | {"mine"}:
        (tmp_path / name).mkdir()
    copies.written(student, tmp_path, "now")
    left = {path.name for path in tmp_path.iterdir()}
    assert not gone & left
    assert "mine" in left
    assert len(left) == 2


def test_a_copy_in_use_stays_whatever_the_id_of_its_process(
    tmp_path: Path, student: PreTrainedModel
) -> None:
    """Containers may share a host's name and not its ids of processes, and an id comes again."""
    copy = Path(copies.written(student, tmp_path, "now"))
    elsewhere = re.sub(r"-\d+-(\w+)$", r"-999999999-\1", copy.name)
    copy.rename(tmp_path / elsewhere)
    left = tmp_path / f"weights-{socket.gethostname()}-{copies._boot()}-{os.getppid()}-abc"
    left.mkdir()
    (left / copies.LOCK).touch()
    copies._clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [elsewhere]


def test_copies_of_killed_containers_go_and_those_of_other_machines_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each container has its own name and process ids; locks are those of the kernel that they share."""
    boot, host = copies._boot(), socket.gethostname()
    here, used = f"weights-pod-{boot}-7-abc", f"weights-other-{boot}-{os.getpid()}-abc"
    # Machines may share a name, and a lock of the other's may not be seen here.
    foreign = {f"weights-{one}-01234567-7-abc" for one in ("pod", host)} | {f"weights-{host}-7-abc"}
    for name in (here, f"{here}.part", used, *foreign):
        (tmp_path / name).mkdir()
        (tmp_path / name / copies.LOCK).touch()
    with FileLock(tmp_path / used / copies.LOCK):
        for _ in range(2):
            copies._clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*foreign, used}
    assert caplog.text.count("copies of weights by other machines") == 1
    assert all(name in caplog.text for name in foreign)


def test_a_copy_of_weights_stays_until_the_next_one_is_whole(
    tmp_path: Path, student: PreTrainedModel
) -> None:
    first = Path(copies.written(student, tmp_path, "first"))
    save: Any = student.save_pretrained

    def looks(folder: Path) -> None:
        assert (first / "model.safetensors").is_file()
        save(folder)

    def fails(folder: Path) -> None:
        save(folder)
        raise OSError("no space left")

    student.save_pretrained = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no space"):
        copies.written(student, tmp_path, "second")
    assert list(tmp_path.iterdir()) == [first]
    assert copies.written(student, tmp_path, "first") == str(first)
    student.save_pretrained = looks  # type: ignore[method-assign]
    second = Path(copies.written(student, tmp_path, "second"))
    assert list(tmp_path.iterdir()) == [second]
    assert second != first


def stepped(model: PreTrainedModel, fused: bool) -> None:
    one = next(model.parameters())
    one.grad = torch.zeros_like(one)
    one.grad[3, 1] = 1.0
    torch.optim.AdamW([one], lr=1e-6, weight_decay=0.0, fused=fused).step()


CHANGES: dict[str, Callable[[PreTrainedModel], object]] = {
    "a step": lambda model: stepped(model, fused=False),
    "a fused step": lambda model: stepped(model, fused=True),
    "data": lambda model: next(model.parameters()).data[0, 0].neg_(),
    "other numbers": lambda model: model.half(),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_fingerprint_changes_with_the_weights_however_they_change(change: str) -> None:
    model = small_model("llama")
    before = fingerprint(model)
    assert fingerprint(small_model("llama")) == before
    CHANGES[change](model)
    assert fingerprint(model) != before


def test_a_fingerprint_tells_places_types_and_names_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 4)
    numbers = torch.arange(10.0)
    found = set()
    for weight in (numbers, numbers.flip(0), numbers.roll(4), numbers.view(2, 5), numbers.double()):
        for name in ("one", "other"):
            model = torch.nn.Module()
            model.register_buffer(name, weight.clone())
            found.add(fingerprint(model))
    assert len(found) == 10


def one_of_two(rank: int, url: str, folder: Path) -> None:
    """What a process of a training does with the server: two rollouts by changed weights."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    student = moved(models.load_model(str(models.EMBEDDED / "student")))
    served = OpenAIEngine(
        url=url, max_new_tokens=8, patience_s=5.0, weights_folder=str(folder / "weights")
    )
    prompts, seeds = [PROMPTS[rank]], [SEEDS[rank]]
    ends: dict[str, Any] = {"eos_ids": (EOS,), "pad_id": 0}
    for _ in range(2):
        found = served.sample(student, prompts, seeds, **ends)
        own = CachedEngine(max_new_tokens=8).sample(student, prompts, seeds, **ends)
        assert torch.equal(found.tokens, own.tokens)
    # The second may not have the token that comes: the first must not wait for it for ever.
    with pytest.raises(PeerError, match=r"process 1 failed.*beyond the 1"), failing_together():
        served.sample(student, prompts, seeds, vocabulary=None if rank == 0 else 1, **ends)
    torch.distributed.destroy_process_group()


def test_processes_that_train_together_sample_on_one_server_that_the_first_keeps_up(
    vllm: TokenServer, tmp_path: Path
) -> None:
    start = torch.multiprocessing.start_processes
    start(one_of_two, args=(vllm.url, tmp_path), nprocs=2, start_method="spawn")
    assert vllm.seen["/collective_rpc"] == 1
    assert not list((tmp_path / "weights").glob("weights-*"))
