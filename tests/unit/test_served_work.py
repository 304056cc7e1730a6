"""Work behind a server outlives signals, odd words and absences; secrets stay where they belong."""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import signal
import traceback
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch
from misbehaving_server import MisbehavingServer
from small_models import small_model
from transformers import PreTrainedModel
from two_processes import in_two_processes
from unit.test_misbehaving_servers import (
    ENDS,
    PROMPTS,
    STUDENT,
    TEACHER,
    client,
    engine,
    evaluated,
    kept_in,
    moved,
    served_module,
)

from opdlab.configuration.config import Experiment
from opdlab.configuration.evaluation_settings import Evaluation
from opdlab.console import Stopped, StopRequest
from opdlab.errors import (
    AwayError,
    OtherDrawsError,
    RefusedError,
    ServerError,
    StorageError,
)
from opdlab.evaluation.comparison import RESULTS, last_sets
from opdlab.evaluation.held import Held
from opdlab.evaluation.known_answers import take
from opdlab.evaluation.measured import evaluate, headline
from opdlab.evaluation.served import Served
from opdlab.evaluation.store import sample_sets
from opdlab.evaluation.subjects import Answer, Subject
from opdlab.files import METRICS, read_metrics, replace_metrics
from opdlab.identity import EXECUTION, Owner
from opdlab.modelling import models
from opdlab.peers import failing_together
from opdlab.records import Verdict
from opdlab.sampling import rescoring
from opdlab.sampling.rollout import CachedEngine
from opdlab.serving import sampler, served_rollout, transport
from opdlab.serving.access import Access
from opdlab.serving.client import Client
from opdlab.serving.engine import OpenAIEngine, hand_over
from opdlab.serving.identify import Identity
from opdlab.serving.received import RECEIVED, UNPROVEN
from opdlab.serving.replies import Reply
from opdlab.serving.sampler import Draws, draws
from opdlab.serving.served_rollout import ServedRollout
from opdlab.serving.session import Session
from opdlab.serving.weights import _LINKS
from opdlab.sweeps.trial import _ended_by
from opdlab.tracking import Tracker, start_run
from opdlab.tracking.mlflow_store import open_experiment
from opdlab.training import run
from opdlab.training.group import REFERENCES, Group
from opdlab.training.objective import micro_batches, rows_in_parts
from opdlab.training.pace import Follow
from opdlab.training.pair import load_module, load_pair
from opdlab.training.watch import Watch
from opdlab.training.whole_step import Place

COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def student() -> PreTrainedModel:
    return models.load_model(str(STUDENT))


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer(STUDENT) as server:
        yield server
        server.released.set()


@pytest.fixture
def no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of servers that answer everything in a strange way."""
    monkeypatch.setattr(Served, "prove", lambda _: None)


def stop_after(server: MisbehavingServer, answers: int) -> None:
    """Have a signal come to this process with a later request, which is never answered."""
    first = server.seen[COMPLETIONS]

    def refuses(body: dict[str, Any]) -> bool:
        if body["max_tokens"] != 4 or server.seen[COMPLETIONS] < first + answers:
            return False
        os.kill(os.getpid(), signal.SIGINT)
        server.released.wait()
        return True

    server.refuses_for_ever = refuses


@pytest.mark.parametrize("tokens", [True, False])
def test_a_signal_keeps_what_a_served_evaluation_was_told(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: bool
) -> None:
    """Of servers of text a round is looked at as a whole."""
    session = Session(client(server), Identity(server.kind, "", "the-model", ""))
    tokenizer = models.load_tokenizer(str(STUDENT))
    prints = take(session, tokenizer, (2,))
    served = Served(
        tokenizer=tokenizer,
        engine=engine(server),
        template="none",
        session=session,
        prints=prints,
        seen=prints,
        vocabulary=42,
        **ENDS,
    )
    monkeypatch.setattr(Session, "takes_tokens", tokens)
    monkeypatch.setattr("opdlab.evaluation.served.prompt_text", lambda _, ids, shown: shown)
    stop_after(server, 3)
    four, asked = engine(server, max_new_tokens=4), [(ids, "") for ids in PROMPTS]
    received, stop = kept_in(tmp_path), StopRequest()
    with stop, pytest.raises(Stopped):
        served.answer(four, asked, list(range(6)), 1, 99, _never, stop.check, received)
    assert sorted(received.known()) == [0, 1, 2]


def _never(*_: Any) -> None:
    raise AssertionError("an answer that nobody has looked at is handed over")


def test_what_another_version_kept_is_asked_for_again(tmp_path: Path) -> None:
    received = kept_in(tmp_path)
    received.add(0, {"text": "x", "length": 1})
    received.add(1, {"text": "x", "tokens": 1, "stop": "eos"})
    assert received.known(lambda told: Answer(**told)) == {1: Answer("x", 1, "eos")}
    assert received.known(Reply.read) == {}


def test_no_process_hides_what_another_has_seen_of_the_server(tmp_path: Path) -> None:
    kept_in(tmp_path).mark("how", "why")
    kept_in(tmp_path).mark("how")
    assert (tmp_path / UNPROVEN).read_text() == "how\nwhy"


@pytest.mark.parametrize("write", [lambda to: to.add(0, {}), lambda to: to.mark("how")])
def test_a_disk_that_takes_no_answer_is_no_fault_of_the_engine(write: Any, tmp_path: Path) -> None:
    """A trial of a sweep outlives a full disk, and no plugin that fails."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        write(kept_in(tmp_path / "file"))


