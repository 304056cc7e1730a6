"""`opdlab doctor FILE`: what could spoil an experiment, looked at before it costs anything.

Every line passes, fails with a remedy, or says why it was skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from rich.table import Table

from opdlab.configuration import Experiment, loader, repeats
from opdlab.console import BOLD, END, GREEN, RED, YELLOW
from opdlab.doctor import (
    draws as doctor_draws,
    machine as doctor_machine,
    models as doctor_models,
    reference as doctor_reference,
    training as doctor_training,
)
from opdlab.doctor.lines import Line, failed, skipped
from opdlab.doctor.probe import TOKENS, Cast, Probe, make_probe, share_of_teachers
from opdlab.doctor.stored import stored
from opdlab.errors import OpdlabError, ServerError
from opdlab.modelling import models
from opdlab.training import adapt, load_source, teachers_end

Runs = Sequence[tuple[str, Experiment]]
Found = TypeVar("Found")
WITH_ANSWERS = "log-probabilities, teacher scores, tree scoring, gradients and updates"


def diagnose(config: Experiment) -> Iterator[Line]:
    """All lines for an experiment, each as soon as it is known."""
    variants = loader.variants(config)
    yield doctor_machine.one_origin()
    yield doctor_machine.versions()
    yield of_all(variants, doctor_machine.device)
    yield doctor_machine.benchmarks(config)
    yield doctor_machine.graders_start(*(run for _, run in variants))
    yield doctor_machine.graders(config)
    yield doctor_models.sampling(*(run for _, run in variants))
    for name, run in variants:
        yield doctor_training.objective(name, run)
    written, scenes = 0, alike(variants)
    for runs in scenes:
        cast = yield from before_name(runs, scenes, load(runs[0][1]))
        if cast is None:
            what = f"disk, tokenizers, prompts, {WITH_ANSWERS}"
            yield from before_name(runs, scenes, iter([skipped(what, "they need the models")]))
            continue
        written += doctor_machine.to_write([one.config for one in repeats(runs)], cast.student)
        yield from before_name(runs, scenes, of_a_cast(runs, cast, written))


def of_a_cast(runs: Runs, cast: Cast, written: int) -> Iterator[Line]:
    """The lines of runs that share models, prompts and the rollout engine.

    Args:
        written: bytes that they will write, and those that come before them.
    """
    config = runs[0][1]
    yield doctor_machine.disk(config, written)
    end = teachers_end(config, list(cast.teachers.values()))
    for name, (model, tokenizer) in cast.teachers.items():
        pair = (cast.tokenizer, tokenizer, cast.student, model)
        yield named(name, cast, doctor_models.tokenizers(*pair, config.prompts.wording, end))
        yield named(name, cast, doctor_models.prompts_agree(config, cast.tokenizer, tokenizer))
    if config.teacher.scores is not None:
        yield from stored(config, cast.student, cast.tokenizer)
        return
    yield from doctor_models.rows_are_sound(config, cast.tokenizer)
    try:
        probe = make_probe(config, [run for _, run in runs], cast)
    except OpdlabError as error:
        # Answers of a probe come from this process, so that a server can only be a teacher's.
        of_server = isinstance(error, ServerError)
        what = "the teacher's server answers" if of_server else "the student answers prompts"
        yield failed(what, str(error), "see the message")
        yield skipped(WITH_ANSWERS, "they need answers to prompts")
        return
    yield from doctor_models.rollout_server(probe)
    yield doctor_models.answers_fit([run for _, run in runs], probe.prompts, cast)
    yield from look_at(probe, cast, runs)
    for name, run in runs:
        yield doctor_training.float32_sums(name, replace(probe, config=run))
        yield doctor_training.gradient(name, replace(probe, config=run))
        yield doctor_training.updates(name, replace(probe, config=run))


def alike(runs: Runs) -> list[Runs]:
    """Runs by what doctor lets answer and score: the same models on the same devices, prompts, engine."""
    found: dict[str, list[tuple[str, Experiment]]] = {}
    for name, run in runs:
        rollout = replace(
            run.rollout, group_size=1, max_new_tokens=min(TOKENS, run.rollout.max_new_tokens)
        )
        keys = {"student", "teacher", "specialists", "prompts"}
        seen = run.model_copy(update={"rollout": rollout}).model_dump_json(
            include=keys | {"rollout"}
        )
        found.setdefault(f"{seen} {doctor_machine.places(run)}", []).append((name, run))
    return list(found.values())


def before_name(
    runs: Runs, scenes: Sequence[Runs], lines: Generator[Line, None, Found] | Iterator[Line]
) -> Generator[Line, None, Found]:
    """Lines with the name of the first run that they are of in front, where not all runs share them."""
    while True:
        try:
            line = next(lines)
        except StopIteration as end:
            return end.value
        own = len(scenes) == 1 or line.what.startswith(tuple(f"{name}: " for name, _ in runs))
        yield line if own else replace(line, what=f"{runs[0][0]}: {line.what}")


def of_all(runs: Runs, check: Callable[[Experiment], Line]) -> Line:
    """A check of every run: the first that fails, with the run's name, else what is said of the first."""
    lines = [(name, check(run)) for name, run in runs]
    for name, line in lines:
        if line.status == "FAIL":
            return line if len(runs) == 1 else replace(line, found=f"run {name}: {line.found}")
    return lines[0][1]


def look_at(probe: Probe, cast: Cast, runs: Runs = ()) -> Iterator[Line]:
    """What the student's answers show of it, and of every teacher.

    Args:
        runs: that would train on them; by default the probe's own experiment.
    """
    if probe.specialists:
        yield from share_of_teachers(probe)
    trained = runs or [("", probe.config)]
    yield of_all(trained, lambda run: doctor_models.answers_end(replace(probe, config=run)))
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
    yield doctor_reference.reference_is_met(probe)
    yield doctor_reference.repeatable(probe)


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
            model, tokenizer = load_source(source)
            if name == "student":
                adapt(model, config)
            if getattr(source, "is_here", True):
                model = model.to(device)  # pyright: ignore[reportArgumentType]
            loaded[name] = model, tokenizer
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
