"""A served model is known by what it says: other weights under the same name are another subject."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import asked
from token_server import TokenServer

from opdlab.errors import AwayError, RefusedError, ServerError
from opdlab.evaluation.held import Held
from opdlab.evaluation.known_answers import Prints
from opdlab.evaluation.served import REPEATED, Served, open_served
from opdlab.evaluation.store import ask
from opdlab.evaluation.subjects import Answer
from opdlab.identity import MEASUREMENTS
from opdlab.modelling import models
from opdlab.serving.client import Client
from opdlab.serving.engine import OpenAIEngine
from opdlab.serving.identify import identify
from opdlab.serving.received import RECEIVED, Received

STUDENT, TEACHER = models.EMBEDDED / "student", models.EMBEDDED / "teacher"


@pytest.fixture
def server() -> Iterator[TokenServer]:
    with TokenServer(STUDENT) as server:
        yield server


def opened(server: TokenServer, output: Path, tokenizer: str = "embedded:student") -> Served:
    return open_served(OpenAIEngine(url=server.url), tokenizer, "none", output)


def measured(who: Served, output: Path) -> None:
    """As an evaluation leaves its record."""
    folder = output / "evaluations" / who.label() / "samples"
    ask(folder, asked("math", 2, subject=who.identity(), software=who.software()))


def nudged(server: TokenServer) -> None:
    with torch.no_grad():
        for weight in server.model.parameters():
            weight.mul_(1.001)


def replaced(server: TokenServer) -> None:
    server.model = models.load_model(str(TEACHER))


@pytest.mark.parametrize("change", [nudged, replaced])
def test_other_weights_under_the_same_name_are_another_subject(
    server: TokenServer, tmp_path: Path, change: Callable[[TokenServer], None]
) -> None:
    before = opened(server, tmp_path)
    measured(before, tmp_path)
    change(server)
    now = opened(server, tmp_path)
    assert now.server == before.server
    assert now.identity().key != before.identity().key
    assert now.label() != before.label()


def test_two_models_behind_one_address_are_none_that_is_measured(
    server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked by turns, as a balancer of load does: to each prompt of a round the same one answers."""
    monkeypatch.setattr("opdlab.evaluation.known_answers.TOKENS", 2)
    both = itertools.cycle([server.model, models.load_model(str(TEACHER))])
    alone = server.complete

    def complete(body: dict[str, Any]) -> Any:
        server.model = next(both)
        return alone(body)

    server.complete = complete
    with pytest.raises(ServerError, match="answers a prompt in several ways"):
        open_served(
            OpenAIEngine(url=server.url, concurrency=1), "embedded:student", "none", tmp_path
        )


def test_a_server_on_another_port_with_the_same_weights_is_the_same_subject(
    server: TokenServer, tmp_path: Path
) -> None:
    before = opened(server, tmp_path)
    measured(before, tmp_path)
    with TokenServer(STUDENT) as another:
        now = opened(another, tmp_path)
    assert now.identity() == before.identity()
    assert now.software()["url"] != before.software()["url"]


def test_a_record_whose_fingerprint_is_damaged_is_no_reason_to_stop(
    server: TokenServer, tmp_path: Path
) -> None:
    before = opened(server, tmp_path)
    for damage in ("{", "[]", '{"texts": ["a"], "log_probs": []}', "null"):
        folder = tmp_path / "evaluations" / f"x{len(damage)}" / "samples"
        ask(folder, asked("math", 2, subject=before.identity(), software={"fingerprint": damage}))
    (folder / MEASUREMENTS).write_text(json.dumps({"model": "x"}) + "\n")
    assert opened(server, tmp_path).prints == before.prints


def test_a_served_model_that_was_trained_here_is_told(server: TokenServer, tmp_path: Path) -> None:
    shutil.copytree(STUDENT, tmp_path / "model")
    models.sign(tmp_path / "model", "an execution")
    assert opened(server, tmp_path, str(tmp_path / "model")).identity().trained_by == "an execution"


def said(*rows: tuple[str, float], rounding: float = 0.0) -> Prints:
    tokens, values = tuple(map(ord, (row[0] for row in rows))), tuple(row[1] for row in rows)
    return Prints(("".join(row[0] for row in rows),), (tokens,), (values,), rounding)


def test_what_a_server_differs_by_from_itself_is_no_other_model() -> None:
    one, near = (("a", -1.0), ("b", -0.5)), (("a", -1.01), ("b", -0.51))
    assert not said(*one).like(said(*near))
    assert said(*one, rounding=0.005).like(said(*near))
    far = (("a", -1.2), ("b", -0.9))
    assert not said(*one, rounding=1.0).like(said(*far)), "no rounding excuses this much"


