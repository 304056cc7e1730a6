"""The doctor: a healthy experiment passes, and every planted fault is found and has a remedy."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from small_models import small_model
from spoilt import spoilt
from typer.testing import CliRunner

from opdlab.cli import app
from opdlab.configuration import loader
from opdlab.configuration.config import Experiment
from opdlab.doctor import (
    draws as doctor_draws,
    machine as doctor_machine,
    models as doctor_models,
    reference as doctor_reference,
    training as doctor_training,
)
from opdlab.doctor.checks import diagnose, look_at, of_a_cast, of_a_teacher, of_all
from opdlab.doctor.independence import independent, unforeseen
from opdlab.doctor.lines import Line
from opdlab.doctor.objective import objectives
from opdlab.doctor.probe import Cast, Probe, make_probe, share_of_teachers
from opdlab.doctor.rounding import MARGIN, tolerance
from opdlab.errors import ConfigError
from opdlab.modelling import InParts, TeacherLogits, models
from opdlab.prompts.drawn import open_prompts
from opdlab.records import Distributions, Problem, Questions, Rollout, TeacherScores, Verdict
from opdlab.sampling import decoder
from opdlab.sampling.rollout import CachedEngine
from opdlab.scoring.teacher import Teacher
from opdlab_evaluators.embedded.routes import Routes
from opdlab_evaluators.programs.pool import shared_pool
from opdlab_evaluators.sandbox import command
from opdlab_evaluators.sandbox.refusal import Host


def experiment(*overrides: str) -> Experiment:
    return loader.load_experiment("quickstart", overrides)


def one_run(*overrides: str) -> Experiment:
    """The quickstart without its runs."""
    return experiment("runs=[]", *overrides)


def load(name: str) -> tuple[Any, Any]:
    return models.load_model(f"embedded:{name}"), models.load_tokenizer(f"embedded:{name}")


def cast() -> Cast:
    return Cast(*load("student"), {"teacher": load("teacher")})


@cache
def healthy_probe() -> Probe:
    config = one_run()
    return make_probe(config, [config], cast())


@pytest.fixture
def probe() -> Probe:
    """One of one's own, to be spoilt."""
    return copy.deepcopy(healthy_probe())


@pytest.fixture(autouse=True)
def enough(monkeypatch: pytest.MonkeyPatch) -> float:
    """Fewer draws than doctor looks at, which show gross faults; returns how many it does."""
    wanted = doctor_draws.ENOUGH
    monkeypatch.setattr(doctor_draws, "ENOUGH", wanted / 5)
    return wanted


def assert_fails(line: Line, found: str = "") -> None:
    assert line.status == "FAIL", line
    assert line.remedy
    assert found in line.found


def test_a_healthy_experiment_passes_every_line(
    monkeypatch: pytest.MonkeyPatch, enough: float
) -> None:
    monkeypatch.setattr(doctor_draws, "ENOUGH", enough)
    lines = list(diagnose(experiment()))
    assert [line for line in lines if line.status != "pass"] == []
    assert len(lines) == 26


def test_the_exit_status_tells_health() -> None:
    healthy = CliRunner().invoke(app, ["doctor", "quickstart", "runs=[]"])
    assert healthy.exit_code == 0, healthy.output
    assert "22 passed, 0 failed" in healthy.output
    ill = CliRunner().invoke(app, ["doctor", "quickstart", "runs=[]", "rollout.top_p=0.9"])
    assert ill.exit_code == 1
    assert "FAIL  sampling is not truncated" in ill.output
    assert "remedy: set rollout.temperature: 1.0" in ill.output


@pytest.mark.parametrize("planted", ["rollout.top_p=0.95", "rollout.temperature=0.7"])
def test_samples_of_another_distribution_are_found(planted: str) -> None:
    assert doctor_models.sampling(one_run()).status == "pass"
    assert_fails(doctor_models.sampling(one_run(planted)))
    assert_fails(doctor_models.sampling(one_run(), one_run(planted)))


def test_two_copies_of_a_package_are_found(tmp_path: Path) -> None:
    for copy_of in ("one", "two"):
        (tmp_path / copy_of / "opdlab").mkdir(parents=True)
        (tmp_path / copy_of / "opdlab" / "__init__.py").touch()
    assert doctor_machine.one_origin().status == "pass"
    line = doctor_machine.one_origin([str(tmp_path / "one"), str(tmp_path / "two")])
    assert_fails(line, "opdlab in ")


def test_a_shadowed_standard_library_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(platform, "__file__", str(tmp_path / "platform" / "__init__.py"))
    assert_fails(doctor_machine.one_origin(), "not the standard library")


def test_libraries_of_wrong_versions_are_found() -> None:
    wanted = ["torch>=2.11", "numpy<1", "no-such-thing>=1", 'no-such-extra; extra == "dev"']
    line = doctor_machine.versions(wanted)
    assert_fails(line, "no-such-thing is missing")
    assert "numpy" in line.found
    assert "torch" not in line.found
    assert "no-such-extra" not in line.found
    assert doctor_machine.versions().status == "pass"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_found() -> None:
    assert_fails(doctor_machine.device(one_run("training.accelerator=gpu")), "no GPU")


def test_a_full_disk_is_found(probe: Probe) -> None:
    needed = doctor_machine.to_write([probe.config] * 2, probe.student)
    assert_fails(doctor_machine.disk(probe.config, needed, free=10_000))
    assert doctor_machine.disk(probe.config, needed).status == "pass"


