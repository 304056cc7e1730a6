"""`opdlab doctor FILE`: what could spoil an experiment, looked at before it costs anything.

Every line passes, fails with a remedy, or says why it was skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab import loader, models
from opdlab.config import Experiment, Model
from opdlab.errors import OpdlabError


@dataclass(frozen=True)
class Line:
    """What one check found.

    Attributes:
        what: the claim that was checked.
        status: whether it holds, or could not be looked at.
        found: figures that say so, or the reason for skipping.
        remedy: what to do where it fails.
    """

    what: str
    status: Literal["pass", "FAIL", "skip"]
    found: str
    remedy: str = ""


def passed(what: str, found: str) -> Line:
    return Line(what, "pass", found)


def failed(what: str, found: str, remedy: str) -> Line:
    return Line(what, "FAIL", found, remedy)


def skipped(what: str, why: str) -> Line:
    return Line(what, "skip", why)


def judged(what: str, holds: bool, found: str, remedy: str) -> Line:
    """A line that passes or fails."""
    return passed(what, found) if holds else failed(what, found, remedy)


def diagnose(config: Experiment) -> Iterator[Line]:
    """All lines for an experiment, each as soon as it is known."""
    from opdlab import doctor_machine, doctor_models, doctor_training

    variants = loader.variants(config)
    yield doctor_machine.one_origin()
    yield doctor_machine.versions()
    yield doctor_machine.device(config)
    try:
        student, tokenizer = _load(config.student)
        teacher, teacher_tokenizer = _load(config.teacher)
    except OpdlabError as error:
        yield failed("student and teacher can be loaded", str(error), "correct student or teacher")
        return
    yield doctor_machine.disk(config, len(variants), student)
    yield doctor_models.tokenizers(tokenizer, teacher_tokenizer, student, teacher)
    yield doctor_models.prompts_agree(config, tokenizer, teacher_tokenizer)
    yield doctor_models.sampling(config)
    try:
        pair = (student, teacher, tokenizer, teacher_tokenizer)
        probe = doctor_models.make_probe(config, [run for _, run in variants], *pair)
    except OpdlabError as error:
        yield failed("the student answers prompts", str(error), "see the message")
        return
    yield doctor_models.answers_end(probe)
    for check in doctor_models.CHECKS:
        yield check(probe)
    for name, run in variants:
        yield doctor_training.objective(name, run)
        yield doctor_training.gradient(name, replace(probe, config=run))


def _load(source: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = models.load_model(source.path, source.revision, source.dtype)
    return model, models.load_tokenizer(source.path, source.revision)


def examine(name: str, overrides: Sequence[str]) -> bool:
    """Print every line; whether none failed."""
    from rich.markup import escape

    from opdlab.quiet import quieten
    from opdlab.terminal import console

    quieten()
    config = loader.load_experiment(name, overrides)
    models.use_threads(config.training.threads)
    lines: list[Line] = []
    with console.status("looking ..."):
        for line in diagnose(config):
            lines.append(line)
            colour = {"pass": "green", "FAIL": "red", "skip": "yellow"}[line.status]
            console.print(f"[{colour}]{line.status}[/]  {escape(line.what)}: {escape(line.found)}")
            if line.remedy:
                console.print(f"      [bold]remedy:[/] {escape(line.remedy)}")
    count = {
        status: sum(line.status == status for line in lines) for status in ("pass", "FAIL", "skip")
    }
    console.print(f"{count['pass']} passed, {count['FAIL']} failed, {count['skip']} skipped")
    return count["FAIL"] == 0