def test_a_tie_that_rounding_decides_is_no_other_model_and_another_turn_is() -> None:
    one = said(("a", -1.0), ("b", -0.7), ("c", -0.1))
    assert one.like(said(("a", -1.0), ("x", -0.7), ("y", -3.0)))
    assert not one.like(said(("a", -1.0), ("x", -0.2), ("y", -0.1)))


def test_without_log_probabilities_the_answers_must_be_equal() -> None:
    assert Prints(("a", "b")).like(Prints(("a", "b")))
    assert not Prints(("a", "b")).like(Prints(("a", "c")))


@pytest.mark.parametrize("sampling", [{"temperature": 0.6}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_a_rollout_server_with_other_weights_is_refused_however_it_samples(
    server: TokenServer, sampling: dict[str, Any]
) -> None:
    student = models.load_model("embedded:student")
    engine = OpenAIEngine(url=server.url, max_new_tokens=8, **sampling)
    wanted: dict[str, Any] = {"eos_ids": (2,), "pad_id": 0}
    engine.sample(student, [[1, 5, 9], [1, 6]], [1, 2], **wanted)
    replaced(server)
    with pytest.raises(ServerError, match="does not serve the student"):
        engine.sample(student, [[1, 5, 9], [1, 6]], [1, 2], **wanted)


@pytest.mark.parametrize("path", ["/version", "/server_info"])
def test_one_failure_to_say_what_it_is_makes_no_other_server(path: str) -> None:
    with TokenServer(STUDENT, "vllm" if path == "/version" else "sglang") as server:
        client = Client(OpenAIEngine(url=server.url).access)
        before = identify(client, None)
        server.stumbles[path] = 1
        assert identify(client, None) == before
        assert before.version


def swapped_after(
    server: TokenServer, answers: int, change: Callable[[TokenServer], None] = nudged
) -> None:
    """The server gets other weights when it has answered so many more requests."""
    asked: list[Any] = []

    def look(body: dict[str, Any]) -> bool:
        asked.append(body)
        if len(asked) == answers + 1:
            change(server)
        return False

    server.refuses = look


@pytest.mark.parametrize("answers", [0, 3, 6])
def test_answers_of_a_server_that_got_other_weights_in_between_are_left_out(
    server: TokenServer, tmp_path: Path, answers: int
) -> None:
    who = opened(server, tmp_path)
    swapped_after(server, answers)
    came: list[int] = []
    with pytest.raises(ServerError, match="got other weights while it was measured"):
        ask_for(who, tmp_path, 6, came)
    assert came == []
    assert ask_for(opened(server, tmp_path), tmp_path, 3, came) == [0, 1, 2]


def test_what_a_server_said_before_it_was_last_seen_stays(
    server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opdlab.evaluation.held.EVERY_S", 0.0)
    monkeypatch.setattr("opdlab.evaluation.held.COSTS", 0.0)
    who = opened(server, tmp_path)
    swapped_after(server, 9)
    came: list[int] = []
    with pytest.raises(ServerError, match="got other weights"):
        ask_for(who, tmp_path, 12, came, at_once=1)
    assert 0 < len(came) < 12
    kept = Received(tmp_path / RECEIVED, [str(row) for row in range(12)]).known()
    assert sorted(kept) == sorted(came), "those of other weights are forgotten"


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_came_before_a_server_says_nothing_of_its_weights_is_kept(
    server: TokenServer, tmp_path: Path, status: int
) -> None:
    """Whoever goes on looks at them; but for what a model said that is not there any more."""
    who = opened(server, tmp_path)
    server.refuses, server.status = lambda body: body["max_tokens"] != 4, status
    came: list[int] = []
    with pytest.raises(ServerError, match=f"status {status}") as told:
        ask_for(who, tmp_path, 6, came)
    assert not isinstance(told.value, RefusedError), "no row of the benchmark was refused"
    assert ("the fixed prompt 'The capital" in str(told.value)) == (status == 400)
    server.refuses = lambda body: False
    again, first = opened(server, tmp_path), len(server.bodies)
    assert ask_for(again, tmp_path, 6, came) == list(range(6))
    # Of what is kept the last are asked for again, to see that they are the same model's.
    asked = sum(body["max_tokens"] == 4 for body in server.bodies[first:])
    assert asked == (6 if status == 404 else REPEATED)


def ask_for(
    who: Served,
    folder: Path,
    count: int,
    came: list[int],
    at_once: int = 4,
    on_tick: Callable[[], None] = lambda: None,
) -> list[int]:
    who.answer(
        OpenAIEngine(max_new_tokens=4),
        [((1, 5, row % 9), "") for row in range(count)],
        list(range(count)),
        at_once,
        99,
        lambda row, answer: came.append(row),
        on_tick,
        Received(folder / RECEIVED, [str(row) for row in range(count)]),
    )
    return sorted(came)


@pytest.mark.parametrize("answers", [0, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_no_answer_of_other_weights_is_handed_on(
    server: TokenServer, answers: int, temperature: float
) -> None:
    """An evaluation keeps each answer as it comes, so they are handed over when all were looked at."""
    swapped_after(server, answers, replaced)
    came: list[int] = []
    with pytest.raises(ServerError, match="does not serve the student"):
        OpenAIEngine(url=server.url, max_new_tokens=8, temperature=temperature).answer(
            models.load_model("embedded:student"),
            *([[1, 5, 9]] * 4, [1, 2, 3, 4]),
            eos_ids=(2,),
            pad_id=0,
            max_rows=1,
            max_tokens=99,
            on_response=lambda row, ids: came.append(row),
        )
    assert came == []


def test_whoever_stops_an_evaluation_finds_what_came(server: TokenServer, tmp_path: Path) -> None:
    """The server is not asked any more, busy as it may be: who goes on looks at what came."""
    who = opened(server, tmp_path)
    first = len(server.bodies)
    # The rest is never answered.
    server.refuses = lambda body: len(server.bodies) >= first + 3
    came: list[int] = []

    before = server.seen["/v1/completions"]

    def stop() -> None:
        # The fourth is asked when the third was answered.
        if server.seen["/v1/completions"] >= before + 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_for(who, tmp_path, 6, came, at_once=1, on_tick=stop)
    server.refuses = lambda body: False
    again = opened(server, tmp_path)
    asked = len(server.bodies)
    assert ask_for(again, tmp_path, 6, came) == list(range(6))
    seeds = [body["seed"] for body in server.bodies[asked:] if body["max_tokens"] == 4]
    assert sorted(seeds) == list(range(6)), (
        "those that came once more, to be compared, and the rest"
    )


@pytest.mark.parametrize("exchanged", [False, True])
def test_answers_of_another_model_that_came_and_went_do_not_count_after_a_kill(
    server: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    """No connection broke, nobody looked in between, and now the first model is back."""
    monkeypatch.setattr("opdlab.evaluation.served.REPEATED_TOKENS", 3)
    who = opened(server, tmp_path)
    if exchanged:
        swapped_after(server, 3, replaced)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Served, "prove", lambda _: killed())
        with pytest.raises(KeyboardInterrupt):
            ask_for(who, tmp_path, 6, [], at_once=1)
    assert len(Received(tmp_path / RECEIVED, [str(row) for row in range(6)]).known()) == 6
    server.refuses = lambda body: False
    server.forget()
    again, asked, came = opened(server, tmp_path), len(server.bodies), list[int]()
    assert ask_for(again, tmp_path, 6, came) == list(range(6))
    lengths = [body["max_tokens"] for body in server.bodies[asked:]]
    assert (lengths.count(3), lengths.count(4)) == (REPEATED, 6 * exchanged)


def killed() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("same", [False, True])
def test_a_model_that_is_gone_may_have_been_another_before(
    server: TokenServer, tmp_path: Path, same: bool
) -> None:
    """A request is told that it is not there: what came before is looked at."""
    who, server.status = opened(server, tmp_path), 404
    first, came = len(server.bodies), list[int]()

    def refuses(body: dict[str, Any]) -> bool:
        gone = body["max_tokens"] == 4 and len(server.bodies) >= first + 3
        if gone and not same:
            replaced(server)
        return gone

    server.refuses = refuses
    with pytest.raises(ServerError, match="status 404" if same else "got other weights"):
        ask_for(who, tmp_path, 6, came, at_once=1)
    assert came == ([0, 1, 2] if same else [])
    if not same:
        assert not Received(tmp_path / RECEIVED, [str(row) for row in range(6)]).known()


@pytest.mark.parametrize("own", [False, True])
def test_a_server_that_draws_by_a_seed_of_its_own_is_told(
    server: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, own: bool
) -> None:
    complete, count = server.complete, itertools.count()
    if own:
        server.complete = lambda body: complete(body | {"seed": next(count)})  # type: ignore[method-assign]
    opened(server, tmp_path)
    assert ("different answers to one prompt with one seed" in caplog.text) == own


def test_what_came_after_a_server_was_away_is_not_kept_before_it_is_known_to_be_the_same(
    tmp_path: Path,
) -> None:
    received = Received(tmp_path / RECEIVED, ["a", "b", "c", "d"])
    away = [0]

    def prove() -> None:
        raise AwayError("nobody there")

    held = Held(prove, lambda row, answer: None, received, lambda: away[0])
    answer = Answer("x", 1, "eos")
    held.add(0, answer)
    away[0] = 1
    held.add(1, answer)
    with pytest.raises(AwayError):
        held.hand_on()
    assert [*received.known()] == [0]
    held.prove = lambda: None
    held.add(2, answer)
    held.hand_on()
    held.add(3, answer)
    assert [*received.known()] == [0, 3]