def test_copies_that_stay_are_counted_among_what_fits_on_the_disk(probe: Probe) -> None:
    weights = sum(4 * p.numel() for p in probe.student.parameters())
    kept = one_run("training.keep_every=1", "training.steps=100")
    assert doctor_machine.to_write([kept], probe.student) == (5 + 99) * weights


def with_a_run_that_sets(key: str) -> Experiment:
    runs = f"runs=[{{name: a, set: {{}}}}, {{name: b, set: {{{key}}}}}]"
    return experiment(runs, "evaluation.benchmarks=[]")


OF_ONE_RUN = {
    "training.mask: {last: 0}": "answers end, and their EOS is trained",
    "teacher.path: no/such/folder/here": "b: teacher can be loaded",
}


@pytest.mark.parametrize("key", OF_ONE_RUN)
def test_what_one_of_several_runs_sets_fails_its_line_alone(key: str) -> None:
    lines = list(diagnose(with_a_run_that_sets(key)))
    assert [line.what for line in lines if line.status == "FAIL"] == [OF_ONE_RUN[key]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "key", ["training.teacher_device: 'cuda:91'", "training.precision: 16-mixed"]
)
def test_a_device_that_one_of_several_runs_does_not_find_is_found(key: str) -> None:
    runs = loader.variants(with_a_run_that_sets(key))
    assert_fails(of_all(runs, doctor_machine.device), f"run b: {key.partition(':')[0]}")


def test_every_engine_and_teacher_of_several_runs_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose = decoder.choose
    monkeypatch.setattr(decoder, "choose", lambda w, u, *_: choose(w, u, 1.5, 1.0))
    a = "{name: a, set: {rollout: {type: generate, max_new_tokens: 96}, teacher.path: embedded:student}}"
    b = "{name: b, set: {method: {type: opd}}}"
    lines = list(diagnose(experiment(f"runs=[{a}, {b}]", "evaluation.benchmarks=[]")))
    ill = [line.what for line in lines if line.status == "FAIL"]
    # The teacher of `a` is its student, whose numbers differ by rounding alone.
    where = ["a: the gradient is not zero", "b: tokens are samples of the student's distribution"]
    assert ill == where
    said = [line.what for line in lines]
    assert "a: tree scoring equals the naive way" in said
    assert "b: the gradient is not zero" in said


def test_differing_tokenizers_and_templates_are_found() -> None:
    (student, ours), (teacher, theirs) = load("student"), load("teacher")
    theirs.chat_template = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    assert_fails(doctor_models.tokenizers(ours, theirs, student, teacher), "chat templates differ")
    config = one_run()
    assert_fails(doctor_models.prompts_agree(config, ours, theirs), "tokens against")
    assert doctor_models.prompts_agree(config, ours, ours).status == "pass"


def test_another_vocabulary_is_found() -> None:
    (student, ours), (teacher, _) = load("student"), load("teacher")
    theirs = copy.deepcopy(ours)
    state = theirs.backend_tokenizer.to_str().replace('"3"', '"\\u00e9"')
    theirs._tokenizer = type(theirs.backend_tokenizer).from_str(state)
    line = doctor_models.tokenizers(ours, theirs, student, teacher)
    assert_fails(line, "map to different strings")


def fits(cast: Cast, *overrides: str) -> Line:
    config = one_run(*overrides)
    prompts = open_prompts(config.prompts, cast.tokenizer, config.seed)
    return doctor_models.answers_fit([config], prompts, cast)


@pytest.mark.parametrize("key", ["rollout.max_new_tokens", "evaluation.max_new_tokens"])
def test_answers_longer_than_the_context_are_found(key: str) -> None:
    whole = cast()
    assert fits(whole, f"{key}=400").status == "pass"
    line = fits(whole, f"{key}=2000")
    assert_fails(line, f"{key} 2000 = ")
    most = int(line.remedy.split()[3])
    assert fits(whole, f"{key}={most}").status == "pass"
    assert_fails(fits(whole, f"{key}={most + 1}"), "= 513, student has 512")


def test_the_smallest_context_counts_and_a_stretched_one_is_as_long_as_it_says() -> None:
    whole = cast()
    teacher, _ = whole.teachers["teacher"]
    teacher.config.max_position_embeddings = 256
    assert_fails(fits(whole, "rollout.max_new_tokens=300"), "teacher has 256")
    stretch = {"factor": 2.0, "original_max_position_embeddings": 256}
    teacher.config.rope_parameters |= stretch
    assert fits(whole, "rollout.max_new_tokens=300").status == "pass"


def test_a_rollout_server_that_is_away_is_found(probe: Probe) -> None:
    served = one_run("rollout={type: openai, url: 'http://127.0.0.1:9/v1', patience_s: 0.01}")
    (line,) = doctor_models.rollout_server(replace(probe, config=served))
    assert line.what == "the rollout server answers"
    assert_fails(line, "127.0.0.1:9")


