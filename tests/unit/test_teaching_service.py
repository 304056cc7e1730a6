"""A teacher behind `opdlab teach` says what it says in this process, whoever else asks, and how."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from safetensors.torch import save
from taught_pair import ENTRIES, STUDENT, TEACHER, here, rollout, student
from teach_server import Teaching, teaching
from transformers import PreTrainedModel

import opdlab
from opdlab.configuration.loader import load_experiment
from opdlab.configuration.model_settings import Taught
from opdlab.configuration.server_settings import Server
from opdlab.errors import ConfigError, DataError, ModelError, RefusedError, ServerError
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.future_kl import FutureKL
from opdlab.methods.jsd import JSD
from opdlab.methods.kl_estimator import KLEstimator
from opdlab.methods.lgr import LGR
from opdlab.methods.lookahead import group_rewards
from opdlab.methods.opd import OPD
from opdlab.methods.reopold import Reopold
from opdlab.modelling import models
from opdlab.modelling.head import chunked_loss
from opdlab.records import Lookahead, Questions, Rollout
from opdlab.scoring.length_groups import states_before_tokens
from opdlab.scoring.scorer import Scorer
from opdlab.scoring.teacher import Teacher
from opdlab.scoring.tree import part
from opdlab.service.admission import is_loopback
from opdlab.service.batching import Batcher, Job
from opdlab.service.metrics import Metrics
from opdlab.service.run import Asked, open_service
from opdlab.serving import trial
from opdlab.serving.access import Access
from opdlab.serving.remote_teacher import RemoteTeacher
from opdlab.serving.wire import MEDIA, Limits, Request, pack, read_answer, request_body
from opdlab.training import teachers
from opdlab.training.teachers import make_scorer

__all__ = ["here", "rollout", "student"]

SHELL = models.load_shell(str(TEACHER))
NUMBERS = ("log_prob", "entropy", "fidelity", "sampled_confidence", "confidence")
KEY = "KEY_OF_THE_SERVICE"


@pytest.fixture(scope="module")
def service() -> Iterator[Teaching]:
    with teaching("embedded:teacher") as service:
        yield service


def served(service: Teaching, **changes: Any) -> RemoteTeacher:
    values: dict[str, Any] = {"concurrency": 4, "patience_s": 5.0, "timeout_s": 30.0, **changes}
    access = Access(service.url, KEY, **values)
    return RemoteTeacher(access, ENTRIES, SHELL)


METHODS: dict[str, Any] = {
    "opd": OPD(),
    "opd_full": OPD(support="full"),
    "opd_top_k": OPD(support="top_k", top_k=5),
    "opd_top_k_of_teacher": OPD(support="top_k", top_k=5, top_k_of="teacher"),
    "kl_estimator": KLEstimator(),
    "future_kl": FutureKL(),
    "reopold": Reopold(),
    "forward_kl": ForwardKL(),
    "forward_kl_top_k": ForwardKL("top_k", 5),
    "jsd": JSD(),
    "jsd_top_k": JSD("top_k", 5, beta=0.3),
    "lgr": LGR(top_k=4, entropy_threshold=0.0),
    "lgr_full": LGR(top_k=4, base=OPD(support="full")),
    "lgr_sampled_prob": LGR(top_k=4, entropy_threshold=0.0, confidence="sampled_prob"),
    "lgr_entropy": LGR(top_k=4, entropy_threshold=0.0, confidence="entropy"),
    "lgr_perplexity": LGR(top_k=4, entropy_threshold=0.0, confidence="perplexity"),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_scores_losses_and_gradients_are_those_of_the_process(
    service: Teaching, student: PreTrainedModel, here: Teacher, rollout: Rollout, name: str
) -> None:
    method = METHODS[name]

    def found(teacher: Scorer) -> list[torch.Tensor]:
        scores = teacher.score(rollout, method.questions(rollout))
        said = scores.distributions
        loss = chunked_loss(
            student,
            states_before_tokens(student, rollout),
            None if said is None else teacher.logits(said),
            method.supervise(rollout, scores),
            method.token_loss,
            ENTRIES,
        ).loss
        weights = [one for one in student.parameters() if one.requires_grad]
        each = torch.autograd.grad(loss.mean(), weights)
        return [
            *(getattr(scores, number) for number in NUMBERS),
            torch.tensor(float(scores.leaves)),
            loss.detach(),
            torch.cat([one.flatten() for one in each]),
        ]

    teacher = served(service)
    assert isinstance(teacher, Scorer)
    before = requests.get(f"{service.url}/metrics").text
    # Of likeliest tokens the loss is reckoned from other numbers than from hidden states.
    for one, truth in zip(found(teacher), found(here), strict=True):
        torch.testing.assert_close(one, truth, rtol=1e-6, atol=1e-6, equal_nan=True)
    after = requests.get(f"{service.url}/metrics").text
    # Candidates and all go over at once.
    assert _figure(after, "batched_requests_total") == 1 + _figure(before, "batched_requests_total")


def _figure(text: str, name: str) -> float:
    return sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith(f"opdlab_teacher_{name}")
    )


def test_likeliest_tokens_come_as_such_where_that_is_fewer_bytes(
    service: Teaching, here: Teacher, rollout: Rollout
) -> None:
    none = rollout.candidates[:, :0]
    teacher = served(service).probe()
    few = teacher.score(rollout, Questions(none, top_k=5))
    assert few.hidden is None
    teacher.told = {**teacher.told, "hidden_bytes": 48}
    many = teacher.score(rollout, Questions(none, top_k=5))
    assert many.hidden is not None
    assert few.top_ids is not None
    assert few.top_log_prob is not None
    truth = here.score(rollout, Questions(none, full=True))
    assert truth.hidden is not None
    whole = here.log_probs(truth.hidden)
    torch.testing.assert_close(few.top_log_prob[:, :-1], whole.topk(5).values, rtol=0, atol=1e-6)
    torch.testing.assert_close(few.top_log_prob.exp().sum(-1), torch.ones(len(whole)))
    assert many.distributions is not None
    said = teacher.logits(many.distributions)(slice(None)).log_softmax(-1)
    torch.testing.assert_close(said, whole, rtol=0, atol=1e-6)


def test_many_who_ask_at_once_get_what_each_gets_alone(
    service: Teaching, here: Teacher, rollout: Rollout
) -> None:
    """32 clients with requests of several kinds, which are scored together, and bad ones between them."""
    kinds = (
        Questions(rollout.candidates),
        Questions(rollout.candidates[:, :2], "entropy"),
        Questions(rollout.candidates[:, :0], full=True),
        Questions(rollout.candidates[:, :1], "sampled_prob", top_k=3),
    )
    pieces = [part(rollout, torch.tensor(rows)) for rows in ([0], [1, 4], [2, 3, 5], range(6))]
    cases = [
        (piece, replace(asked, candidates=asked.candidates[place]))
        for asked in kinds
        for piece, place in pieces
    ]
    truths = [here.score(*case) for case in cases]
    before = requests.get(f"{service.url}/metrics").text

    def client(number: int) -> None:
        teacher = served(service)
        for turn in range(3):
            place = (7 * number + turn) % len(cases)
            found, truth = teacher.score(*cases[place]), truths[place]
            for name in NUMBERS:
                one = getattr(found, name)
                torch.testing.assert_close(
                    one, getattr(truth, name), rtol=0, atol=1e-5, equal_nan=True
                )
            if truth.hidden is not None and found.hidden is not None:
                torch.testing.assert_close(found.hidden, truth.hidden, rtol=1e-4, atol=1e-4)
        wrong = requests.post(f"{service.url}/v1/score", data=b"x" * 50, headers=_of(MEDIA))
        assert wrong.status_code == 422

    with ThreadPoolExecutor(32) as pool:
        for done in [pool.submit(client, number) for number in range(32)]:
            done.result()
    after = requests.get(f"{service.url}/metrics").text
    requests_scored, passes = (
        _figure(after, name) - _figure(before, name)
        for name in ("batched_requests_total", "batches_total")
    )
    assert requests_scored == 32 * 3
    assert passes < requests_scored
    assert _figure(after, "requests_admitted") == 0


def _of(media: str, **more: str) -> dict[str, str]:
    return {"Content-Type": media, **more}


def body(**changes: Any) -> bytes:
    """A request of one answer with some tensors or words replaced; None leaves them out."""
    tensors: dict[str, Any] = {
        "tokens": torch.tensor([1, 5, 9, 7, 8], dtype=torch.int32),
        "prompt_lengths": torch.tensor([3]),
        "response_lengths": torch.tensor([2]),
    }
    words = {}
    for name, value in changes.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif value is None:
            del tensors[name]
        else:
            words[name] = value
    return pack(tensors, words)


def small(**changes: Any) -> bytes:
    return json.dumps({"prompts": [[1, 5, 9]], "answers": [[7, 8]], **changes}).encode()


def header(text: str, size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text.encode()


BAD: dict[str, tuple[Callable[[], bytes], str, int, str]] = {
    "no file": (lambda: b"nothing", MEDIA, 422, "not a whole safetensors"),
    "empty": (lambda: b"", MEDIA, 422, "not a whole safetensors"),
    "cut": (lambda: body()[:-3], MEDIA, 422, "not a safetensors file"),
    "a header without end": (lambda: header("{}", 2**62), MEDIA, 422, "not a whole safetensors"),
    "a long header": (lambda: header(" " * 70000), MEDIA, 422, "names more than one may"),
    "a deep header": (lambda: header('{"a":' + "[" * 60000), MEDIA, 422, "not a safetensors file"),
    "a list": (lambda: header("[]"), MEDIA, 422, "not a safetensors file"),
    "a pickle": (lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00", MEDIA, 422, "not a whole safetensors"),
    "odd metadata": (lambda: save({}, {"top_k": "{"}), MEDIA, 422, "not a safetensors file"),
    "floats": (lambda: body(tokens=torch.full((5,), torch.nan)), MEDIA, 422, "holds torch.float32"),
    "another name": (lambda: body(evil=torch.ones(1).int()), MEDIA, 422, "'evil' is unknown"),
    "another word": (lambda: body(evil=1), MEDIA, 422, "'evil' is unknown"),
    "no tokens": (lambda: body(tokens=None), MEDIA, 422, "tokens is missing"),
    "a large id": (lambda: body(tokens=torch.tensor([1, 5, 9, 7, 42])), MEDIA, 422, "holds 42"),
    "a negative id": (lambda: body(tokens=torch.tensor([1, 5, 9, -7, 2])), MEDIA, 422, "holds -7"),
    "an empty answer": (lambda: body(response_lengths=torch.tensor([0])), MEDIA, 422, "holds 0"),
    "a huge length": (lambda: body(response_lengths=torch.tensor([2**62])), MEDIA, 422, "holds"),
    "other lengths": (lambda: body(prompt_lengths=torch.tensor([4])), MEDIA, 422, "make 6 tokens"),
    "no rows": (lambda: body(prompt_lengths=torch.ones(0).int()), MEDIA, 422, "0 prompt_lengths"),
    "beyond the positions": (
        lambda: body(tokens=torch.ones(600).int(), prompt_lengths=torch.tensor([598])),
        MEDIA, 422, "'longest': 512",
    ),
    "mostly filler": (
        lambda: body(
            tokens=torch.ones(8692).int(),
            prompt_lengths=torch.ones(4097).int().scatter(0, torch.tensor(0), 499),
            response_lengths=torch.ones(4097).int(),
        ), MEDIA, 422, "too much for one request",
    ),
    "candidates aside": (lambda: body(candidates=torch.ones(3, 1).int()), MEDIA, 422, "shape [3, 1]"),
    "no such measure": (lambda: body(measure=["entropy"]), MEDIA, 422, "choose one of max_prob"),
    "too many likeliest": (lambda: body(top_k=43), MEDIA, 422, "from 0 to 42"),
    "a boolean": (lambda: body(top_k=True), MEDIA, 422, "top_k is True"),
    "no entries": (lambda: body(vocabulary=0), MEDIA, 422, "from 1 to 42"),
    "an id that does not count": (lambda: body(vocabulary=8), MEDIA, 422, "holds 9"),
    "no JSON": (lambda: b"{", "application/json", 422, "Invalid JSON"),
    "deep JSON": (lambda: b"[" * 200000, "application/json", 422, "recursion limit"),
    "too long JSON": (lambda: b" " * 1100000, "application/json", 413, "more than 1048576"),
    "text for ids": (lambda: small(answers=["ab"]), "application/json", 422, "answers.0"),
    "a huge number": (lambda: small(answers=[[10**400]]), "application/json", 422, "answers.0.0"),
    "ragged": (lambda: small(candidates=[[[1], [1, 2]]]), "application/json", 422, "equally many"),
    "another option": (lambda: small(full=True), "application/json", 422, "full"),
    "a form": (lambda: b"a=1", "application/x-www-form-urlencoded", 415, MEDIA),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused_with_the_reason(service: Teaching, case: str) -> None:
    make, media, status, words = BAD[case]
    answer = requests.post(f"{service.url}/v1/score", data=make(), headers=_of(media))
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    fine = requests.post(f"{service.url}/v1/score", data=small(), headers=_of("application/json"))
    assert fine.status_code == 200


def raw(service: Teaching, text: str) -> bytes:
    """The answer to bytes that no client library would send."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(text.encode())
        return connection.recv(65536)