ENDINGS = ["a signal", "away", "a signal while answers are looked at", "other weights"]


@pytest.mark.parametrize("ends", ENDINGS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_an_evaluation_within_a_training_finds_what_came(
    server: MisbehavingServer,
    student: PreTrainedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
    temperature: float,
) -> None:
    four = engine(server, max_new_tokens=4, temperature=temperature, concurrency=1, patience_s=0.1)

    def ask(to: Any) -> None:
        answer_again(four, student, tmp_path, to)

    came: dict[int, Any] = {}
    ask(came.__setitem__)
    (tmp_path / RECEIVED).unlink()
    with monkeypatch.context() as patch:
        if ends == "other weights":
            server.model = models.load_model(str(TEACHER))
        if ends == "away":
            server.statuses = {COMPLETIONS: []}
            last = server.seen[COMPLETIONS] + 3
            server.alter = lambda *_: (
                server.seen[COMPLETIONS] == last
                and bool(server.statuses[COMPLETIONS].extend([503] * 99))
            )
        elif ends == "a signal while answers are looked at":
            patch.setattr(ServedRollout, "compared", lambda *_: raised(Stopped(signal.SIGINT)))
        else:
            stop_after(server, 3)
        with StopRequest(), pytest.raises((Stopped, AwayError)):
            ask(_never)
    kept = {row: list(told["ids"]) for row, told in kept_in(tmp_path).known().items()}
    assert sorted(kept) == list(range(6 if "looked" in ends else 3))
    server.statuses, server.alter = {}, lambda *_: False
    server.refuses_for_ever = lambda _: False
    if ends == "other weights":
        # Not the student itself: the server computes in a thread of its own.
        server.model = models.load_model(str(STUDENT))
    first, again = len(server.bodies), dict[int, Any]()
    ask(again.__setitem__)
    assert again == came
    # Answers of other weights are asked for again.
    told = 0 if ends == "other weights" else len(kept)
    asked = {
        tuple(body["prompt"])
        for body in server.bodies[first:]
        if body["temperature"] == temperature
    }
    assert len(asked) == 6 - told


def answer_again(by: Any, student: PreTrainedModel, folder: Path, to: Any) -> None:
    """Ask for six answers, which are kept in a folder as they come."""
    by.answer(
        student,
        PROMPTS,
        list(range(6)),
        **ENDS,
        vocabulary=42,
        max_rows=4,
        max_tokens=99,
        on_response=to,
        received=kept_in(folder),
    )


def raised(error: Exception) -> None:
    raise error


def test_answers_that_were_drawn_otherwise_than_asked_never_count(
    server: MisbehavingServer, student: PreTrainedModel, tmp_path: Path
) -> None:
    narrow = engine(server, top_p=0.3)

    def ask(to: Any) -> None:
        answer_again(narrow, student, tmp_path, to)

    server.own = {"top_p": 1.0}
    with pytest.raises(ServerError, match=r"does not sample at temperature 1 and top-p 0\.3"):
        ask(_never)
    assert not kept_in(tmp_path).known()
    # Kept by a process that was killed before it looked at them.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServedRollout, "require", lambda *_: raised(Stopped(signal.SIGKILL)))
        with StopRequest(), pytest.raises(Stopped):
            ask(_never)
    assert len(kept_in(tmp_path).known()) == 6
    server.own, came, right = {}, dict[int, Any](), dict[int, Any]()
    with pytest.raises(OtherDrawsError, match="An earlier process received these answers"):
        ask(_never)
    assert not kept_in(tmp_path).known()
    ask(came.__setitem__)
    (tmp_path / RECEIVED).unlink()
    ask(right.__setitem__)
    assert came == right
    # As the next evaluation within a training asks, of a server that was started again by then.
    server.own = {"top_p": 1.0}
    (tmp_path / RECEIVED).unlink()
    with pytest.raises(OtherDrawsError):
        ask(_never)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The server rounds as this process does, so that few tokens tell."""
    monkeypatch.setattr(rescoring, "EDGE", 0.0)
    monkeypatch.setattr(rescoring, "LOGIT", 0.0)
    return monkeypatch


def subject_of(student: PreTrainedModel, through: OpenAIEngine) -> Subject:
    return Subject(
        model=student,
        tokenizer=models.load_tokenizer(str(STUDENT)),
        engine=through,
        template="none",
        vocabulary=42,
        **ENDS,
    )


def test_answers_that_were_handed_over_before_enough_was_seen_are_withdrawn(
    server: MisbehavingServer,
    student: PreTrainedModel,
    tmp_path: Path,
    exact: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also those of another benchmark, and of an evaluation within a training; whatever was seen of the
    server before it was started again."""
    exact.setattr("opdlab.serving.engine.ROUNDS", 1)
    exact.setattr(sampler, "FEW", 5)
    enough = [1]
    exact.setattr(Draws, "suffices", property(lambda self: self.tokens >= enough[0]))
    subject = subject_of(student, engine(server, top_p=0.3, concurrency=4))
    both = [{"type": "math", "level": "short", "limit": 3}, {"type": "routes", "limit": 8}]
    settings = Evaluation.model_validate(
        {"benchmarks": both, "samples": 1, "top_p": 0.3, "temperature": 1}
    )

    def measure(settings: Evaluation, owner: Owner) -> dict[tuple[int | None, str, str, int], str]:
        evaluate(subject, settings, owner, tmp_path)
        return completions(tmp_path)

    evaluate(subject, settings.model_copy(update={"samples": 2}), Owner("x"), tmp_path / "before")
    assert not [*tmp_path.glob(f"before/*/{UNPROVEN}")]
    server.own, enough[:] = {"top_p": 1.0}, [90]
    short = settings.model_copy(update={"benchmarks": settings.benchmarks[:1]})
    wrong = measure(short, Owner("x", step=3))
    assert len(wrong) == 3
    with pytest.raises(OtherDrawsError, match=r"does not sample at temperature 1 and top-p 0\.3"):
        measure(settings, Owner("x"))
    assert not completions(tmp_path)
    sets = sample_sets(tmp_path)
    assert [len(one.refusals()) for one in sets] == [3, 3, 4]
    assert not sets[0].grades(sets[0].asked.grader)
    (earlier, *_) = sets[0].samples()
    assert (earlier.status, earlier.completion) == ("server_error", "")
    assert "3 samples of x@3 on math/short that it answered before are withdrawn" in caplog.text
    server.own = {}
    right = measure(settings, Owner("x"))
    assert [key[0] for key in right].count(None) == 11
    graded = [one for kept in sample_sets(tmp_path) for one in kept.samples()]
    assert not {one.status for one in graded} & {*Verdict.FAULTS}


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_server_answered_to_an_earlier_process_is_withdrawn_unless_it_showed_itself(
    server: MisbehavingServer,
    student: PreTrainedModel,
    tmp_path: Path,
    exact: pytest.MonkeyPatch,
    store: Path,
    killed: bool,
) -> None:
    """Of four runs two were answered otherwise, and one after enough was seen of the server.

    MLflow and the curve of a training lose what is withdrawn at once, or, where the process is killed as
    soon as it sees the fault, with the next process, even if the server was put right by then.
    """
    subject = subject_of(student, engine(server, concurrency=4))
    group, references = Group(tmp_path / "trial-1"), Group(tmp_path / REFERENCES)
    client, experiment = open_experiment(tmp_path, f"sqlite:///{store}", "withdrawn")
    for one in (group, references):
        one.folder.mkdir()

    def session(group: Group) -> run.Session:
        """Of a process of its own."""
        _LINKS.clear()
        return run.Session(group, client, experiment, "", StopRequest(), trial={"number": 1})

    def evaluation(**changes: Any) -> Evaluation:
        settings = {"benchmarks": [{"type": "routes", "limit": 3}], "samples": 1}
        return Evaluation.model_validate(settings | {"temperature": 1, "top_p": 0.3} | changes)

    def evaluated(name: str, group: Group = group, **changes: Any) -> None:
        one = session(group)
        one.schedule(name, {})
        with one.tracked(name) as tracker:
            if name == "unseen":
                halfway = evaluation(benchmarks=[{"type": "math", "level": "short", "limit": 2}])
                folder = tracker.folder / "samples"
                found = evaluate(subject, halfway, Owner(name, step=3), folder)
                tracker.log({"loss": 1.0} | headline(found), 3)
            found = evaluate(
                subject, evaluation(**changes), Owner(name), tracker.folder / "samples"
            )
            tracker.set(headline(found, every=True))

    evaluated("unseen")
    evaluated("unseen", references)
    others = () if killed else ("otherwise", "seen")
    if others:
        evaluated("otherwise", top_p=0.5)
        with exact.context() as patch:
            patch.setattr(Draws, "suffices", True)
            evaluated("seen", seed=1)
    (group.folder / RESULTS).touch()
    # Somebody's copy is no run of the group.
    shutil.copytree(group.folder / "unseen", group.folder / "backup")
    server.own = {"top_p": 1.0}
    exact.setattr(sampler, "FEW", 0)
    with exact.context() as patch:
        if killed:
            patch.setattr(served_rollout, "OtherDrawsError", lambda *_: Stopped(signal.SIGKILL))
            patch.setattr(run.Session, "withdraw", lambda *_: [])
        with pytest.raises(Stopped if killed else OtherDrawsError):
            evaluated("later", samples=4)
    if killed:
        server.own = {}
        assert group.finished("unseen")
        again = session(group)
        again.take_back(again.withdraw())
    for name, state in [("unseen", references), *((one, group) for one in ("unseen", *others))]:
        finished = name in others
        assert state.finished(name) == finished
        kept = client.get_run(state.run(name)["run_id"])
        assert kept.info.status == ("FINISHED" if finished else "FAILED")
        assert math.isfinite(kept.data.metrics["routes/mean_at_1"]) == finished
        (routes,) = last_sets(state.folder / name)
        sent = client.list_artifacts(kept.info.run_id, f"samples/{routes.path.name}")
        assert any("withdrawals" in one.path for one in sent) != finished
    halfway = client.get_run(group.run("unseen")["run_id"]).data.metrics
    assert math.isnan(halfway["math/short/mean_at_1"])
    (row,) = read_metrics(group.folder / "unseen")
    assert "math/short/mean_at_1" not in row
    assert (row["loss"], row["math/short/mean_at_1_best"]) == (1.0, 1.0)
    assert not (group.folder / RESULTS).exists()
    left = {one.parts[-4] for one in tmp_path.glob(f"*/*/samples/*/{UNPROVEN}")}
    assert left == {"backup", *others[:1]}


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (2, "--resume trains them again"),
        (4, "the checkpoint of step 4: remove .*last.ckpt to train"),
    ],
)
def test_steps_that_were_trained_on_answers_drawn_otherwise_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, saved: int, told: str
) -> None:
    pace = Follow(tmp_path / "run", StopRequest())
    pace.began, pace.step, pace.saved = 2, 5, saved
    for name in ("run", "earlier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / EXECUTION).touch()
    pace._tell_unproven()
    assert "what was trained here before (earlier) may hold such answers" in caplog.text
    (tmp_path / "earlier" / EXECUTION).unlink()
    assert re.search(rf"steps 3 to 5 were trained on answers .*{told}", caplog.text)
    caplog.clear()
    pace.step = pace.saved = pace.began
    pace._tell_unproven()
    assert "earlier process trained to step 2" in caplog.text, "refused as soon as it is resumed"
    caplog.clear()
    pace.step = pace.saved = pace.began = 0
    pace._tell_unproven()
    assert not caplog.text


def test_steps_that_are_trained_again_behind_a_server_have_new_records(
    server: MisbehavingServer, tmp_path: Path, store: Path
) -> None:
    """What was trained on answers that were refused later stood in the curves for ever."""
    module = served_module(server, tmp_path / "weights", prompts=1)
    client, experiment = open_experiment(tmp_path, f"sqlite:///{store}", "again")
    folder = tmp_path / "run"
    first = Tracker(client, start_run(client, experiment, "run", None, {}), folder)
    for step in (1, 2, 3):
        first.log({"loss": 1.0, "math/mean_at_1": 0.5}, step)
    first.close("FAILED")
    with (folder / METRICS).open("a") as file:
        file.write('{"cut\n5\n')
    replace_metrics(folder, 1, "math/", {"math/best": 1.0})
    tracker = Tracker(client, first.run_id, folder)
    watch = Watch(tracker, StopRequest(), module.config.training, Owner("run"))
    trainer: Any = SimpleNamespace(global_step=1, max_steps=3)
    watch.on_train_start(trainer, module)
    watch.teardown(trainer, module, "fit")
    watch.over.set()
    tracker.log({"loss": 2.0}, 2)
    tracker.close("FINISHED")
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(folder)]
    assert rows == [{"step": 1, "loss": 1.0, "math/best": 1.0}, {"step": 2, "loss": 2.0}]
    history = client.get_metric_history(first.run_id, "loss")
    assert [one.value for one in history if one.step == 2] == [1.0, 2.0]
    # Who deletes a damaged file has no curves, and goes on.
    (folder / METRICS).unlink()
    replace_metrics(folder, 1, "math/", {})