@pytest.mark.parametrize(
    ("what", "overrides"),
    [
        ("the student answers prompts", []),
        (
            "the teacher's server answers",
            [
                "teacher.server={url: 'http://127.0.0.1:9/v1', patience_s: 0.01}",
                "method.support=sampled",
            ],
        ),
    ],
)
def test_without_answers_their_line_fails_and_those_that_need_them_are_skipped(
    what: str, overrides: list[str]
) -> None:
    whole = cast()
    if not overrides:
        with torch.no_grad():
            next(whole.student.parameters()).fill_(torch.nan)
    *_, line, rest = of_a_cast([("opd", one_run(*overrides))], whole, 0)
    assert line.what == what
    assert_fails(line)
    assert rest.status == "skip"


def test_an_eos_that_is_lost_is_found(probe: Probe) -> None:
    assert doctor_models.answers_end(probe).status == "pass"
    lost = replace(probe.rollout, eos_ids=(10_000,))
    assert_fails(doctor_models.answers_end(replace(probe, rollout=lost)), "without their EOS")
    never = replace(probe.rollout, ended=torch.zeros_like(probe.rollout.ended))
    short = replace(probe, rollout=never, config=one_run("rollout.max_new_tokens=10"))
    assert_fails(doctor_models.answers_end(short), "0% of 8")
    assert doctor_models.answers_end(replace(probe, rollout=never)).status == "skip"


def test_answers_that_an_engine_cuts_fail_the_line_of_eos(probe: Probe) -> None:
    rollout = probe.rollout
    end = rollout.prompt_lengths + rollout.response_lengths
    rollout.tokens[0, int(end[0]) - 1] = (int(rollout.eos_ids[0]) + 1) % probe.vocabulary
    cut = replace(rollout, ended=rollout.ended & (torch.arange(len(end)) > 0))
    line = doctor_models.answers_end(replace(probe, rollout=cut))
    assert_fails(line, "1 of 8 answers stop before an EOS and before 64 tokens")


def test_log_probabilities_of_another_moment_are_found(probe: Probe) -> None:
    assert doctor_models.rescored(probe).status == "pass"
    shifted = replace(probe.rollout, log_prob=probe.rollout.log_prob.roll(1))
    assert_fails(doctor_models.rescored(replace(probe, rollout=shifted)))
    with torch.no_grad():
        probe.student.get_output_embeddings().weight.mul_(1.01)  # type: ignore[union-attr]
    assert_fails(doctor_models.rescored(probe))


