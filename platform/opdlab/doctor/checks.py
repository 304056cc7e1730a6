"""`opdlab doctor FILE`: what could spoil an experiment, looked at before it costs anything.

Every line passes, fails with a remedy, or says why it was skipped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

import torch
from rich.table import Table

from opdlab.configuration import Experiment, loader, repeats
from opdlab.console import BOLD, END, GREEN, RED, YELLOW
from opdlab.doctor import (
    draws as doctor_draws,
    machine as doctor_machine,
    models as doctor_models,
    training as doctor_training,
)
from opdlab.doctor.lines import Line, failed, skipped
from opdlab.doctor.probe import Cast, Probe, make_probe, share_of_teachers
from opdlab.errors import OpdlabError
from opdlab.modelling import models

WITH_ANSWERS = "log-probabilities, teacher scores, tree scoring, gradients and updates"


def diagnose(config: Experiment) -> Iterator[Line]:
    """All lines for an experiment, each as soon as it is known."""
    variants = loader.variants(config)
    yield doctor_machine.one_origin()
    yield doctor_machine.versions()
    yield doctor_machine.device(config)
    yield doctor_machine.benchmarks(config)
    yield doctor_machine.graders_start(*(run for _, run in variants))
    yield doctor_machine.graders(config)
    yield doctor_models.sampling(*(run for _, run in variants))
    for name, run in variants:
        yield doctor_training.objective(name, run)
    cast = yield from load(config)
    if cast is None:
        yield skipped(f"disk, tokenizers, prompts, {WITH_ANSWERS}", "they need the models")
        return
    yield doctor_machine.disk(config, len(repeats(variants)), cast.student)
    for name, (model, tokenizer) in cast.teachers.items():
        pair = (cast.tokenizer, tokenizer, cast.student, model)
        yield named(name, cast, doctor_models.tokenizers(*pair))
        yield named(name, cast, doctor_models.prompts_agree(config, cast.tokenizer, tokenizer))
    yield from doctor_models.rows_are_sound(config, cast.tokenizer)
    try:
        probe = make_probe(config, [run for _, run in variants], cast)
    except OpdlabError as error:
        yield failed("the student answers prompts", str(error), "see the message")
        yield skipped(WITH_ANSWERS, "they need answers to prompts")
        return
    yield doctor_models.answers_fit([run for _, run in variants], probe.prompts, cast)
    yield from look_at(probe, cast)
    for name, run in variants:
        yield doctor_training.float32_sums(name, replace(probe, config=run))
        yield doctor_training.gradient(name, replace(probe, config=run))
        yield doctor_training.updates(name, replace(probe, config=run))


def look_at(probe: Probe, cast: Cast) -> Iterator[Line]:
    """What the student's answers show of it, and of every teacher."""
    if probe.specialists:
        yield from share_of_teachers(probe)
    yield doctor_models.answers_end(probe)
    yield doctor_models.rescored(probe)
    yield doctor_draws.drawn_as_recorded(probe)
    yield doctor_models.self_teacher(probe)
    for name, asked in zip(cast.teachers, probe.by_teacher(), strict=True):
        if asked is not None:
            for line in of_a_teacher(asked):
                yield named(name, cast, line)


def of_a_teacher(probe: Probe) -> Iterator[Line]:
    """What the answers show of one teacher."""
    scored = doctor_models.every_token_scored(probe)
    yield scored
    if scored.status == "FAIL":
        yield skipped("tree scoring is exact, and the same again", "it needs scores")
        return
    yield doctor_models.tree_is_exact(probe)
    yield doctor_models.repeatable(probe)


def named(teacher: str, cast: Cast, line: Line) -> Line:
    """A line with its teacher's name in front, where there are several."""
    return line if len(cast.teachers) == 1 else replace(line, what=f"{teacher}: {line.what}")


def load(config: Experiment) -> Generator[Line, None, Cast | None]:
    """The models, where training would have them, or a line for each that cannot be loaded."""
    sources = {"student": config.student, "teacher": config.teacher}
    sources |= {f"specialists.{i}": one for i, one in enumerate(config.specialists)}
    own, others = doctor_machine.places(config)
    loaded = {}
    for name, source in sources.items():
        device = own if name == "student" else others
        try:
            model = models.load_model(source.path, source.revision, source.dtype, device)
            loaded[name] = (model, models.load_tokenizer(source.path, source.revision))
        except torch.OutOfMemoryError as error:
            remedy = f"take a smaller one or a lower {name}.dtype, or set training.teacher_device"
            yield failed(f"{name} fits on {device}", str(error), remedy)
        except OpdlabError as error:
            yield failed(f"{name} can be loaded", str(error), f"correct {name}.path, or fetch it")
    if len(loaded) < len(sources):
        return None
    student, tokenizer = loaded.pop("student")
    return Cast(student, tokenizer, loaded)


def examine(name: str, overrides: Sequence[str]) -> bool:
    """Print every line; whether none failed."""
    from opdlab.console import console, quieten

    quieten()
    config = loader.load_experiment(name, overrides)
    models.use_threads(config.training.threads)
    count = dict.fromkeys(COLOURS, 0)
    with console.status("looking ..."):
        for line in diagnose(config):
            count[line.status] += 1
            console.print(shown(line))
    console.print(f"{count['pass']} passed, {count['FAIL']} failed, {count['skip']} skipped")
    return count["FAIL"] == 0


COLOURS = {"pass": GREEN, "FAIL": RED, "skip": YELLOW}


def shown(line: Line) -> Table:
    """A line as it is printed: what was found beside its status, the remedy below."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    status = f"{COLOURS[line.status]}{line.status}{END}"
    grid.add_row(status, f"{line.what}: {line.found}")
    if line.remedy:
        grid.add_row("", f"{BOLD}remedy:{END} {line.remedy}")
    return grid