def completions(folder: Path) -> dict[tuple[int | None, str, str, int], str]:
    return {
        (one.asked.step, one.asked.benchmark, *key): row.completion
        for one in sample_sets(folder)
        for key, row in one.generations().items()
    }


def test_whoever_is_told_to_stop_by_one_answer_gets_the_others_first(
    student: PreTrainedModel, tmp_path: Path
) -> None:
    came: list[int] = []

    def took(row: int, _: Any) -> None:
        came.append(row)
        raise Stopped(signal.SIGINT)

    held: Held[str] = Held(lambda: None, took, kept_in(tmp_path))
    held.rows = [(0, "a"), (1, "b")]
    with pytest.raises(Stopped):
        held.hand_on()
    ids = next(student.parameters()).flatten()[:2].long()
    with pytest.raises(Stopped):
        hand_over([(0, ids), (1, ids)], [7, 8], took)
    assert came == [0, 1, 7, 8]


@pytest.mark.usefixtures("no_fingerprint")
def test_half_a_character_is_refused_and_takes_no_other_answer_along(
    server: MisbehavingServer, student: PreTrainedModel
) -> None:
    def alter(body: dict[str, Any], choice: Any, usage: Any) -> bool:
        del choice["token_ids"]
        choice["text"] = "\ud83d" if body["prompt"] == PROMPTS[2] else "7"
        return True

    server.alter = alter
    came = evaluated(server, student)
    assert "half of a character" in came.pop("refused").rows[2]
    assert sorted(came) == [0, 1, 3, 4, 5]


