"""The doctor: a healthy experiment passes, and every planted fault is found and has a remedy."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from opdlab import doctor_machine, doctor_models, doctor_training, loader, models
from opdlab.cli import app
from opdlab.config import Experiment
from opdlab.doctor import Line, diagnose
from opdlab.doctor_models import Probe, make_probe
from opdlab.records import Questions, Rollout, TeacherScores
from opdlab.teacher import Teacher


def experiment(*overrides: str) -> Experiment:
    return loader.load_experiment("quickstart", overrides)


def one_run(*overrides: str) -> Experiment:
    """The quickstart without its runs."""
    return experiment("runs=[]", *overrides)


def load(name: str) -> tuple[Any, Any]:
    return models.load_model(f"embedded:{name}"), models.load_tokenizer(f"embedded:{name}")


@pytest.fixture
def probe() -> Probe:
    config = one_run()
    student, tokenizer = load("student")
    teacher, teacher_tokenizer = load("teacher")
    return make_probe(config, [config], student, teacher, tokenizer, teacher_tokenizer)


def assert_fails(line: Line, found: str = "") -> None:
    assert line.status == "FAIL", line
    assert line.remedy
    assert found in line.found


def test_a_healthy_experiment_passes_every_line() -> None:
    lines = list(diagnose(experiment()))
    assert [line for line in lines if line.status != "pass"] == []
    assert len(lines) == 17


def test_the_exit_status_tells_health() -> None:
    healthy = CliRunner().invoke(app, ["doctor", "quickstart"])
    assert healthy.exit_code == 0, healthy.output
    assert "17 passed, 0 failed" in healthy.output
    ill = CliRunner().invoke(app, ["doctor", "quickstart", "rollout.top_p=0.9"])
    assert ill.exit_code == 1
    assert "FAIL  sampling is not truncated" in ill.output
    assert "remedy: set rollout.temperature: 1.0" in ill.output


@pytest.mark.parametrize("planted", ["rollout.top_p=0.95", "rollout.temperature=0.7"])
def test_samples_of_another_distribution_are_found(planted: str) -> None:
    assert doctor_models.sampling(one_run()).status == "pass"
    assert_fails(doctor_models.sampling(one_run(planted)))


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
    assert_fails(doctor_machine.disk(probe.config, 2, probe.student, free=10_000))
    assert doctor_machine.disk(probe.config, 2, probe.student).status == "pass"


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


def test_an_eos_that_is_lost_is_found(probe: Probe) -> None:
    assert doctor_models.answers_end(probe).status == "pass"
    lost = replace(probe.rollout, eos_ids=(10_000,))
    assert_fails(doctor_models.answers_end(replace(probe, rollout=lost)), "without their EOS")
    never = replace(probe.rollout, ended=torch.zeros_like(probe.rollout.ended))
    short = replace(probe, rollout=never, config=one_run("rollout.max_new_tokens=10"))
    assert_fails(doctor_models.answers_end(short), "0% of 8")
    assert doctor_models.answers_end(replace(probe, rollout=never)).status == "skip"


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

    def _leaf_states(self, trunk: Any, tree: Any, chunk: Any) -> Any:
        return super()._leaf_states(trunk, replace(tree, column=tree.column + 1), chunk)


def test_teacher_scores_off_by_one_are_found(probe: Probe) -> None:
    assert doctor_models.self_teacher(probe).status == "pass"
    probe.itself.__class__ = Shifted  # made as one, it would not even load
    assert_fails(doctor_models.self_teacher(probe))


def test_a_student_too_uniform_to_show_a_shift_is_said_to_be(probe: Probe) -> None:
    with torch.no_grad():
        probe.student.get_output_embeddings().weight.zero_()  # type: ignore[union-attr]
    flat = torch.full_like(probe.rollout.log_prob, -float(torch.tensor(probe.vocabulary).log()))
    itself = Teacher(copy.deepcopy(probe.student), probe.vocabulary)
    uniform = replace(probe, itself=itself, rollout=replace(probe.rollout, log_prob=flat))
    line = doctor_models.self_teacher(uniform)
    assert line.status == "skip"
    assert "too uniform" in line.found


def test_a_teacher_that_says_nan_is_found(probe: Probe) -> None:
    with torch.no_grad():
        probe.teacher.model.get_output_embeddings().weight[3] = torch.nan  # type: ignore[union-attr, index]
    assert_fails(doctor_models.every_token_scored(probe), "row 0")


def test_leaves_in_the_wrong_place_are_found(probe: Probe) -> None:
    line = doctor_models.tree_is_exact(probe)
    assert line.status == "pass"
    assert "times faster" in line.found
    with pytest.warns(
        UserWarning, match="slow"
    ):  # the teacher itself sees it, and takes the slow way
        misplaced = OffByOne(probe.teacher.model, probe.vocabulary)
    assert doctor_models.tree_is_exact(replace(probe, teacher=misplaced)).status == "skip"
    misplaced.way = "tree"
    assert_fails(doctor_models.tree_is_exact(replace(probe, teacher=misplaced)))


def test_scores_that_change_are_found(probe: Probe) -> None:
    assert doctor_models.repeatable(probe).status == "pass"

    def noise(_module: Any, _inputs: Any, output: Any) -> Any:
        return output + 1e-4 * torch.randn_like(output)

    handle = probe.teacher.model.get_input_embeddings().register_forward_hook(noise)
    assert_fails(doctor_models.repeatable(probe), "largest difference")
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
    masked = replace(probe, config=one_run("training.mask={first: 500}"))
    assert_fails(doctor_training.gradient("run", masked), "norm 0 ")
    probe.student.requires_grad_(False)
    assert_fails(doctor_training.gradient("run", probe), "0 of the student's")


def test_answers_graded_alike_are_no_fault_of_the_gradient() -> None:
    config = one_run("method={type: grpo}", "rollout.group_size=4", "rollout.max_new_tokens=2")
    student, tokenizer = load("student")
    pair = (student, load("teacher")[0], tokenizer, load("teacher")[1])
    line = doctor_training.gradient("run", make_probe(config, [config], *pair))
    assert line.status == "skip"
    assert "same grade" in line.found


def test_a_pair_that_cannot_be_loaded_is_one_line() -> None:
    lines = list(diagnose(one_run("teacher.path=no/such/folder/here")))
    assert_fails(lines[-1], "no such model folder")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