def test_what_is_too_large_is_refused_before_it_is_read(service: Teaching) -> None:
    """Nothing but the headers is sent: whoever read on would wait."""
    start = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MEDIA}\r\n"
    for length, status in (("67108865", b"413"), ("9" * 5000, b"4"), ("-1", b"4")):
        assert (
            raw(service, f"{start}Content-Length: {length}\r\n\r\n").split()[1].startswith(status)
        )
    assert raw(service, f"{start}Transfer-Encoding: chunked\r\n\r\n").split()[1] == b"411"
    # A web page that reached this machine under another name.
    assert (
        raw(service, "GET /v1/teacher HTTP/1.1\r\nHost: evil.example\r\n\r\n").split()[1] == b"421"
    )


def test_one_that_goes_away_is_not_waited_for(service: Teaching, rollout: Rollout) -> None:
    whole = request_body(rollout, Questions(rollout.candidates), None)
    start = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MEDIA}\r\n"
    port = int(service.url.rsplit(":", 1)[1])
    for sent in (whole[:50], whole):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"{start}Content-Length: {len(whole)}\r\n\r\n".encode() + sent)
    while service.service.app.admitted:
        threading.Event().wait(0.01)
    assert service.service.app.reserved == 0
    assert requests.get(f"{service.url}/health").json() == {"status": "ok"}


