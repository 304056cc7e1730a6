"""Answers that a run has drawn, scored from its stored evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stores
import torch

from opdlab.configuration.config import Experiment
from opdlab.errors import ConfigError, DataError, UnfitError
from opdlab.evaluation.comparison import last_sets
from opdlab.evaluation.measuring import evaluate_alone
from opdlab.evaluation.store import SampleSet
from opdlab.evaluation.weighing import weighed
from opdlab.modelling import models
from opdlab.offline import run
from opdlab.offline.recorded import RecordedAnswers, weighed_choices
from opdlab.offline.request import asked_of
from opdlab.records import Generation, Problem, Prompt, Sample
from opdlab.scores.reader import Scores

LGR = {"type": "lgr", "ratio_cap": 2.0, "top_k": 4, "entropy_threshold": 0.5}


def experiment(output: Path, method: Any = "forward_kl", **rest: Any) -> Experiment:
    told = {
        "name": "mine",
        "student": {"path": "embedded:student"},
        "teacher": {"path": "embedded:teacher"},
        "prompts": {"type": "problems", "sources": [{"type": "math", "level": "short"}]},
        "rollout": {"type": "cached", "max_new_tokens": 64},
        "method": {"type": method} if isinstance(method, str) else method,
        "training": {"steps": 2, "prompts_per_step": 4, "accelerator": "cpu", "threads": 1},
        "evaluation": {
            "benchmarks": [{"type": "math", "level": "short", "limit": 6}],
            "samples": 2,
            "references": ["student"],
        },
        "output": str(output),
    }
    return Experiment.model_validate(told | rest)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations of student and teacher."""
    found = tmp_path_factory.mktemp("recorded")
    for name in ("student", "teacher"):
        evaluate_alone(experiment(found), f"embedded:{name}")
    return found


def run_of(output: Path, name: str) -> Path:
    (found,) = output.glob(f"evaluations/*{name}*")
    return found


def score(output: Path, name: str, out: str, method: Any = "forward_kl", **asked: Any) -> Scores:
    config = experiment(output, method)
    return stores.score(config, output / out, answers=str(run_of(output, name)), **asked).scores


def test_every_answer_of_a_run_is_scored_as_it_was_drawn(output: Path) -> None:
    scores = score(output, "student", "all", kind="hidden:float32")
    (drawn,) = last_sets(run_of(output, "student"))
    samples = drawn.samples()
    assert len(scores) == len(samples) == 12
    tokenizer = scores.tokenizer()
    for answer, sample in zip(scores, samples, strict=True):
        assert answer.problem == sample.problem
        assert len(answer.response) == sample.tokens
        assert (answer.response[-1] in scores.manifest.eos_ids) == (sample.stop == "eos")
        text = str(tokenizer.decode(answer.response, skip_special_tokens=True))
        assert text == sample.completion
    told = scores.manifest.answers
    assert (told["from"], told["by_teacher"], scores.manifest.imitable) == ("run", False, False)
    assert "temperature" not in told
    own = {"teacher": {"scores": str(scores.folder)}, "prompts": {"type": "scored"}}
    gradient, _ = stores.first_step(experiment(output, **own))
    live = {"prompts": {"type": "scored", "path": str(scores.folder)}}
    truth, _ = stores.first_step(experiment(output, **live))
    torch.testing.assert_close(gradient, truth, atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="the method imitates answers, and those of"):
        experiment(output, "sft", **own)


def test_right_answers_are_those_that_the_run_graded_so(output: Path) -> None:
    scores = score(output, "student", "right", kind="sampled", keep="correct")
    (drawn,) = last_sets(run_of(output, "student"))
    right = [place for place, one in enumerate(drawn.samples()) if one.status == "correct"]
    assert 0 < len(right) < 12
    assert [one.place for one in scores] == right
    assert scores.manifest.answers["graders"] == [f"math/short {drawn.asked.grader}"]
    assert scores.manifest.imitable


def test_the_teachers_own_answers_are_known_by_its_weights(output: Path) -> None:
    scores = score(output, "teacher", "teachers", kind="sampled")
    assert scores.manifest.answers["by_teacher"] is True
    assert scores.manifest.imitable


def test_candidates_of_the_student_are_kept_with_the_answers_of_a_run(output: Path) -> None:
    scores = score(output, "teacher", "looked-ahead", LGR, kind="sampled")
    assert scores[0].numbers["confidence"].numel()
    assert not scores.manifest.own_samples


