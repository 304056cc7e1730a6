"""A teacher behind a server says what it says in this process, and never a wrong number.

The server is a stand-in that speaks vLLM's interface and computes with a real model; `tests/served` asks a
real vLLM.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
from misbehaving_server import MisbehavingServer
from taught_pair import ENTRIES, STUDENT, TEACHER, here, rollout, student
from transformers import PreTrainedModel

from opdlab.configuration.loader import load_experiment
from opdlab.configuration.model_settings import Taught
from opdlab.configuration.server_settings import Server
from opdlab.doctor.models import answers_fit
from opdlab.doctor.probe import Cast
from opdlab.errors import ConfigError, ModelError, NonFiniteError, RefusedError, ServerError
from opdlab.identity.roles import PACES
from opdlab.methods.divergences import SMALLEST_TAIL
from opdlab.methods.forward_kl import ForwardKL
from opdlab.methods.jsd import JSD
from opdlab.methods.lgr import LGR
from opdlab.methods.opd import OPD
from opdlab.modelling import models
from opdlab.modelling.head import chunked_loss
from opdlab.modelling.vocabulary_loss import TokenLosses
from opdlab.planning.served_teacher import asked_of_servers
from opdlab.prompts import open_prompts
from opdlab.records import Lookahead, Questions, Rollout, Supervision
from opdlab.scoring.length_groups import states_before_tokens
from opdlab.scoring.scorer import Scorer
from opdlab.scoring.teacher import Teacher
from opdlab.scoring.tree import leaves, part
from opdlab.serving.access import Access
from opdlab.serving.crew import Crew
from opdlab.serving.served_teacher import ServedTeacher
from opdlab.serving.teacher_requests import Bodies
from opdlab.serving.told_tokens import listed, spread_out
from opdlab.training import teachers
from opdlab.training.group import differences
from opdlab.training.pair import load_pair, load_source, require_prompts
from opdlab.training.run import require_all
from opdlab.training.teachers import make_scorer

__all__ = ["here", "rollout", "student"]

TEXT = [(11 + 5 * place) % ENTRIES for place in range(32)]
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-4, "equal_nan": True}


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer(TEACHER) as server:
        yield server
        server.released.set()


def served(server: MisbehavingServer, shared: int = ENTRIES, **changes: Any) -> ServedTeacher:
    values: dict[str, Any] = {"concurrency": 4, "patience_s": 1.0, "timeout_s": 5.0, **changes}
    access = Access(server.url, "NO_SUCH_KEY", **values)
    return ServedTeacher(access, None, shared, ENTRIES, TEXT)


def ask(rollout: Rollout, top_k: int = 0, every: int = 2) -> Questions:
    """About the candidates at every few positions, and where an answer ended."""
    wanted = (torch.arange(len(rollout.token)) % every == 0) | rollout.is_eos
    return Questions(rollout.candidates.masked_fill(~wanted[:, None], -1), top_k=top_k)


NUMBERS = ("log_prob", "fidelity", "sampled_confidence", "confidence")


def test_scores_of_a_server_are_those_of_the_process(
    server: MisbehavingServer, here: Teacher, rollout: Rollout
) -> None:
    teacher = served(server)
    assert isinstance(teacher, Scorer)
    found, truth = (one.score(rollout, ask(rollout)) for one in (teacher, here))
    for name in NUMBERS:
        torch.testing.assert_close(getattr(found, name), getattr(truth, name), **CLOSE)
    assert found.leaves == truth.leaves > 10
    assert found.entropy.isnan().all()
    assert found.distributions is None
    assert rollout.is_eos.any()
    assert len({*rollout.response_lengths.tolist()}) > 1


def test_what_is_asked_is_said_by_token_ids_with_nothing_left_to_the_server(
    server: MisbehavingServer, rollout: Rollout
) -> None:
    teacher = served(server, concurrency=3)
    teacher.score(rollout, ask(rollout))
    whole = [one for one in server.bodies if "prompt_logprobs" in one]
    after = [one for one in server.bodies if "prompt_logprobs" not in one]
    sizes = (rollout.prompt_lengths + rollout.response_lengths).tolist()
    rows = [row[:size] for row, size in zip(rollout.tokens.tolist(), sizes, strict=True)]
    # The text that the server is known by comes before and after them.
    assert sorted(one["prompt"] for one in whole[1:-1]) == sorted(rows)
    assert whole[0] == whole[-1]
    assert all(
        any(row[: len(one["prompt"]) - 1] == one["prompt"][:-1] for row in rows) for one in after
    )
    for body in server.bodies:
        assert body["max_tokens"] == 1
        assert (body["temperature"], body["top_p"], body["top_k"]) == (1.0, 1.0, -1)
        assert body["repetition_penalty"] == 1.0
        assert body["model"] == "the-model"
    assert server.busiest <= 3


def test_a_score_depends_on_no_company(server: MisbehavingServer, rollout: Rollout) -> None:
    teacher, asked = served(server), ask(rollout, top_k=3)
    whole = teacher.score(rollout, asked)
    for rows in ([4], [0, 3, 5]):
        piece, place = part(rollout, torch.tensor(rows))
        some = Questions(asked.candidates[place], top_k=3)
        found = teacher.score(piece, some)
        for name in (*NUMBERS, "top_ids", "top_log_prob"):
            truth = getattr(whole, name)[place]
            torch.testing.assert_close(
                getattr(found, name), truth, rtol=0, atol=1e-6, equal_nan=True
            )


def losses(student: PreTrainedModel, method: Any, teacher: Scorer, rollout: Rollout) -> TokenLosses:
    scores = teacher.score(rollout, method.questions(rollout))
    said = scores.distributions
    told = None if said is None or not method.listed else teacher.listed(said)
    return chunked_loss(
        student,
        states_before_tokens(student, rollout),
        told or (None if said is None else teacher.logits(said)),
        method.supervise(rollout, scores),
        method.token_loss if told is None else method.listed_loss,
        ENTRIES,
    )


@pytest.mark.parametrize(
    "method",
    [
        OPD(),
        OPD(support="top_k", top_k=5, top_k_of="teacher"),
        ForwardKL("top_k", 5),
        JSD("top_k", 5, beta=0.3),
        LGR(top_k=4, entropy_threshold=0.0),
        LGR(top_k=4, base=OPD(support="top_k", top_k=5, top_k_of="teacher")),
    ],
    ids=["opd", "opd_top_k", "forward_kl_top_k", "jsd_top_k", "lgr", "lgr_top_k"],
)
def test_losses_and_gradients_are_those_of_a_teacher_in_the_process(
    server: MisbehavingServer,
    student: PreTrainedModel,
    here: Teacher,
    rollout: Rollout,
    method: Any,
) -> None:
    def gradient(teacher: Scorer) -> tuple[torch.Tensor, torch.Tensor]:
        found = losses(student, method, teacher, rollout).loss
        weights = [one for one in student.parameters() if one.requires_grad]
        each = torch.autograd.grad(found.mean(), weights)
        return found.detach(), torch.cat([one.flatten() for one in each])

    for found, truth in zip(gradient(served(server)), gradient(here), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


def test_a_divergence_with_the_tail_as_one_is_never_above_the_whole(
    student: PreTrainedModel, here: Teacher, rollout: Rollout
) -> None:
    """The bias that the documentation names: a lower bound, and closer with more tokens."""
    for part_of, whole in (
        (lambda k: OPD(support="top_k", top_k=k, top_k_of="teacher"), OPD(support="full")),
        (lambda k: ForwardKL("top_k", k), ForwardKL()),
        (lambda k: JSD("top_k", k), JSD()),
    ):
        exact = losses(student, whole, here, rollout).loss
        few, many = (losses(student, part_of(k), here, rollout).loss for k in (2, 8))
        assert (few <= exact + SMALLEST_TAIL).all()
        assert (many <= exact + SMALLEST_TAIL).all()
        assert few.sum() < many.sum() < exact.sum()


def test_what_is_not_told_is_spread_evenly_and_never_likelier_than_what_is() -> None:
    ids = torch.tensor([[3, 0], [1, -1]])
    known = torch.tensor([[0.5, 0.3], [0.999999, 0.0]]).log()
    whole = spread_out(ids, known, 6).exp()
    torch.testing.assert_close(whole[0], torch.tensor([0.3, 0.05, 0.05, 0.5, 0.05, 0.05]))
    torch.testing.assert_close(whole.sum(-1), torch.ones(2))
    sure = spread_out(torch.tensor([[3, 0]]), torch.tensor([[-1e-9, -25.0]]), 6)
    assert sure[0].topk(2).indices.tolist()[0] == 3
    assert (sure[0, [1, 2, 4, 5]] <= -25.0 + 1e-4).all()


@pytest.mark.parametrize(
    "method",
    [
        ForwardKL("top_k", 3),
        JSD("top_k", 3),
        OPD(support="top_k", top_k=3, top_k_of="teacher"),
    ],
)
def test_the_loss_by_told_tokens_is_that_over_the_vocabulary(method: Any) -> None:
    """Also where fewer were told, where the rest is capped, and where one is ruled out."""
    ids = torch.tensor([[3, 0, 5], [1, -1, -1], [2, 4, -1], [0, 1, 2], [0, 1, 2]])
    sure = [
        [0.5, 0.3, 0.1],
        [0.999999, 0.0, 0.0],
        [0.6, 1e-9, 0.0],
        [0.9, 0.09, 0.009],
        [0.9, 0.1, 0.0],
    ]
    known, none = torch.tensor(sure).log(), torch.zeros(5)
    said = Supervision(none.long(), none, none, none[:, None].long(), none[:, None])
    for entries in (6, 40):
        whole, leaf = spread_out(ids, known, entries), torch.randn(5, entries, requires_grad=True)
        whole[2, 4] += 1e-3  # of the second likeliest, which are all alike, the one that was told
        there = method.token_loss(leaf.log_softmax(-1), whole.log_softmax(-1), said)
        told = listed(ids, known, entries)
        assert told is not None
        mine, theirs, _ = told.compared(leaf, slice(None))
        loss = method.listed_loss(mine, theirs, said)
        # Spread out, some that were not told count as the second and third: a finer division.
        torch.testing.assert_close(loss[[0, 3]], there[[0, 3]], rtol=1e-4, atol=1e-5)
        assert (loss[1:3] <= there[1:3] + 1e-4).all()
        assert not torch.cat([loss, there]).isnan().any()
        gradients = (torch.autograd.grad(each[[0, 3]].sum(), leaf)[0] for each in (loss, there))
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert listed(torch.full((1, 3), -1), torch.full((1, 3), -torch.inf), 6) is None


def test_entries_that_the_student_lacks_count_to_the_tail(
    server: MisbehavingServer, here: Teacher, rollout: Rollout
) -> None:
    highest = int(rollout.tokens.max()) + 1
    teacher = served(server, shared=highest)
    scores = teacher.score(rollout, Questions(rollout.candidates[:, :0], top_k=4))
    assert scores.top_ids is not None
    assert int(scores.top_ids.max()) < highest
    whole = here.score(rollout, Questions(rollout.candidates[:, :0]))
    torch.testing.assert_close(scores.log_prob, whole.log_prob, **CLOSE)


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ({"full": True}, "whole distribution"),
        ({"measure": "entropy"}, "confidence: max_prob"),
        ({"lookahead": Lookahead(2)}, "Set lookahead: 1"),
    ],
)
def test_what_a_server_cannot_tell_is_not_made_up(
    server: MisbehavingServer, rollout: Rollout, questions: dict[str, Any], words: str
) -> None:
    asked = Questions(rollout.candidates, **questions)
    with pytest.raises(ModelError, match=words):
        served(server).score(rollout, asked)
    with pytest.raises(ModelError, match="writes in this process"):
        served(server).answering()


Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]


def _row(value: Any) -> Change:
    """The last row of prompt_logprobs is another."""

    def change(body: dict[str, Any], choice: dict[str, Any], usage: dict[str, Any]) -> None:
        if choice.get("prompt_logprobs"):
            choice["prompt_logprobs"][-1] = value(choice["prompt_logprobs"][-1], body["prompt"][-1])

    return change


def _of_token(value: Any) -> Change:
    return _row(lambda row, token: {**row, str(token): {"logprob": value}})


def _key(name: str, value: Any) -> Change:
    return lambda body, choice, usage: choice.update({name: value})


def _without(name: str) -> Change:
    return lambda body, choice, usage: choice.pop(name, None)


def _shifted(body: dict[str, Any], choice: dict[str, Any], usage: dict[str, Any]) -> None:
    choice["prompt_token_ids"] = [*choice["prompt_token_ids"][:-1], 7]
    choice["prompt_token_ids"][0] = 41


WRONG: dict[str, tuple[Change, str]] = {
    "no prompt_logprobs": (_without("prompt_logprobs"), "no prompt_logprobs for"),
    "too few": (_key("prompt_logprobs", [None]), "1 prompt_logprobs for"),
    "no logprobs": (_without("logprobs"), "no logprobs of the likeliest"),
    "by text": (_key("logprobs", {"top_logprobs": [{"abc": -0.1}]}), "'abc', not by its id"),
    "another prompt": (_shifted, "another tokenizer"),
    "another length": (_key("prompt_token_ids", [1, 2]), "another tokenizer"),
    "not the token": (_row(lambda row, token: {"41": {"logprob": -1.0}} if token != 41 else {}),
        "lack token|log-probabilities of a place"),
    "a row of nothing": (_row(lambda row, token: None), "log-probabilities of a place are None"),
    "NaN": (_of_token(float("nan")), "a log-probability of nan"),
    "beyond any float": (_of_token(-(10**400)), "a log-probability of -1000"),
    "by a long number": (_key("logprobs", {"top_logprobs": [{"9" * 5000: -0.1}]}), "not by its id"),
    "a word": (_of_token("-1"), "a log-probability of '-1'"),
    "above 1": (_of_token(0.5), "a log-probability of 0.5"),
    "too much": (_row(lambda row, token: {str(token): {"logprob": 0.0}, "41": {"logprob": -0.1}}),
        "exceed 1 together|likeliest tokens of"),
}  # fmt: skip


@pytest.mark.parametrize("mode", list(WRONG))
def test_an_answer_that_is_no_score_is_refused_with_the_reason(
    server: MisbehavingServer, rollout: Rollout, mode: str
) -> None:
    change, words = WRONG[mode]
    teacher = served(server).probe()
    server.alter_scores = change
    with pytest.raises(ServerError, match=words):
        teacher.score(rollout, Questions(rollout.candidates[:, :0], top_k=2))


def test_a_token_that_the_teacher_rules_out_is_said_so(
    server: MisbehavingServer, rollout: Rollout
) -> None:
    """JSON has no infinity: vLLM writes -9999."""
    teacher = served(server).probe()
    never = _of_token(-9999.0)
    server.alter_scores = lambda *said: said[0]["prompt"] != TEXT and never(*said)
    with pytest.raises(NonFiniteError, match="log_prob is -inf"):
        teacher.score(rollout, Questions(rollout.candidates[:, :0]))


@pytest.mark.parametrize("trouble", ["busy", "failing", "cut", "aborted"])
def test_what_passes_is_waited_for(
    server: MisbehavingServer, rollout: Rollout, trouble: str
) -> None:
    teacher = served(server, patience_s=20.0).probe()
    truth = teacher.score(rollout, ask(rollout))
    if trouble == "busy":
        server.failures, server.status = 3, 429
    elif trouble == "failing":
        server.failures, server.status = 3, 500
    elif trouble == "cut":
        server.cuts = 2
    else:
        others, text = [2], [1]

        def abort(body: dict[str, Any], choice: dict[str, Any], usage: dict[str, Any]) -> None:
            left = text if body["prompt"] == TEXT else others
            left[0] -= 1
            if left[0] >= 0:
                choice["finish_reason"] = "abort"

        server.alter_scores = abort
    found = teacher.score(rollout, ask(rollout))
    for name in NUMBERS:
        torch.testing.assert_close(getattr(found, name), getattr(truth, name), equal_nan=True)


def test_a_server_that_is_started_again_goes_on_and_one_with_another_model_does_not(
    server: MisbehavingServer, rollout: Rollout
) -> None:
    teacher = served(server)
    truth = teacher.score(rollout, ask(rollout))
    server.forget()
    found = teacher.score(rollout, ask(rollout))
    torch.testing.assert_close(found.log_prob, truth.log_prob)
    server.model = models.load_model(str(STUDENT))
    with pytest.raises(ServerError, match=r"serves another model .* nats off"):
        teacher.score(rollout, ask(rollout))


def test_a_teacher_is_known_again_by_what_the_record_of_its_training_says(
    server: MisbehavingServer,
) -> None:
    source = Taught(path=str(TEACHER), server=Server(url=server.url, patience_s=1.0))
    shell = models.load_shell(str(TEACHER))
    record = teachers.contents(source, shell, "none")
    assert record["server_model"] == "the-model"
    again = make_scorer(source, shell, 40)
    teachers.expect([again], [record])
    again.probe()
    server.model = models.load_model(str(STUDENT))
    other = make_scorer(source, shell, ENTRIES)
    teachers.expect([other], [record])
    with pytest.raises(ServerError, match="serves another model than when the training began"):
        other.probe()


def test_a_token_of_the_fixed_text_that_a_teacher_rules_out_is_no_other_model(
    server: MisbehavingServer, rollout: Rollout
) -> None:
    never = _of_token(-9999.0)
    server.alter_scores = lambda *said: said[0]["prompt"] == TEXT and never(*said)
    teacher = served(server).probe()
    assert teacher.first is not None
    assert teacher.first.isinf().any()
    teacher.score(rollout, Questions(rollout.candidates[:, :0]))
    server.alter_scores = lambda *said: None
    with pytest.raises(ServerError, match="serves another model"):
        teacher.score(rollout, Questions(rollout.candidates[:, :0]))


def test_where_a_teacher_is_served_and_how_fast_decides_nothing_that_is_learned() -> None:
    keys = {
        f"{who}.server.{key}" for who in ("teacher", "specialists") for key in Server.model_fields
    }
    assert keys <= {*PACES}
    before = {"specialists": [{"path": "a", "server": {"url": "http://a"}}], "seed": 1}
    now = {"specialists": [{"path": "b", "server": {"url": "http://b"}}], "seed": 1}
    assert differences(before, now) == {"specialists.path", "specialists.server.url"}
    assert differences(before, {**now, "specialists": []}) == {"specialists"}


def test_no_more_answers_wait_than_are_under_way() -> None:
    asked: list[int] = []
    crew = Crew(lambda place, _: asked.append(place), 100, 3)
    while len(asked) < 6:
        sleep(0.01)
    assert crew.done.qsize() <= 3
    assert len(asked) <= 6
    taken = [crew.done.get(timeout=30) for _ in range(100)]
    assert sorted(place for place, _ in taken) == list(range(100))
    crew.stop.set()


def test_a_server_that_is_away_or_no_vllm_is_no_teacher(rollout: Rollout) -> None:
    with MisbehavingServer(TEACHER, "sglang") as other:
        with pytest.raises(ServerError, match="'sglang': a teacher must be a vLLM"):
            served(other).probe()
        gone = served(other, patience_s=0.1)
        named = ServedTeacher(gone.access, "no-such", ENTRIES, ENTRIES, TEXT)
        with pytest.raises(ServerError, match=r"no model 'no-such'.*beside the server's url"):
            named.probe()
    with pytest.raises(ServerError, match="no answer after waiting"):
        gone.score(rollout, ask(rollout))


def test_one_refused_row_is_named_and_ends_no_other(
    server: MisbehavingServer, rollout: Rollout
) -> None:
    teacher = served(server).probe()
    row = rollout.tokens[3, : rollout.prompt_lengths[3] + rollout.response_lengths[3]].tolist()
    server.refuses_for_ever = lambda body: body["prompt"] == row
    with pytest.raises(RefusedError, match=r"row 3: .*context length") as told:
        teacher.score(rollout, ask(rollout))
    assert list(told.value.rows) == [3]
    prompt = int(rollout.prompt_lengths[3])
    server.refuses_for_ever = lambda body: (
        "prompt_logprobs" not in body and body["prompt"][:prompt] == row[:prompt]
    )
    with pytest.raises(RefusedError, match="a candidate of row 3") as told:
        teacher.score(rollout, ask(rollout))
    found = re.match(r"(\d+) of (\d+) requests.*and (\d+) others likewise", str(told.value))
    assert found is not None
    refused, asked, others = map(int, found.groups())
    of_rows = Counter(leaves(rollout, ask(rollout).candidates).row.tolist())
    assert (refused, asked, others) == (of_rows[3], of_rows.total(), of_rows[3] - 1)


SERVED = "teacher.server={url: 'http://localhost:9/v1'}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("method={type: opd, support: full}", r"method.support: teacher is behind .*Use the sampled"),
        ("method={type: opd, support: top_k, top_k: 4}", r"method.support: .*top_k_of: teacher"),
        ("method={type: jsd}", r"method.support: "),
        ("method={type: kl_estimator}", ""),
        ("method={type: opd, support: top_k, top_k: 4, top_k_of: teacher}", ""),
        ("method={type: forward_kl, support: top_k, top_k: 4}", ""),
        ("method={type: sft}", r"method.type: .*answers that the teacher writes"),
        ("method={type: lgr}", ""),
        ("method={type: lgr, confidence: entropy}", r"method.confidence: .*Set confidence: max_prob"),
        ("method={type: lgr, confidence: sampled_prob}", r"method.confidence: "),
        ("method={type: lgr, lookahead: 2}", r"method.lookahead: .*Set lookahead: 1"),
        ("method={type: lgr, base: {type: jsd}}", r"method.base.support: "),
        ("teacher.offload=true", r"teacher.offload: the teacher is behind a server"),
        ("teacher.server.url=nowhere", r"url begins with http"),
        ("teacher.server.sample=3", r"unknown key"),
    ],
)  # fmt: skip
def test_what_a_method_needs_is_held_against_a_served_teacher_when_the_file_is_read(
    override: str, words: str
) -> None:
    chosen = ["runs=[]", "method={type: opd}", SERVED, override]
    if not words:
        assert load_experiment("quickstart", chosen).taught_here == []
        return
    with pytest.raises(ConfigError, match=words):
        load_experiment("quickstart", chosen)


def test_the_line_of_the_fault_is_told(tmp_path: Path) -> None:
    text = """name: mine