def test_what_no_teacher_expected_of_one_request_hurts_no_other(
    service: Teaching, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in scoring is of the request that brings it about, whatever it was scored with."""
    score, marked = Teacher.score, 4242
    begun, go_on = threading.Event(), threading.Event()

    def faulty(self: Teacher, rollout: Rollout, *rest: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        if (rollout.seeds == marked).any():
            raise ModelError("never this row")
        return score(self, rollout, *rest, **more)

    monkeypatch.setattr(Teacher, "score", faulty)

    def post(seed: int) -> requests.Response:
        return requests.post(
            f"{service.url}/v1/score", json={**json.loads(small()), "seeds": [seed]}
        )

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(post, 0)
        assert begun.wait(30)
        others = [pool.submit(post, seed) for seed in (1, marked, 2, 3)]
        while service.service.desk.batcher.waiting < 4:
            threading.Event().wait(0.01)
        go_on.set()
        found = [one.result() for one in (first, *others)]
    assert [one.status_code for one in found] == [200, 200, 422, 200, 200]
    assert found[2].json()["detail"] == "never this row"
    assert len({json.dumps(one.json()) for one in found if one.ok}) == 1
    lost = [thread for thread in service.service.desk.batcher.threads if not thread.is_alive()]
    assert not lost


def test_a_service_that_has_answered_nothing_is_tried_by_two_tokens_of_what_it_fails_at(
    service: Teaching, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a new process, which asks it first what it fails at, does not take it for away."""
    monkeypatch.setattr(trial, "_ANSWERED", {})
    url = f"{service.url}/v1/score"
    asked = trial.known(url, request_body(rollout, Questions(rollout.candidates), ENTRIES))
    assert isinstance(asked, bytes)
    found = requests.post(url, data=asked, headers={"Content-Type": MEDIA})
    assert found.status_code == 200, found.text
    assert read_answer(found.content, 1, 0)[0].log_prob.shape == (1,)


def test_of_a_request_that_is_refused_only_the_row_at_fault_goes_without_scores(
    service: Teaching, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, marked, bad = Teacher.score, int(rollout.seeds[2]), [True]

    def faulty(self: Teacher, rollout: Rollout, *rest: Any, **more: Any) -> Any:
        if len(rollout.seeds) > 1 or (bad[0] and (rollout.seeds == marked).any()):
            raise ModelError("never this row, nor so many")
        return score(self, rollout, *rest, **more)

    assert len({*rollout.seeds.tolist()}) == len(rollout.seeds)
    exact = served(service).score(rollout, Questions(rollout.candidates))
    monkeypatch.setattr(Teacher, "score", faulty)
    with pytest.raises(RefusedError, match=r"row 2: .*never this row") as told:
        served(service).score(rollout, Questions(rollout.candidates))
    assert [*told.value.rows] == [2]
    assert not told.value.ended
    bad[0] = False
    found = served(service).score(rollout, Questions(rollout.candidates))
    torch.testing.assert_close(found.log_prob, exact.log_prob, atol=1e-5, rtol=1e-5)


def test_a_row_that_the_service_fails_at_is_refused_when_a_new_process_asks_for_it_alone(
    service: Teaching, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a server of uvicorn closes the connection after such a failure, without a word."""
    monkeypatch.setattr(trial, "_ANSWERED", {})
    score, app, failed = Teacher.score, service.service.app.app, set[int]()

    def faulty(self: Teacher, rollout: Rollout, *rest: Any, **more: Any) -> Any:
        if (rollout.seeds == 2).any():
            raise RuntimeError("never this row")
        return score(self, rollout, *rest, **more)

    async def closing(scope: Any, receive: Any, send: Any) -> None:
        """What comes by a connection that is to be closed is lost, however fast it comes."""
        _, port = scope["client"]
        if port in failed:
            raise RuntimeError("closed")
        try:
            await app(scope, receive, send)
        except RuntimeError:
            failed.add(port)

    monkeypatch.setattr(Teacher, "score", faulty)
    monkeypatch.setattr(service.service.app, "app", closing)
    row, place = part(rollout, torch.tensor([2]))
    with pytest.raises(RefusedError, match=r"row 0: .*fails at this request each time"):
        served(service, patience_s=0.0).score(row, Questions(rollout.candidates[place]))


def test_more_than_there_is_room_for_comes_again(rollout: Rollout, here: Teacher) -> None:
    with teaching("embedded:teacher", places=3, limits=Limits(tokens=64)) as narrow:
        teacher = served(narrow, patience_s=60.0)
        asked = Questions(rollout.candidates)
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(served(narrow).score, rollout, asked) for _ in range(2)]
            found = [teacher.score(rollout, asked), *(one.result() for one in done)]
        text = requests.get(f"{narrow.url}/metrics").text
        truth = here.score(rollout, asked)
        for one in found:
            for name in NUMBERS:
                torch.testing.assert_close(
                    getattr(one, name), getattr(truth, name), rtol=0, atol=1e-5, equal_nan=True
                )
        # An answer takes more than one request where the service takes few tokens.
        assert _figure(text, 'requests_total{status="200"}') > 3
        narrow.service.app.admitted += 3
        full = requests.post(f"{narrow.url}/v1/score", data=body(), headers=_of(MEDIA))
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        narrow.service.app.admitted -= 3
        narrow.service.app.limits = replace(narrow.service.app.limits, body=10)
        narrow.service.app.reserved += 80
        large = requests.post(f"{narrow.url}/v1/score", data=b"x" * 9, headers=_of(MEDIA))
        assert large.status_code == 429


def test_senders_take_turns(rollout: Rollout) -> None:
    """Many requests of one keep none of another's waiting."""
    piece, place = part(rollout, torch.tensor([0]))
    asked = Questions(rollout.candidates[place])
    one = Request(piece, asked, None)
    batcher = Batcher([], Limits(tokens=one.tokens), Metrics())
    jobs = [Job(one, sender) for sender in "aaabbc"]
    for job in jobs:
        batcher.submit(job)
    order = [batcher._next() for _ in jobs]
    assert ["".join(job.sender for job in some) for some in order] == [*"abcaba"]
    wide = Batcher([], Limits(), Metrics())
    for job in (*jobs, Job(Request(piece, asked, 40), "c")):
        wide.submit(job)
    assert [len(wide._next()) for _ in range(2)] == [6, 1]
    jobs.append(Job(one, "a"))
    batcher.submit(jobs[-1])
    batcher.close()
    assert jobs[-1].scores.cancelled()
    assert batcher.submit(Job(one, "a")).cancelled()


def test_a_key_is_asked_for_and_never_shown(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "a-key-that-nobody-guesses"
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 lets other machines in, and KEY_OF"):
        open_service(Asked("embedded:teacher", host="0.0.0.0", key_variable=KEY)).__enter__()
    monkeypatch.setenv(KEY, "short")
    with pytest.raises(ConfigError, match="fewer than 16 characters"):
        open_service(Asked("embedded:teacher", key_variable=KEY)).__enter__()
    monkeypatch.setenv(KEY, key)
    with teaching("embedded:teacher", key_variable=KEY) as guarded:
        for path in ("/v1/teacher", "/v1/head", "/metrics", "/v1/score"):
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {key}"}):
                assert requests.get(guarded.url + path, headers=given).status_code == 401
        assert requests.get(f"{guarded.url}/health").ok
        assert "/v1/score" in requests.get(f"{guarded.url}/openapi.json").json()["paths"]
        served(guarded).score(rollout, Questions(rollout.candidates, full=True))
        monkeypatch.setenv(KEY, "another-key-than-that")
        with pytest.raises(ServerError, match="is missing or wrong"):
            served(guarded).probe()
    shown = "".join(capfd.readouterr())
    assert key not in shown


def test_another_teacher_than_expected_is_refused(
    service: Teaching, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Taught(
        path=str(TEACHER), server=Server(type="opdlab", url=service.url, patience_s=1.0)
    )
    shell = models.load_shell(str(TEACHER))
    record = teachers.contents(source, shell, "none")
    # A training may be continued with the same teacher in this process.
    truth = models.manifest(models.load_model(str(TEACHER)), str(TEACHER), None, "none")
    assert record == truth
    again = make_scorer(source, shell, ENTRIES)
    teachers.expect([again], [record])
    again.score(rollout, Questions(rollout.candidates))
    other = make_scorer(source, shell, ENTRIES)
    teachers.expect([other], [{**record, "weights_sha256": "0"}])
    with pytest.raises(ServerError, match=r"another teacher than expected \(weights_sha256 differ"):
        other.probe()
    wrong = make_scorer(source.model_copy(update={"path": str(STUDENT)}), shell, ENTRIES)
    assert isinstance(wrong, RemoteTeacher)
    wrong.expect({"tokenizer_sha256": "0"})
    with pytest.raises(ServerError, match="tokenizer_sha256 differ"):
        wrong.probe()
    # Started again at the same port with other weights.
    monkeypatch.setitem(service.service.desk.told, "identity", "another")
    with pytest.raises((ServerError, RefusedError), match="another teacher than before"):
        again.score(rollout, Questions(rollout.candidates))


def test_what_a_service_cannot_do_is_refused_when_the_file_is_read(
    service: Teaching, rollout: Rollout
) -> None:
    where = f"teacher.server={{type: opdlab, url: '{service.url}'}}"
    fine = ["evaluation.references=[student]", "training.steps=2"]
    config = load_experiment("quickstart", [where, *fine])
    assert config.teacher.server is not None
    for words, changes in (
        ("which scores and answers nothing", []),
        ("served_model is of a vLLM", ["teacher.server.served_model=a", *fine]),
        ("only scores", ["runs=[]", "method={type: sft, sampler: teacher}", *fine]),
    ):
        with pytest.raises(ConfigError, match=words):
            load_experiment("quickstart", [where, *changes])
    with pytest.raises(ModelError, match="only scores"):
        served(service).answering()
    with pytest.raises(ModelError, match="Set lookahead: 1"):
        served(service).score(rollout, Questions(rollout.candidates, lookahead=Lookahead(2)))


def test_python_scores_with_a_service_as_with_a_model(service: Teaching) -> None:
    here, there = opdlab.Teacher("embedded:teacher"), opdlab.Teacher(service.url)
    prompts, answers = [[1, 5, 9], [1, 7]], [[7, 8, 9], [4]]
    candidates = [[[3, 4], [5, -1], [7, 8]], [[9, 10]]]
    assert there.vocabulary == ENTRIES
    assert there.way == "service"
    for one, truth in zip(
        [*there.score(prompts, answers, top_k=3), *there.look_ahead(prompts, answers, candidates)],
        [*here.score(prompts, answers, top_k=3), *here.look_ahead(prompts, answers, candidates)],
        strict=True,
    ):
        for name, value in vars(truth).items():
            torch.testing.assert_close(getattr(one, name), value, rtol=0, atol=1e-6, equal_nan=True)
    with pytest.raises(DataError, match="behind a service has no tokenizer"):
        there.encode("1+2")
    with pytest.raises(DataError, match="url has no host"):
        opdlab.Teacher("http://:80")
    with pytest.raises(DataError, match="the teacher has 0 to 41"):
        there.score([[1]], [[42]])


def test_memory_does_not_grow_with_requests(service: Teaching, rollout: Rollout) -> None:
    whole = request_body(rollout, Questions(rollout.candidates, full=True), None)
    process, sizes = psutil.Process(), []
    for _ in range(3):
        for _ in range(20):
            assert requests.post(f"{service.url}/v1/score", data=whole, headers=_of(MEDIA)).ok
        sizes.append(process.memory_info().rss)
    assert sizes[2] - sizes[1] < 20 * len(whole) + (8 << 20)
    app = service.service.app
    # A client has its answer before the server has let the request go.
    deadline = time.monotonic() + 60
    while (app.admitted or app.reserved) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert app.admitted == app.reserved == 0


def test_the_reward_of_the_documentation_is_that_of_the_method(service: Teaching) -> None:
    """Called as TRL's GRPOTrainer calls it."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "teach.md").read_text()
    text = page.split("<!-- example: lgr_reward.py -->\n```python\n")[1].split("```")[0]
    assert len([line for line in text.splitlines() if line.strip()]) <= 30
    example: dict[str, Any] = {}
    exec(text, example)
    reward = example["LGRReward"](service.url, str(TEACHER))
    answers = [[9, 3], [14, 7, 20]]
    found = reward(
        prompts=["12+3=", "7*8="], completions=["", ""], completion_ids=answers, trainer_state=None
    )
    here = opdlab.Teacher("embedded:teacher")
    asked = [reward.tokenizer(prompt)["input_ids"] for prompt in ("12+3=", "7*8=")]
    likeliest = [one.top_ids for one in here.score(asked, answers, top_k=4)]
    truths = [
        group_rewards(one.confidence, one.fidelity, one.confidence > 0, 0.05).sampled.mean()
        for one in here.look_ahead(asked, answers, likeliest)
    ]
    torch.testing.assert_close(torch.tensor(found), torch.stack(truths), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("hosts", "are_so"),
    [
        (("127.0.0.1", "127.9.9.9", "::1", "localhost"), True),
        (("0.0.0.0", "10.0.0.1", "127.0.0.1.evil.example", ""), False),
    ],
)
def test_names_of_this_machine_are_known(hosts: tuple[str, ...], are_so: bool) -> None:
    assert [is_loopback(host) for host in hosts] == [are_so] * 4