@pytest.mark.usefixtures("no_fingerprint")
def test_a_text_of_more_tokens_than_are_told_is_refused(
    server: MisbehavingServer, student: PreTrainedModel
) -> None:
    def alter(body: dict[str, Any], choice: Any, usage: Any) -> bool:
        del choice["token_ids"]
        long = body["prompt"] == PROMPTS[2]
        choice.update(text="12+7=" * 9 if long else "7\ufffd\ufffd", finish_reason="stop")
        usage["completion_tokens"] = 1
        return True

    server.alter = alter
    came = evaluated(server, student)
    assert "answered 1 tokens, and 45 characters are more" in came.pop("refused").rows[2]
    assert sorted(came) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("body", "media"),
    [(b"[" * 200_000, "application/json"), (b"<html>", "text/html; charset=\0none")],
)
def test_a_body_that_cannot_be_read_is_no_json(
    server: MisbehavingServer, body: bytes, media: str
) -> None:
    server.says_bytes, server.media = {COMPLETIONS: body}, media
    asked = client(server)
    with pytest.raises(ServerError, match="no JSON: "):
        asked.post(asked.access.api("/completions"), {"prompt": [1]})


def test_a_process_exchanges_its_own_students_at_one_server(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    a, b = (moved(models.load_model(str(STUDENT)), by) for by in (1e-3, 2e-3))
    through = engine(server, weights_folder=str(tmp_path))
    for one in (a, b, a):
        through.sample(one, PROMPTS, list(range(6)), **ENDS)
        assert "seconds/weights" in through.figures(one)


KEY = "sk-" + "".join(chr(ord("A") + n % 26) for n in range(90))


LOGIN = b64encode(f"me:{KEY}".encode()).decode()


@pytest.mark.parametrize(
    ("echo", "secret"),
    [(KEY, KEY), ("".join(f"\\u{ord(one):04x}" for one in KEY), KEY), (LOGIN, LOGIN)],
)
def test_no_part_of_a_key_is_shown(
    server: MisbehavingServer,
    student: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
    echo: str,
    secret: str,
) -> None:
    """However a server writes it, and wherever it is cut."""
    if secret == LOGIN:
        server.url = server.url.replace("//", f"//me:{KEY}@")
    else:
        monkeypatch.setenv("NO_SUCH_KEY", KEY)
    server.says_bytes = {COMPLETIONS: f'{{"echo": "{"x" * 230} {echo}"}}'.encode()}
    refused = evaluated(server, student)["refused"]
    assert "***" in str(refused)
    assert secret[:12] not in str(refused)


def test_a_key_goes_to_no_other_service_of_the_host(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_SUCH_KEY", KEY)
    asked = client(server)
    url, body = asked.access.api("/completions"), {"prompt": [1, 5], "max_tokens": 2}
    with MisbehavingServer(STUDENT) as other:
        server.redirect = 307, f"http://127.0.0.1:{other.http.server_port}"
        with pytest.raises(ServerError, match="leaves the server"):
            asked.post(url, body)
        assert not other.headers_seen
    for place in (f"http://elsewhere.invalid/?t={KEY}", f"http://[bad{KEY}", f"http://a:{KEY}"):
        server.redirect = 307, place
        with pytest.raises(ServerError, match=r"answers with a redirect") as told:
            asked.post(url, body)
        assert KEY not in str(told.value)


def test_a_proxy_that_cannot_be_used_is_told_as_one(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    server.statuses = {"/version": [407]}
    with pytest.raises(ServerError, match="a proxy wants a login") as told:
        client(server).ask("/version")
    assert "NO_SUCH_KEY" not in str(told.value)
    for proxy in ("http://me:pw@", "http://proxy.example:80a", "proxy.example:80a", "ftp://p:1"):
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy)
        with pytest.raises(ServerError, match=r"the proxy of the environment .*NO_PROXY=a\.server"):
            Client(Access("http://a.server/v1", "NO_SUCH_KEY", 1, 1.0, 5.0)).ask("/version")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "99999"}, 300),
        ({"Retry-After": "soon"}, 0),
        ({"Retry-After": "-5"}, 0),
        ({"Retry-After": "1" * 400}, 300),
        (
            {
                "Retry-After": "Wed, 21 Oct 2015 07:28:09 GMT",
                "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            9,
        ),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 300),
        ({}, 0),
    ],
)
def test_the_pause_that_a_server_asks_for_is_kept(said: dict[str, str], seconds: float) -> None:
    response = requests.Response()
    response.headers.update(said)
    assert transport._asked(response) == seconds