student: {path: "embedded:student"}
teacher:
  path: "embedded:teacher"
  server: {url: "http://localhost:9/v1"}
prompts: {type: problems, sources: [{type: routes}]}
rollout: {type: cached, max_new_tokens: 8}
method:
  type: opd
  support: full
training: {steps: 1}
"""
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"mine.yaml:10: method.support: teacher is behind a server"
    ):
        load_experiment(tmp_path / "mine.yaml")


def test_no_weights_of_a_served_teacher_are_loaded() -> None:
    shell, whole = models.load_shell(str(TEACHER)), models.load_model(str(TEACHER))
    assert all(one.is_meta for one in shell.parameters())
    assert models.eos_ids(shell, models.load_tokenizer(str(TEACHER))) == models.eos_ids(
        whole, models.load_tokenizer(str(TEACHER))
    )
    assert models.positions(shell) == models.positions(whole)
    source = Taught(path=str(TEACHER), server=Server(url="http://localhost:9/v1"))
    teacher = make_scorer(source, shell, 40)
    assert isinstance(teacher, ServedTeacher)
    assert (teacher.shared, teacher.entries, teacher.spare) == (40, ENTRIES, 4)
    assert math.isfinite(teacher.access.patience_s)


def test_requests_are_made_when_they_are_sent() -> None:
    """A step's candidates hold its answers many times over: all at once they would fill the memory."""
    made: list[int] = []

    def make(place: int) -> dict[str, Any]:
        made.append(place)
        return {"place": place}

    bodies = Bodies(10**6, make)
    assert len(bodies) == 10**6
    assert not made
    assert bodies[7] == {"place": 7}
    assert made == [7]