class Shifted(Teacher):
    """Gives each token the score of the one before it."""

    def score(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        right = super().score(rollout, questions)
        return replace(right, log_prob=right.log_prob.roll(1))


class OffByOne(Teacher):
    """Puts every leaf one position too far."""

    def _leaf_states(self, own: Any, trunk: Any, rows: Any, leaves: Any, chain: Any = None) -> Any:
        later = replace(leaves, column=leaves.column + 1)
        return super()._leaf_states(own, trunk, rows, later, chain)


class LastDropped(Teacher):
    """Has no score for the last token of an answer."""

    def score(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        right = super().score(rollout, questions)
        last = rollout.position == rollout.response_lengths[rollout.row] - 1
        return replace(right, log_prob=right.log_prob.masked_fill(last, 0.0))


class OtherPadding(Teacher):
    """Reads its scores where they would be in a batch that is one column wider on the left."""

    def score(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        right = super().score(rollout, questions)
        rows = [right.log_prob[rollout.row == row].roll(1) for row in range(len(rollout.tokens))]
        return replace(right, log_prob=torch.cat(rows))


class Starved(Teacher):
    """Was sent one row of all."""

    def score(self, rollout: Rollout, questions: Questions) -> TeacherScores:
        right = super().score(rollout, questions)
        return replace(right, log_prob=right.log_prob.masked_fill(rollout.row > 0, torch.nan))


def test_another_record_of_the_students_distribution_is_found(probe: Probe) -> None:
    right = probe.rollout
    for wrong in (
        {"entropy": right.entropy + 0.01},
        {"candidates": (right.candidates + 1) % probe.vocabulary},
        {"candidate_log_prob": torch.full_like(right.candidate_log_prob, torch.nan)},
    ):
        record = replace(right, **wrong)  # type: ignore[arg-type]
        assert_fails(doctor_models.rescored(replace(probe, rollout=record)))


def test_a_number_that_a_teacher_leaves_out_is_found(probe: Probe) -> None:
    for name in ("entropy", "fidelity", "sampled_confidence", "confidence"):

        class Silent(Teacher):
            def score(
                self, rollout: Rollout, questions: Questions, finite: bool = True
            ) -> TeacherScores:
                right = super().score(rollout, questions, finite)
                return replace(right, **{name: torch.full_like(getattr(right, name), torch.nan)})  # noqa: B023

        probe.teacher.__class__ = Silent
        assert_fails(doctor_reference.reference_is_met(probe), "inf")


@pytest.mark.parametrize("measure", ["sampled_prob", "entropy", "perplexity"])
def test_confidences_are_compared_by_the_measure_that_a_run_asks_for(measure: str) -> None:
    asking = one_run("method={type: lgr, top_k: 3, confidence: " + measure + "}")
    probe = make_probe(asking, [asking], cast())
    assert doctor_reference.reference_is_met(probe).status == "pass"

    class Sure(Teacher):
        def score(
            self, rollout: Rollout, questions: Questions, finite: bool = True
        ) -> TeacherScores:
            right = super().score(rollout, questions, finite)
            wrong = right.confidence * (0.9 if questions.measure == measure else 1.0)
            return replace(right, confidence=wrong)

    probe.teacher.__class__ = Sure
    assert_fails(doctor_reference.reference_is_met(probe), f"confidence by {measure}")


def failing(probe: Probe) -> list[str]:
    """The lines about answers and scores that fail."""
    company = replace(cast(), teachers={"teacher": (probe.teacher.model, probe.tokenizer)})
    return [line.what for line in look_at(probe, company) if line.status == "FAIL"]


WRONG = {
    "another": lambda value: value.roll(1, 0) if value.ndim == 2 else value / 2 - 1e-3,
    "no number": lambda value: value * torch.nan,
}


def changed(name: str, how: str) -> Any:
    """A teacher one of whose numbers is wrong in the last row."""

    class Changed(Teacher):
        def score(
            self, rollout: Rollout, questions: Questions, finite: bool = True
        ) -> TeacherScores:
            right = super().score(rollout, questions, finite)
            value = getattr(right, name)
            if value is None:
                return right
            last = (rollout.row == rollout.row.max()).view(-1, *[1] * (value.ndim - 1))
            return replace(right, **{name: torch.where(last, WRONG[how](value), value)})

    return Changed


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize(
    "name", ["log_prob", "entropy", "fidelity", "sampled_confidence", "confidence", "hidden"]
)
def test_a_teachers_number_that_is_wrong_in_one_row_fails_the_line_of_the_reference(
    probe: Probe, name: str, how: str
) -> None:
    probe.teacher.__class__ = changed(name, how)
    assert_fails(doctor_reference.reference_is_met(probe))


class Tempered(Teacher):
    def logits(self, said: Distributions) -> TeacherLogits:
        of = super().logits(said)
        return lambda part: of(part) / 0.5


class NextRow(Teacher):
    def logits(self, said: Distributions) -> TeacherLogits:
        of = super().logits(said)
        return lambda part: of(part).roll(1, 0)


class NextEntry(Teacher):
    def logits(self, said: Distributions) -> TeacherLogits:
        of = super().logits(said)
        return lambda part: of(part).roll(1, -1)


@pytest.mark.parametrize("fault", [Tempered, NextRow, NextEntry])
def test_distributions_that_are_others_where_losses_read_them_fail_the_line_of_the_reference(
    probe: Probe, fault: type[Teacher]
) -> None:
    probe.teacher.__class__ = fault
    assert_fails(doctor_reference.reference_is_met(probe), "distributions")


def test_scores_of_a_teacher_without_a_tree_are_held_against_whole_forwards(probe: Probe) -> None:
    probe.teacher.way = "naive"
    assert doctor_reference.reference_is_met(probe).status == "pass"
    probe.teacher.__class__ = changed("log_prob", "another")
    line = doctor_reference.reference_is_met(probe)
    assert_fails(line, "log_prob")
    assert line.what == "teacher scores equal whole forwards"


def test_confidences_of_all_candidates_are_looked_at() -> None:
    asking = one_run("method={type: lgr, top_k: 8}")
    probe = make_probe(asking, [asking], cast())

    class Late(Teacher):
        def score(
            self, rollout: Rollout, questions: Questions, finite: bool = True
        ) -> TeacherScores:
            right = super().score(rollout, questions, finite)
            late = torch.arange(right.confidence.shape[1]) > 6
            return replace(right, confidence=torch.where(late, 0.5, 1.0) * right.confidence)

    probe.teacher.__class__ = Late
    assert_fails(doctor_reference.reference_is_met(probe), "confidence by max_prob")


def test_an_engine_that_draws_every_round_by_the_same_numbers_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = one_run("rollout.max_new_tokens=64")
    others = replace(
        cast(), student=small_model("llama", vocab_size=cast().student.config.vocab_size)
    )
    probe = make_probe(asking, [asking], others)
    assert doctor_draws.drawn_as_recorded(probe).status == "pass"
    sample = CachedEngine.sample

    def always(self: Any, model: Any, prompts: Any, seeds: Any, **rest: Any) -> Rollout:
        return sample(self, model, prompts, range(len(seeds)), **rest)

    monkeypatch.setattr(CachedEngine, "sample", always)
    assert_fails(doctor_draws.drawn_as_recorded(probe), "calls")


def test_a_teachers_number_that_is_another_fails_the_line_of_the_reference_alone(
    probe: Probe,
) -> None:
    probe.teacher.__class__ = changed("entropy", "another")
    assert failing(probe) == ["tree scoring equals the naive way"]


def antithetic(uniform: Any) -> Any:
    """Every other row's numbers are what its neighbour's leave to 1."""
    found = uniform.clone()
    found[1::2] = 1 - found[::2][: len(found) // 2]
    return found.clamp(max=1 - 2**-53)


DRAWN_WRONGLY = {
    "at a lower temperature": lambda choose, w, u, _: choose(w, u, 0.9, 1.0),
    "at a higher temperature": lambda choose, w, u, _: choose(w, u, 1.1, 1.0),
    "from a nucleus of 0.98": lambda choose, w, u, _: choose(w, u, 1.0, 0.98),
    "antithetic": lambda choose, w, u, _: choose(w, antithetic(u), 1.0, 1.0),
    "by numbers of four bits": lambda choose, w, u, _: choose(
        w, (u * 16 // 1 + 0.5) / 16, 1.0, 1.0
    ),
    "the likeliest": lambda choose, w, u, _: choose(w, u, 0.0, 1.0),
    "all by one number": lambda choose, w, u, _: choose(w, torch.full_like(u, 0.37), 1.0, 1.0),
    "by one number a step": lambda choose, w, u, _: choose(w, u[:1].expand_as(u), 1.0, 1.0),
    "by one number an answer": lambda choose, w, u, held: choose(w, held(u), 1.0, 1.0),
    "by numbers below a half": lambda choose, w, u, _: choose(w, u / 2, 1.0, 1.0),
}


FINE = ("at a lower temperature", "at a higher temperature", "by numbers of four bits")


@pytest.mark.parametrize("name", DRAWN_WRONGLY)
def test_tokens_that_are_no_samples_fail_their_line_alone(
    monkeypatch: pytest.MonkeyPatch, enough: float, name: str
) -> None:
    choose, change = decoder.choose, DRAWN_WRONGLY[name]
    if name in FINE or "nucleus" in name:
        monkeypatch.setattr(doctor_draws, "ENOUGH", enough)

    def held(uniform: Any) -> Any:
        """The first number that came with a batch of so many rows, again and again."""
        return torch.linspace(0.05, 0.95, len(uniform), dtype=uniform.dtype)[:, None]

    monkeypatch.setattr(decoder, "choose", lambda w, u, *_: change(choose, w, u, held))
    config = one_run()
    probe = make_probe(config, [config], cast())
    assert failing(probe) == ["tokens are samples of the student's distribution"]


def test_places_that_know_nothing_of_each_other_get_every_probability_alike() -> None:
    seeded = torch.Generator().manual_seed(1)
    group, spread = torch.arange(400) // 20, torch.full((400,), 1 / 12, dtype=torch.float64)
    found = [
        independent(torch.rand(400, generator=seeded, dtype=torch.float64) - 0.5, spread, group)
        for _ in range(200)
    ]
    assert kstest(found, "uniform").pvalue > 1e-3
    place = torch.rand(200, generator=seeded, dtype=torch.float64)
    # Sums that differ less than they should: each place and what is left to 1 in one group.
    pairs = torch.cat([place, 1 - place]) - 0.5
    assert independent(pairs, spread, torch.arange(200).repeat(2)) < 1e-6
    # Of tokens alone nothing is known.
    assert independent(pairs, spread, torch.arange(400)) == 1.0


def test_answers_whose_ends_are_drawn_get_every_probability_alike() -> None:
    seeded = torch.Generator().manual_seed(1)
    few, most = 6, 40
    group, step = torch.arange(few).repeat_interleave(most), torch.arange(most).repeat(few)
    found = []
    for _ in range(300):
        place = torch.rand(few, most, generator=seeded, dtype=torch.float64)
        # What ends an answer stands at the end of the vocabulary.
        ended = (place > 0.9).cumsum(1)
        on = (ended - (place > 0.9).long() == 0).flatten()
        spread = torch.full((int(on.sum()),), 1 / 12, dtype=torch.float64)
        number = place.flatten()[on] - 0.5
        found.append(unforeseen(number, spread, group[on], step[on]))
    assert kstest(found, "uniform").pvalue > 1e-3
    # In whatever order they come; one number for a whole answer, and numbers that take turns.
    spread = torch.full((few * most,), 1 / 12, dtype=torch.float64)
    held = (torch.rand(few, generator=seeded, dtype=torch.float64) - 0.5).repeat_interleave(most)
    mixed = torch.randperm(few * most, generator=seeded)
    assert unforeseen(held[mixed], spread, group[mixed], step[mixed]) < 1e-6
    assert unforeseen(held * (-1.0) ** step, spread, group, step) < 1e-4
    assert unforeseen(held, spread, torch.arange(few * most), step) == 1.0


def test_an_eos_that_the_mask_leaves_out_fails_the_line_of_eos_alone(probe: Probe) -> None:
    masked = replace(probe, config=one_run("training.mask={last: 0}"))
    assert failing(masked) == ["answers end, and their EOS is trained"]


def test_a_teachers_card_that_is_not_there_is_found() -> None:
    config = one_run()
    training = config.training.model_copy(update={"teacher_device": "cuda:91"})
    line = doctor_machine.device(config.model_copy(update={"training": training}))
    assert_fails(line, "training.teacher_device is cuda:91, and there are")


@pytest.mark.parametrize("fault", [Shifted, LastDropped, OtherPadding])
def test_teacher_scores_of_other_tokens_are_found(fault: type[Teacher]) -> None:
    config = one_run("rollout.max_new_tokens=10")  # of a sure EOS a lost score would not be missed
    probe = make_probe(config, [config], cast())
    assert doctor_models.self_teacher(probe).status == "pass"
    probe.itself.__class__ = fault  # made as one, it would not even load
    assert_fails(doctor_models.self_teacher(probe))


def test_a_teacher_scored_at_another_temperature_is_found(probe: Probe) -> None:
    with torch.no_grad():
        probe.itself.model.get_output_embeddings().weight.mul_(1 / 0.7)  # type: ignore[union-attr]
    assert_fails(doctor_models.self_teacher(probe))


def test_half_precision_is_judged_by_the_noise_of_its_own_sums() -> None:
    asking = one_run("rollout.max_new_tokens=32")
    tokenizer = cast().tokenizer
    model: Any = small_model("qwen3_moe", vocab_size=cast().student.config.vocab_size).bfloat16()
    model.get_output_embeddings().weight.data.mul_(2)
    others = Cast(model, tokenizer, {"teacher": (copy.deepcopy(model), tokenizer)})
    probe: Any = make_probe(asking, [asking], others)
    # Rounding sends single tokens another way, of which a largest difference says nothing.
    assert (probe.training_log_probs() - reordered(probe)).abs().max() > 0.6
    few = probe.only([0, 3], probe.teacher)
    assert doctor_models.rescored(probe).status == "pass"
    assert doctor_models.self_teacher(probe).status == "pass"
    assert doctor_reference.reference_is_met(few).status == "pass"
    # One wrong row among right ones, which a mean over all would hide.
    lone = probe.rollout.row == int(probe.rollout.response_lengths.argmin())
    right, wrong = probe.rollout.log_prob, probe.rollout.log_prob - 0.4
    one_row = replace(probe, rollout=replace(probe.rollout, log_prob=right.where(~lone, wrong)))
    assert float((wrong - right).abs()[lone].sum()) / len(lone) < probe.student_tolerance.nats
    assert_fails(doctor_models.rescored(one_row), "token")
    assert_fails(doctor_models.self_teacher(one_row))
    probe.itself.__class__ = Shifted
    probe.teacher.__class__ = Tempered
    spoilt_record = replace(probe.rollout, log_prob=probe.rollout.log_prob.roll(1))
    assert_fails(doctor_models.rescored(replace(probe, rollout=spoilt_record)), "token")
    assert_fails(doctor_models.self_teacher(probe))
    assert_fails(doctor_reference.reference_is_met(few), "distributions")


@pytest.mark.parametrize("broken", [torch.inf, torch.nan])
def test_noise_is_that_of_what_did_not_overflow(broken: float) -> None:
    rows = torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()
    calls = iter([rows, *[rows + torch.tensor([[broken, broken], [0.01, 0.01]])] * 2])
    row = torch.tensor([0, 0])
    found = tolerance(torch.bfloat16, row, lambda: [next(calls)])
    assert found.nats == pytest.approx(MARGIN * 0.01, rel=1e-4)
    assert found.gap(rows, rows + 0.1, row) > found.nats


def reordered(probe: Probe) -> Any:
    with InParts(2):
        return probe.training_log_probs()


def test_tokens_without_a_teacher_score_are_counted(probe: Probe) -> None:
    assert doctor_models.every_token_scored(probe).status == "pass"
    probe.teacher.__class__ = Starved
    share = float((probe.rollout.row == 0).float().mean())
    assert_fails(doctor_models.every_token_scored(probe), f"{share:.0%}, mean")


def test_a_student_too_uniform_to_show_a_shift_is_said_to_be(probe: Probe) -> None:
    with torch.no_grad():
        probe.student.get_output_embeddings().weight.zero_()  # type: ignore[union-attr]
    flat = torch.full_like(probe.rollout.log_prob, -float(torch.tensor(probe.vocabulary).log()))
    itself = Teacher(copy.deepcopy(probe.student), probe.vocabulary).probe()
    uniform = replace(probe, itself=itself, rollout=replace(probe.rollout, log_prob=flat))
    line = doctor_models.self_teacher(uniform)
    assert line.status == "skip"
    assert "too uniform" in line.found


def test_a_teacher_that_says_nan_is_found(probe: Probe) -> None:
    with torch.no_grad():
        probe.teacher.model.get_output_embeddings().weight[3] = torch.nan  # type: ignore[union-attr, index]
    assert_fails(doctor_models.every_token_scored(probe), "row 0")
    assert [line.status for line in of_a_teacher(probe)] == ["FAIL", "skip"]


def test_a_student_that_says_nan_is_found(probe: Probe) -> None:
    with torch.no_grad():
        probe.itself.model.get_output_embeddings().weight[3] = torch.nan  # type: ignore[union-attr, index]
    assert_fails(doctor_models.self_teacher(probe), "nan")


def test_leaves_in_the_wrong_place_are_found(probe: Probe) -> None:
    line = doctor_reference.reference_is_met(probe)
    assert line.status == "pass"
    assert "times faster" in line.found
    with pytest.warns(
        UserWarning, match="slow"
    ):  # the teacher itself sees it, and takes the slow way
        misplaced = OffByOne(probe.teacher.model, probe.vocabulary).probe()
    assert doctor_reference.reference_is_met(replace(probe, teacher=misplaced)).status == "pass"
    misplaced.way = "tree"
    assert_fails(doctor_reference.reference_is_met(replace(probe, teacher=misplaced)))


def test_scores_that_change_are_found(probe: Probe) -> None:
    assert doctor_reference.repeatable(probe).status == "pass"

    def noise(_module: Any, _inputs: Any, output: Any) -> Any:
        return output + 1e-4 * torch.randn_like(output)

    handle = probe.teacher.model.get_input_embeddings().register_forward_hook(noise)
    assert_fails(doctor_reference.repeatable(probe), "largest difference")
    handle.remove()


def test_an_objective_that_is_not_what_it_says_is_found() -> None:
    honest = one_run("method={type: opd}")
    assert doctor_training.objective("run", honest).status == "pass"
    bent = one_run("method={type: opd}", "training.normalisation=sequence_mean")
    assert_fails(doctor_training.objective("run", bent), "none of the known ones")
    control = one_run("method={type: lgr, control: shuffled}")
    assert doctor_training.objective("run", control).status == "skip"


def test_a_zero_gradient_is_found(probe: Probe) -> None:
    assert doctor_training.gradient("run", probe).status == "pass"
    masked = replace(probe, config=one_run("training.mask={entropy_above: 50.0}"))
    assert_fails(doctor_training.gradient("run", masked), "norm 0 ")
    probe.student.requires_grad_(False)
    assert_fails(doctor_training.gradient("run", probe), "0 of the student's")


def test_a_gradient_of_rounding_or_of_the_head_alone_is_found(
    monkeypatch: pytest.MonkeyPatch, probe: Probe
) -> None:
    alike = replace(probe, teacher=probe.itself)
    assert_fails(doctor_training.gradient("run", alike), "as rounding gives")
    rewarded = replace(alike, config=one_run("method={type: grpo}", "rollout.group_size=2"))
    grades = torch.arange(len(probe.problems)) % 2.0
    same = torch.arange(len(probe.problems)) // 2
    graded = replace(probe.rollout, outcome=grades, group=same)
    monkeypatch.setattr(doctor_training, "with_grades", lambda probe: graded)
    assert doctor_training.gradient("run", rewarded).status == "pass"
    honest = doctor_training.states_before_tokens
    monkeypatch.setattr(doctor_training, "states_before_tokens", lambda *one: honest(*one).detach())
    assert_fails(doctor_training.gradient("run", probe), "none of them in its layers")


def test_steps_that_are_lost_in_the_format_of_the_weights_are_found(probe: Probe) -> None:
    assert doctor_training.updates("run", probe).status == "pass"
    slow = replace(probe, config=one_run("training.learning_rate=1.0e-6"))
    assert "changes 100.0%" in doctor_training.updates("run", slow).found
    probe.student.bfloat16()
    assert_fails(doctor_training.updates("run", slow), "changes ")


def test_answers_graded_alike_are_no_fault_of_the_gradient() -> None:
    config = one_run("method={type: grpo}", "rollout.group_size=4", "rollout.max_new_tokens=2")
    line = doctor_training.gradient("run", make_probe(config, [config], cast()))
    assert line.status == "skip"
    assert "same grade" in line.found


def test_models_that_cannot_be_loaded_are_all_named_and_the_rest_is_looked_at() -> None:
    missing = ["teacher.path=no/such/folder/here", "student.path=nor/this/one/here"]
    lines = {line.what: line for line in diagnose(one_run(*missing))}
    for name in ("teacher", "student"):
        assert_fails(lines[f"{name} can be loaded"], "no such model folder")
        assert f"correct {name}.path" in lines[f"{name} can be loaded"].remedy
    assert lines["opd: the objective is what it says"].status == "pass"
    (skipped,) = (line for line in lines.values() if line.status == "skip")
    assert "tree scoring, gradients and updates" in skipped.what
    assert skipped.found == "they need the models"


def test_prompts_that_are_not_there_leave_a_reason_for_every_line() -> None:
    lines = list(diagnose(one_run("prompts={type: dataset, path: nowhere.jsonl}")))
    assert {line.status for line in lines} == {"pass", "FAIL", "skip"}
    assert "tree scoring, gradients and updates" in lines[-1].what
    assert_fails(next(line for line in lines if line.status == "FAIL"), "there is no file")


def test_benchmarks_without_their_data_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor_machine.benchmarks(one_run()).found
    assert found == "320 problems of 5 benchmarks; graders: 1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    absent = "{type: aime_2024, path: nowhere.jsonl}"
    line = doctor_machine.benchmarks(
        one_run(f"evaluation.benchmarks=[{{type: math}}, {absent}]", "evaluation.references=[]")
    )
    assert_fails(line, "not those of aime_2024")
    assert doctor_machine.benchmarks(one_run("evaluation.benchmarks=[]")).status == "skip"


def two_teachers(domains: str = "[code/*]", *overrides: str) -> Experiment:
    specialist = f"specialists=[{{path: embedded:student, domains: {domains}}}]"
    return one_run(specialist, "method={type: lgr}", *overrides)


def all_of(config: Experiment) -> tuple[Cast, Probe]:
    company = replace(
        cast(), teachers={"teacher": load("teacher"), "specialists.0": load("student")}
    )
    return company, make_probe(config, [config], company)


def test_every_teacher_is_looked_at_on_prompts_of_its_own() -> None:
    lines = {line.what: line for line in diagnose(two_teachers())}
    assert {line.status for line in lines.values()} == {"pass"}
    for name in ("teacher", "specialists.0"):
        for what in (
            "some prompts are its own",
            "student and teacher share tokens and template",
            "a prompt is the same to both",
            "every response token has a teacher score",
            "tree scoring equals the naive way",
            "scoring again gives the same",
        ):
            assert f"{name}: {what}" in lines
    _, probe = all_of(two_teachers())
    general, special = probe.by_teacher()
    assert general is not None
    assert special is not None
    assert {domain[:4] for domain in special.domains} == {"code"}
    assert "code" not in {domain[:4] for domain in general.domains}
    assert len(general.domains) + len(special.domains) == len(probe.domains)


def test_a_fault_of_a_specialist_is_found_and_called_by_its_name() -> None:
    company, probe = all_of(two_teachers())
    with torch.no_grad():
        weights = company.teachers["specialists.0"][0].get_output_embeddings().weight  # type: ignore[union-attr]
        weights[3] = torch.nan
    ill = [line for line in look_at(probe, company) if line.status == "FAIL"]
    assert_fails(ill[0], "row 0")
    assert [line.what for line in ill] == [
        "specialists.0: every response token has a teacher score"
    ]
    assert_fails(doctor_training.gradient("run", probe))


def test_a_specialist_with_a_mistyped_domain_is_found() -> None:
    _, probe = all_of(two_teachers("[coed/*]"))
    idle = share_of_teachers(probe)[1]
    assert_fails(idle, "they are of code/long, code/short, math/long, math/short, routes")
    assert "specialists.0.domains" in idle.remedy


def test_a_general_teacher_with_nothing_to_do_is_said_to_have_none() -> None:
    company, probe = all_of(two_teachers("['*']"))
    first, *others = look_at(probe, company)
    assert first.status == "skip"
    assert not [line for line in others if line.what.startswith("teacher: ")]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_sums_of_half_precision_are_those_of_float64(probe: Probe, precision: str) -> None:
    training = probe.config.training.model_copy(update={"precision": precision})
    half = replace(probe, config=probe.config.model_copy(update={"training": training}))
    line = doctor_training.float32_sums("opd", half)
    assert line.status == "pass", line


@pytest.mark.parametrize("change", [lambda x: x.bfloat16().float(), lambda x: x * torch.nan])
@pytest.mark.parametrize("name", ["chunked_loss", "vocabulary_statistics", "record"])
def test_sums_that_are_rounded_or_no_number_are_found(
    monkeypatch: pytest.MonkeyPatch, probe: Probe, name: str, change: Any
) -> None:
    honest = getattr(doctor_training, name)

    def rounded(*arguments: Any) -> Any:
        found = honest(*arguments)
        return spoilt(found, entropy=change(found.entropy))

    monkeypatch.setattr(doctor_training, name, rounded)
    assert_fails(doctor_training.float32_sums("opd", probe), "to float64")


TWO_METHODS = """
from dataclasses import dataclass
from opdlab.methods.opd import OPD
from opdlab.records import option

@dataclass(frozen=True)
class One(OPD):
    '''One.'''
    power: int = option(1, "Power.", ge=1)

@dataclass(frozen=True)
class Two(OPD):
    '''Two.'''
"""


def test_options_go_to_the_methods_of_a_file_that_have_them(tmp_path: Path) -> None:
    path = tmp_path / "two_methods.py"
    path.write_text(TWO_METHODS)
    found = {
        name: method for name, method, _ in objectives(str(path), ["power=2", "Two.support=full"])
    }
    assert getattr(found["One"], "power", None) == 2
    assert getattr(found["Two"], "support", None) == "full"
    assert getattr(found["One"], "support", None) == "sampled"
    with pytest.raises(ConfigError, match=r"no method in it has an option powr \(One has .*power"):
        list(objectives(str(path), ["powr=2"]))
    with pytest.raises(ConfigError, match=r"^One: power: Input should be greater"):
        list(objectives(str(path), ["power=0"]))


class Contrary(Routes):
    """Judges every answer as the other graders would not."""

    def grade(self, problem: Problem, completion: str) -> Verdict:
        status = super().grade(problem, completion).status
        return Verdict("wrong" if status == "correct" else "correct", completion)


def test_a_grader_that_judges_known_answers_wrongly_is_found() -> None:
    config = one_run("evaluation.benchmarks=[{type: routes}]")
    assert doctor_machine.graders(config).status == "pass"
    measured = config.evaluation.model_copy(update={"benchmarks": [Contrary()]})
    line = doctor_machine.graders(config.model_copy(update={"evaluation": measured}))
    assert_fails(line, "is judged wrong")
    assert "(12 in all)" in line.found


def test_what_no_grader_can_judge_here_is_no_fault_of_a_grader() -> None:
    for benchmarks in ("[]", "[{type: gsm8k, path: nowhere.jsonl}]"):
        line = doctor_machine.graders(one_run(f"evaluation.benchmarks={benchmarks}"))
        assert line.status == "skip"


def test_a_sandbox_that_is_refused_is_told_with_what_to_allow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuses = tmp_path / "bwrap"
    refuses.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.8.0 && exit\n"
        "echo 'bwrap: Failed to make / slave: Permission denied' >&2; exit 1\n"
    )
    refuses.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(Host, "here", lambda: Host(profile="docker-default (enforce)"))
    shared_pool(protected=True).close()  # one that an earlier test started would be taken
    command.find_bwrap.cache_clear()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1=", "tests": ["assert f() == 2"]}\n')
    code = f"{{type: dataset, path: {rows}, column: prompt, answer_column: tests, grader: code}}"
    benchmarks = "evaluation.benchmarks=[{type: humaneval, path: nowhere.jsonl}, {type: routes}]"
    graded = one_run(f"prompts={code}", benchmarks, "method={type: grpo}", "rollout.group_size=2")
    line = doctor_machine.graders_start(graded)
    assert_fails(line, "not that of humaneval, grader code: the sandbox does not start")
    assert "AppArmor profile docker-default" in line.found
    assert "--security-opt apparmor=unconfined" in line.found
    ungraded = one_run(f"prompts={code}", "training.hacking.grade_every=0")
    assert doctor_machine.graders_start(ungraded).status == "pass"
    assert doctor_machine.graders(graded).status == "pass"
    command.find_bwrap.cache_clear()