def test_no_secret_option_stands_in_a_traceback() -> None:
    access = Access("http://127.0.0.1:9/v1?api_key=sk-optionsecret99", "NO_SUCH_KEY", 1, 0.1, 5.0)
    with pytest.raises(ServerError) as told:
        Client(access).ask("/version")
    assert "optionsecret" not in "".join(traceback.format_exception(told.value))


def test_a_servers_absence_is_no_fault_of_a_trial(tmp_path: Path) -> None:
    with pytest.raises(AwayError):
        _ended_by(AwayError("http://a: no answer"), "seed-0", tmp_path, [])
    for error in (RefusedError({0: "too long"}, 2), ServerError("http://a: does not serve it")):
        assert _ended_by(error, "seed-0", tmp_path, []).state == "failed"


def test_a_server_that_says_nothing_is_not_looked_at_for_long() -> None:
    seen: list[OpenAIEngine] = []

    class Looked(OpenAIEngine):
        def _rollout(self, *_: Any, **__: Any) -> Any:
            seen.append(self)
            raise AwayError("http://a: no answer")

    with pytest.raises(AwayError, match=r"no answer\. It was tried for 10 s only.*\(600 s\)"):
        Looked().look(None, [1], eos_ids=(2,), pad_id=0)  # type: ignore[arg-type]
    assert (seen[0].patience_s, seen[0].timeout_s) == (10.0, 10.0)