def test_a_teacher_is_given_or_named() -> None:
    config = load_experiment("quickstart", ["runs=[]", "method={type: opd}", SERVED])
    teacher = models.load_model(str(TEACHER)), models.load_tokenizer(str(TEACHER))
    with pytest.raises(ConfigError, match=r"teacher.server names a teacher, and a model in memory"):
        load_pair(config, teacher=teacher)
    pair = load_pair(config)
    assert all(one.is_meta for one in pair.teacher.parameters())
    assert pair.vocabulary == ENTRIES


def test_a_plan_tells_requests_and_tokens_of_a_step_and_no_memory_of_the_teacher() -> None:
    changes = ["runs=[]", "training.prompts_per_step=8", "rollout.max_new_tokens=50"]
    lgr = "method={type: lgr, top_k: 4}"
    run = load_experiment("quickstart", [*changes, lgr, SERVED])
    found = asked_of_servers(run, 8, prompt=30)
    assert list(found.values()) == [
        "9",
        "640",
        "320",
        "17,600",
    ]  # 8 x 0.2 x 50 x 4, each of 30 + 25
    plain = load_experiment("quickstart", [*changes, "method={type: opd}", SERVED])
    assert list(asked_of_servers(plain, 8, prompt=30).values()) == ["9", "640"]
    assert not asked_of_servers(load_experiment("quickstart", [*changes, lgr]), 8, 30)