def test_what_is_no_run_is_refused_and_another_template_as_well(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match="--answers techer: it is not one of given, teacher, student"
    ):
        asked_of("techer", output)
    assert asked_of(f"evaluations/{run_of(output, 'student').name}", output).run is not None
    with pytest.raises(ConfigError, match="--samples: all answers of the run are scored"):
        asked_of(str(run_of(output, "student")), output, samples=2)
    tokenizer = models.load_tokenizer("embedded:student")
    make = lambda correct: RecordedAnswers(  # noqa: E731
        run_of(output, "student"), tokenizer, "auto", 0, correct
    )
    assert make(True).retokenised == 0
    sets = last_sets(run_of(output, "student"))
    samples = sets[0].samples()
    monkeypatch.setattr(
        type(sets[0]),
        "samples",
        lambda _: [replace(samples[0], status="grader_error"), *samples[1:]],
    )
    with pytest.raises(DataError, match=r"1 of its answers could not be graded.*opdlab regrade"):
        make(True)
    make(False)
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(DataError, match="prompts in another chat template"):
        make(False)


def test_answers_that_cannot_be_scored_are_left_out_with_a_count_and_names(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before the first token, too long, with an end in the midst as another tokenizer may read it, or
    after a prompt that the student has no room for."""
    kind, folder = SampleSet, run_of(output, "student")
    before = kind.samples
    odd = [
        {"completion": "", "stop": "length"},
        {"completion": "1" * 99},
        {"completion": "1<eos>1"},
        {"prompt": "1+" * 300},
    ]

    def samples(one: SampleSet) -> list[Sample]:
        drawn = before(one)
        return [*map(changed, drawn[:4], odd), *drawn[4:]]

    monkeypatch.setattr(kind, "samples", samples)
    with pytest.warns(
        UserWarning, match=r"4 of its 12 answers cannot be scored .* has no tokens; "
    ):
        found = stores.score(
            experiment(output), tmp_path / "odd", kind="sampled", answers=str(folder)
        )
    assert (found.answers, found.left_out) == (8, 0)
    served = r"takes 40 \(max_model_len of vLLM less a token, or opdlab teach: --tokens\)$"
    for of_all, why, room in (
        (odd[0], "has no tokens$", {}),
        (odd[3], "and the student has 512 positions", {}),
        (odd[3], served, {"server of the teacher": 40}),
    ):
        monkeypatch.setattr(run, "contexts", lambda _, room=room: room)
        every = [of_all] * 12
        monkeypatch.setattr(kind, "samples", lambda one: list(map(changed, before(one), every)))  # noqa: B023
        with pytest.raises(DataError, match=f"no answers that can be scored: .* {why}"):
            stores.score(experiment(output), tmp_path / "none", kind="sampled", answers=str(folder))


def test_why_an_answer_is_left_out_is_told_whole(output: Path) -> None:
    """A token of a vocabulary may hold what divides the reason from the remedy."""
    tokenizer = models.load_tokenizer("embedded:student")
    found = RecordedAnswers(run_of(output, "student"), tokenizer, "auto", 0, False)

    def read(prompt: Prompt) -> None:
        if prompt.problem.extra["given"] == found.samples[0].completion:
            raise UnfitError("it holds '; ' (id 5; foreign)", "leave such rows out")

    why = found.leave_out(read)
    assert set(why) == {"it holds '; ' (id 5; foreign)"}
    assert found.count == 12 - len(why)


def changed(sample: Sample, values: dict[str, Any]) -> Sample:
    return replace(sample, **values)


def test_a_prefill_belongs_to_the_prompt(output: Path, tmp_path: Path) -> None:
    prompts = experiment(output).prompts.model_dump() | {"prefill": "a"}
    evaluate_alone(experiment(tmp_path, prompts=prompts), "embedded:student")
    scores = score(tmp_path, "student", "begun", kind="sampled")
    (drawn,) = last_sets(run_of(tmp_path, "student"))
    tokenizer = scores.tokenizer()
    for answer, sample in zip(scores, drawn.samples(), strict=True):
        assert len(answer.response) == sample.tokens
        text = str(tokenizer.decode(answer.response, skip_special_tokens=True))
        assert "a" + text == sample.completion


def test_choices_that_were_weighed_are_no_answers() -> None:
    found: list[Generation] = []
    problem = Problem("a", "which?", "1", "choices", extra={"weighed": ["one", "two\nlines", ""]})
    weighed(
        [(problem, 0)],
        [1],
        lambda _: "which?",
        lambda _: [[-1.5, -23.25, float("-inf")]],
        found.append,
    )
    assert weighed_choices(found[0])
    assert not weighed_choices(replace(found[0], completion="-1.5 is 3/2 less than 0", tokens=1))
    assert not weighed_choices(replace(found[0], completion="", tokens=1))