@pytest.mark.parametrize("name", ["a\0b", "\ud83d", "x" * 300, "../..", "a b"])
def test_whatever_a_server_calls_its_model_names_a_folder(name: str, tmp_path: Path) -> None:
    with MisbehavingServer(STUDENT) as server:
        session = Session(client(server), Identity(server.kind, "", name, ""))
        tokenizer = models.load_tokenizer(str(STUDENT))
        served = Served(
            tokenizer=tokenizer,
            engine=engine(server),
            template="none",
            session=session,
            prints=take(session, tokenizer, (2,)),
            seen=take(session, tokenizer, (2,)),
            **ENDS,
        )
        (tmp_path / served.label()).mkdir()


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ({"temperature": 1.0}, {"temperature": 0.0}),
        ({"temperature": 1.0}, {"temperature": 3.0}),
        ({"temperature": 0.6, "top_p": 0.9}, {"temperature": 2.0, "top_p": 1.0}),
        ({"temperature": 0.0}, {"temperature": 2.0}),
    ],
)
def test_tokens_that_are_drawn_otherwise_than_asked_are_told(
    asked: dict[str, Any], drawn: dict[str, Any]
) -> None:
    model = small_model("qwen3")
    prompts, seeds = [[1, 5, 9, row % 30] for row in range(192)], list(range(192))
    for how, fault in ((asked, False), (drawn, True)):
        found = CachedEngine(max_new_tokens=16, **how).sample(model, prompts, seeds, **ENDS)
        responses = list(found.token.split(found.response_lengths.tolist()))
        settings = asked.get("temperature", 1.0), asked.get("top_p", 1.0)
        seen = draws(model, prompts, seeds, responses, None, *settings, set())
        assert bool((seen + seen).fault) == fault, seen


