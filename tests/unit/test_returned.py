"""What a plugin returns is checked where it comes in: one line with plugin, function, found and wanted."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from spoilt import spoilt

from opdlab.errors import DataError, PluginError, Terminated
from opdlab.methods.needs import Needs
from opdlab.methods.opd import OPD
from opdlab.objectives.oracle import examine
from opdlab.plugins import returned
from opdlab.plugins.evaluator import Evaluator
from opdlab.plugins.verdicts import verdicts_on
from opdlab.records import Problem, Questions, Supervision, Verdict
from opdlab.sampling.rollout import CachedEngine


@dataclass(frozen=True)
class Broken(OPD):
    """OPD with one slip."""

    slip: str = ""

    def questions(self, rollout):
        asked = super().questions(rollout)
        return {
            "no questions": None,
            "measure": spoilt(asked, measure="surprise"),
            "flat candidates": spoilt(asked, candidates=rollout.token),
            "attribute": getattr(rollout, "sed", None),
            "exit": self.slip == "exit" and sys.exit(3),
            "beyond": spoilt(asked, candidates=rollout.token[:, None] + 1000),
            "below": spoilt(asked, candidates=rollout.token[:, None] - 1000),
            "no full": spoilt(asked, full=None),
        }.get(self.slip, asked)

    def supervise(self, rollout, scores):
        found = super().supervise(rollout, scores)
        if self.slip == "forgotten":
            return Supervision(rollout.token, rollout.log_prob)
        wrong = {
            "one advantage": {"advantage": found.advantage.mean()},
            "tall advantage": {"advantage": found.advantage[:, None]},
            "gradient": {"advantage": found.advantage.clone().requires_grad_()},
            "no candidates": {"candidates": None},
            "metric": {"metrics": {"all": found.advantage[:, None]}},
            "metric's name": {"metrics": {"all $": 1.0}},
            "meta": {"advantage": found.advantage.to("meta")},
            "sparse": {"advantage": found.advantage.to_sparse()},
            "nan": {"advantage": found.advantage * torch.nan},
            "others' tokens": {"token": found.token + 1},
        }
        return spoilt(found, **wrong.get(self.slip, {}))

    def token_loss(self, student, teacher, supervision):
        loss = super().token_loss(student, teacher, supervision)
        if self.slip == "in place":
            supervision.advantage.zero_()
        return {
            "half": loss.half(),
            "not finite": loss * torch.nan,
            "tall": loss[:, None],
            "scalar": loss.mean(),
            "logits": student,
            "detached": loss.detach(),
            "number": 0.5,
            "others": loss - loss.mean(),
            "teacher": loss + teacher.sum() if self.slip == "teacher" else loss,
        }.get(self.slip, loss)


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        ("no questions", r"Broken.questions returned None, wanted Questions"),
        ("exit", r"Broken.questions failed: SystemExit: 3 .test_returned.py, line \d+"),
        ("measure", r"Broken.questions: measure is 'surprise'; use one of max_prob"),
        (
            "flat candidates",
            r"Broken.questions: candidates: found .*, wanted .* shape \[\d+, any\]",
        ),
        (
            "forgotten",
            r"Broken.supervise failed: TypeError: .*argument.*'advantage' .test_returned.py",
        ),
        ("one advantage", r"Broken.supervise: advantage: found .* shape \[\] .*, wanted .*\[\d+\]"),
        ("tall advantage", r"Broken.supervise: advantage: found .* shape \[\d+, 1\]"),
        ("gradient", r"Broken.supervise: advantage carries a gradient; detach it"),
        ("no candidates", r"Broken.supervise: candidates: found None"),
        ("metric", r"Broken.supervise: metric 'all' is .*, wanted one number"),
        ("beyond", r"Broken.questions: candidates: 100\d is not a token; tokens are from 0 to 3"),
        ("below", r"Broken.questions: candidates: -99\d is not a token"),
        ("no full", r"Broken.questions: full is None, wanted bool"),
        ("meta", r"Broken.supervise: advantage: found .* without values \(device meta\), wanted"),
        ("sparse", r"Broken.supervise: advantage: found .* in the layout sparse_coo, wanted"),
        ("metric's name", r"Broken.supervise: 'all \$' is not a name of a metric"),
        ("nan", r"Broken.supervise: advantage is NaN at \d+ of \d+ tokens, token 0 first"),
        ("others' tokens", r"Broken.supervise: token holds others than the sampled ones"),
        ("half", r"Broken.token_loss: the loss is torch.float16, wanted torch.float64"),
        ("not finite", r"Broken.token_loss: (\d+) of \1 losses are not finite"),
        ("in place", r"Broken.token_loss changes supervision.advantage in place"),
        ("tall", r"Broken.token_loss: found .* shape \[(\d+), 1\] of float64, wanted .*\[\1\]"),
        ("scalar", r"Broken.token_loss: found .* shape \[\]"),
        ("logits", r"Broken.token_loss: found .* shape \[\d+, 4\]"),
        ("detached", r"Broken.token_loss: the loss carries no gradient to the student"),
        ("number", r"Broken.token_loss: found a float, wanted a tensor"),
        ("others", r"Broken.token_loss: the loss of a token depends on other tokens"),
        ("teacher", r"Broken.token_loss failed: .*'NoneType'.*needs = Needs"),
    ],
)
def test_a_slip_of_a_method_names_method_function_found_and_wanted(slip: str, words: str) -> None:
    with pytest.raises(PluginError, match=words) as caught:
        examine(Broken(slip=slip))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "0.5",
        [0.5],
        10**400,
        np.ones(3),
        torch.ones(3, 1),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
    ],
    ids=lambda value: returned.kind_of(value).replace(" ", "_"),
)
def test_what_is_no_number_is_no_metric(value) -> None:
    with pytest.raises(PluginError, match=r"M.supervise: metric 'mine' is a|None, wanted one"):
        returned._check_metrics("M.supervise", {"mine": value})


@pytest.mark.parametrize(
    "value",
    [1, True, 0.5, np.float32(1), np.array(2.0), torch.ones(()), torch.ones(3), torch.ones(0)],
)
def test_numbers_of_every_library_are_metrics(value) -> None:
    returned._check_metrics("M.supervise", {"mine": value, "own/part": value, "step_size": value})


@pytest.mark.parametrize(
    "name",
    [
        "step",
        "time",
        "seconds/update",
        "fidelity/t0000-0015",
        "math/short/mean_at_8",
        "pass_at_2_low",
    ],
)
def test_a_metric_with_the_name_of_an_own_one_is_refused(name: str) -> None:
    """It would be lost, or stand in the place of a score that trials are pruned by."""
    with pytest.raises(PluginError, match="opdlab measures itself"):
        returned._check_metrics("M.supervise", {name: 1.0})


def test_a_method_that_needs_the_whole_distribution_must_ask_for_it() -> None:
    @dataclass(frozen=True)
    class Forgetful(OPD):
        needs = Needs("full")

        def questions(self, rollout):
            return Questions(rollout.candidates[:, :0])

    with pytest.raises(PluginError, match=r"Forgetful.questions: full is False and top_k 0"):
        examine(Forgetful())


@dataclass(frozen=True)
class Odd(Evaluator):
    """Judges some answers, and fails on others."""

    benchmark = "odd"
    grader_version = "1"

    def problems(self):
        return [Problem("odd", "1", "1", "1")]

    def grade(self, problem, completion):
        if completion == "raise":
            raise KeyError("oops")
        if completion == "exit":
            sys.exit("bye")
        if completion == "signal":
            raise Terminated(143)
        if completion == "stop":
            raise DataError("the tests are not here")
        return {
            "none": None,
            "bool": True,
            "number": spoilt(Verdict("correct"), answer=5),
            "surrogate": Verdict("wrong", "\ud800", "a \udfff"),
        }.get(completion, Verdict("correct", completion))


def test_a_grader_that_fails_is_no_wrong_answer_and_the_others_keep_their_verdicts() -> None:
    (problem,) = Odd().problems()
    texts = ["good", "raise", "none", "bool", "number", "surrogate", "good", "exit"]
    told: list[int] = []
    found = verdicts_on(Odd(), [(problem, text) for text in texts], told.append)
    faults = ["grader_error"] * 4
    assert [v.status for v in found] == ["correct", *faults, "wrong", "correct", "grader_error"]
    assert found[1].reason.startswith("Odd.grade failed: KeyError: 'oops' (test_returned.py, line ")
    assert found[2].reason == "Odd.grade returned NoneType, wanted a Verdict"
    assert found[3].reason == "Odd.grade returned bool, wanted a Verdict"
    assert "int and str, wanted text" in found[4].reason
    assert (found[5].answer, found[5].reason) == ("\\ud800", "a \\udfff")
    assert found[7].reason.startswith("Odd.grade failed: SystemExit: bye (test_returned.py, line ")
    assert sum(told) == len(texts)


def test_what_a_grader_says_on_purpose_ends_the_grading() -> None:
    (problem,) = Odd().problems()
    with pytest.raises(DataError, match="the tests are not here"):
        verdicts_on(Odd(), [(problem, "good"), (problem, "stop")])
    with pytest.raises(Terminated):
        verdicts_on(Odd(), [(problem, "exit"), (problem, "signal")])


def test_too_few_verdicts_name_benchmark_and_problem() -> None:
    @dataclass(frozen=True)
    class Short(Odd):
        def grade_all(self, answers, on_graded=None):
            return [Verdict("correct")]

    (problem,) = Odd().problems()
    with pytest.raises(
        PluginError, match=r"Short.grade_all of odd returned 1 verdicts for 2 answers"
    ):
        verdicts_on(Short(), [(problem, "a"), (problem, "b")])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda r: None, "returned None, wanted Rollout"),
        (lambda r: spoilt(r, log_prob=r.log_prob[:-1]), r"log_prob: found .*, wanted .* \[\d+\]"),
        (lambda r: spoilt(r, ended=r.ended.float()), "ended: found"),
        (lambda r: spoilt(r, tokens=r.tokens.flip(1)), "row 0 does not begin with its prompt"),
        (lambda r: spoilt(r, tokens=r.tokens + 100), "outside the first 50 entries"),
        (lambda r: spoilt(r, response_lengths=r.response_lengths * 0), "must be 1 or more"),
        (lambda r: spoilt(r, log_prob=r.log_prob * torch.nan), "log_prob is nan at token 0"),
        (lambda r: spoilt(r, log_prob=-r.log_prob), "a log-probability is 0 or less"),
        (lambda r: spoilt(r, prompt_lengths=r.prompt_lengths + 1), "prompt_lengths are not"),
        (lambda r: spoilt(r, entropy=r.entropy * torch.nan), r"entropy is nan at token 0"),
        (lambda r: spoilt(r, entropy=-1 - r.entropy), r"entropy is -\d.* at token \d"),
        (lambda r: spoilt(r, entropy=r.entropy + torch.inf), r"entropy is inf at token 0"),
        (lambda r: spoilt(r, candidates=r.token[:, None] + 50), r"candidates: \d+ is not a token"),
    ],
)
def test_a_slip_of_a_rollout_engine_names_engine_found_and_wanted(wrong, words: str) -> None:
    from small_models import small_model

    prompts, seeds = [(5, 6, 7), (8, 9, 10)], [1, 2]
    asked = {"eos_ids": (2,), "pad_id": 0, "vocabulary": 50}
    model = small_model("llama")

    @dataclass(frozen=True, kw_only=True)
    class Mine(CachedEngine):
        def sample(self, *given, **named):
            return wrong(super().sample(*given, **named))

    right = returned.sample(CachedEngine(max_new_tokens=4), model, prompts, seeds, **asked)
    assert isinstance(right.tokens, torch.Tensor)
    with pytest.raises(PluginError, match=rf"Mine.sample.*{words}"):
        returned.sample(Mine(max_new_tokens=4), model, prompts, seeds, **asked)