def test_a_row_that_the_server_does_not_take_is_refused_before_anything_is_trained(
    server: MisbehavingServer,
) -> None:
    """vLLM says how long a text it takes, and samples one token after it."""
    config = load_experiment(
        "quickstart",
        [
            "runs=[]",
            "method={type: opd}",
            f"teacher.server={{url: '{server.url}', patience_s: 1.0}}",
            "rollout.max_new_tokens=30",
            "training.steps=1",
            "evaluation.benchmarks=[]",
        ],
    )
    require_prompts(config, load_pair(config))
    require_all(config)
    server.card = {"max_model_len": 31}
    with pytest.raises(
        ConfigError, match=r"leaves a prompt no room: the server of the teacher \(http"
    ):
        require_all(config)
    server.card = {"max_model_len": 36}
    require_all(config)
    with pytest.raises(
        ModelError, match=r"the server of the teacher \(http.*takes 35 \(max_model_len"
    ):
        require_prompts(config, load_pair(config))
    for card in ({"max_model_len": "many"}, {"max_model_len": None}):
        server.card = card
        require_prompts(config, load_pair(config))
    cast = Cast(*load_source(config.student), {"teacher": load_source(config.teacher)})
    prompts = open_prompts(config.prompts, cast.tokenizer, config.seed, [])
    server.card = {"max_model_len": 36}
    line = answers_fit([config], prompts, cast)
    assert "server of the teacher" in line.found
    assert server.url in line.found