def test_a_server_that_rounds_otherwise_is_never_refused_for_its_sampling() -> None:
    """By half precision, for as long as a training takes; and answers that end soon are no other draws."""
    model = small_model("qwen3")
    low = copy.deepcopy(model).bfloat16().float()
    settings: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_p": 0.95},
        {"temperature": 0.0},
    ]
    for how in settings:
        whole, known = Draws(0, 0, 0, 0), set[tuple[int, int]]()
        for step in range(2):
            prompts = [[1, 5, 9, row % 30] for row in range(128)]
            seeds = [1000 * step + row for row in range(128)]
            found = CachedEngine(max_new_tokens=16, **how).sample(low, prompts, seeds, **ENDS)
            responses = list(found.token.split(found.response_lengths.tolist()))
            asked = how["temperature"], how.get("top_p", 1.0)
            whole += draws(model, prompts, seeds, responses, None, *asked, known)
        many = Draws(whole.tokens * 1000, whole.above * 1000, whole.variance * 1000, 0, whole.cold)
        assert not whole.fault
        assert not many.fault, "what is off by rounding is off for ever"


def test_the_edge_of_a_nucleus_is_where_rounding_puts_it() -> None:
    """Of a small one many tokens are near it: a server in bfloat16 draws some from just beyond."""
    model, served = models.load_model(str(TEACHER)), models.load_model(str(TEACHER))
    for weight in served.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    prompts, seeds = [[1, 5, 9, 12 + row % 24] for row in range(300)], list(range(300))
    found = CachedEngine(max_new_tokens=16, top_p=0.5).sample(served, prompts, seeds, **ENDS)
    responses = list(found.token.split(found.response_lengths.tolist()))
    seen = draws(model, prompts, seeds, responses, None, 1.0, 0.5, set())
    assert not seen.fault
    assert draws(model, prompts, seeds, responses, None, 1.0, 0.3, set()).fault


def test_distributions_are_looked_at_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as a vocabulary may be, so much memory is needed."""
    model, prompts = small_model("qwen3"), [[1, 5, 9]] * 3
    rows = [torch.tensor([7, 8, 9, 3])] * 3
    whole = rescoring.surprises(model, prompts, rows, None, 0.7, 0.9)
    most, softmax = list[int](), torch.Tensor.softmax

    def watched(self: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        most.append(len(self))
        return softmax(self, *given, **named)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    monkeypatch.setattr(rescoring, "ENTRIES", 5 * model.config.vocab_size)
    assert torch.allclose(rescoring.surprises(model, prompts, rows, None, 0.7, 0.9), whole)
    assert most == [5, 5, 2]


def test_of_a_rollout_as_many_tokens_are_looked_at_whatever_their_rows() -> None:
    model, looked = small_model("qwen3"), set[tuple[int, int]]()
    rows = [torch.full((length,), 7) for length in (sampler.TOKENS - 10, 30, 5, 5)]
    prompts, seeds = [[1, 2]] * 4, [0, 1, 2, 3]
    assert draws(model, prompts, seeds, rows, None, 1.0, 1.0, looked).tokens == sampler.TOKENS
    assert len(looked) == 2, "the second is cut, and the others are not looked at"
    rest = draws(model, prompts, seeds, rows, None, 1.0, 1.0, looked)
    assert (rest.tokens, len(looked)) == (10, 4)
    assert draws(model, prompts, seeds, rows, None, 1.0, 1.0, looked).tokens == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_device_that_is_refused_all_of_its_prompts_leaves_them_out(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    """One prompt for each of two devices: the step goes on with the other's, as it would on one."""
    module = served_module(server, tmp_path / "weights", prompts=2, length=4)
    prompts = [module.prompts.prompt(row) for row in range(2)]
    ids = [list(prompt.tokens) for prompt in prompts]

    def step(place: Place) -> Any:
        module.collector.drawn = 0
        module.student.zero_grad()
        with failing_together():
            collected = module.collector.collect(place)
        ((_, batch),) = micro_batches(
            collected, rows_in_parts(collected.rollout, 9999), place.device, 1
        )
        module.objective.loss(batch)[0].backward()
        names = [one["problem"] for one in module.collector.refused]
        gradient = [weight.grad for weight in module.student.parameters()]
        return collected.idle, collected.whole, float(collected.weights.sum()), names, gradient

    def both() -> Any:
        cpu = torch.device("cpu")
        return in_two_processes(tmp_path, lambda rank: step(Place(rank, 2, cpu)))

    server.refuses_for_ever = lambda body: body["prompt"] in ids
    assert all("got no answer that can be used" in said for said in both())
    for idle in range(2):
        server.refuses_for_ever = lambda body, idle=idle: body["prompt"] == ids[idle]
        if len(ids[idle]) > len(ids[1 - idle]):
            server.refuses_for_ever = lambda _: False
            server.card = {"max_model_len": len(ids[1 - idle]) + 4}
        whole, found = step(Place(0, 1, torch.device("cpu"))), both()
        server.card = {}
        assert not whole[0]
        for rank, one in enumerate(found):
            assert one[:2] == (rank == idle, whole[1])
            assert one[2] == pytest.approx(float(rank != idle))
            assert one[3] == whole[3] == [prompts[idle].problem.named]
        for alone, *parts in zip(whole[4], *(one[4] for one in found), strict=True):
            torch.testing.assert_close(parts[0] + parts[1], alone)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_device_with_given_answers_alone_meets_the_others_at_their_server(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    """Of two prompts one is answered by the data: the other's device asks for the whole step."""
    data = tmp_path / "a.jsonl"
    data.write_text("".join(f'{{"q": "{n} + 1", "a": "{n + 1}"}}\n' for n in range(1, 5)))
    config = Experiment.model_validate(
        {
            "name": "mine",
            "student": {"path": str(STUDENT)},
            "teacher": {"path": str(STUDENT)},
            "prompts": {"type": "dataset", "path": str(data), "column": "q"}
            | {"completion_column": "a", "given": 0.5},
            "rollout": {"type": "openai", "url": server.url, "max_new_tokens": 4}
            | {"patience_s": 1, "weights_folder": str(tmp_path / "weights")},
            "method": {"type": "opd", "support": "full"},
            "training": {"steps": 1, "prompts_per_step": 2, "accelerator": "cpu", "threads": 1},
        }
    )
    module = load_module(load_pair(config), config)

    def step(rank: int) -> Any:
        with failing_together():
            found = module.collector.collect(Place(rank, 2, torch.device("cpu")))
        return len(found.rollout.response_lengths), found.idle, module.collector.refused

    assert in_two_processes(tmp_path, step) == [(1, False, [])] * 2
