"""`opdlab score`: the teacher's scores of many answers, into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from warnings import warn

import torch
from transformers import PreTrainedModel

from opdlab.configuration import Experiment
from opdlab.console import BOLD, END, StopRequest, console, duration, progress_bar, quieten
from opdlab.errors import UnfitError
from opdlab.identity import learned, now
from opdlab.modelling import models
from opdlab.offline.page import require_free_page, write_answers
from opdlab.offline.recorded import RecordedAnswers
from opdlab.offline.request import (
    Asked,
    candidates_of,
    count_of,
    prepared,
    rows_a_shard,
    rows_together,
)
from opdlab.offline.scoring import Job
from opdlab.prompts import PromptSource, open_prompts
from opdlab.records import Prompt
from opdlab.scores import Manifest, Scores, Writer, begin, save_teacher
from opdlab.training import (
    Collector,
    Loaded,
    Pair,
    answer_ids,
    contents,
    contexts,
    expect,
    load_pair,
    misfit,
    require_accelerator,
    require_answered,
)

NAMED = 3
"""Answers that are left out, of which the reason is told."""


@dataclass(frozen=True)
class Stored:
    """What is in the folder now.

    Attributes:
        answers, left_out, tokens, bytes: of all shards that are there.
        missing: shards that are not there yet.
        faults: answers that this process could not grade, or that a server refused, with those that were
            asked for together with them; it wrote none of their shards.
        seconds: this process took.
        samples: answers to each prompt, where they were graded; None where nobody asked.
    """

    folder: Path
    answers: int
    left_out: int
    tokens: int
    bytes: int
    missing: int
    faults: int
    seconds: float
    samples: int | None = None

    @property
    def mean(self) -> float | None:
        """The share of right answers, of k samples to each prompt mean@k.

        None where nobody graded them, or while shards are missing: those are no random part of all.
        """
        graded = self.answers + self.left_out
        known = self.samples is not None and self.finished and graded
        return self.answers / graded if known else None

    @property
    def finished(self) -> bool:
        """Whether all shards are there."""
        return not self.missing

    @property
    def scores(self) -> Scores:
        """The store, where it is finished."""
        return Scores(self.folder)

    @property
    def told(self) -> str:
        """What is there, in a sentence."""
        left = f" ({self.left_out:,} left out)" if self.left_out else ""
        if self.mean is not None:
            left = f" ({self.left_out:,} left out; mean@{self.samples} {self.mean:.1%})"
        each = self.bytes / max(1, self.tokens)
        why = "other processes held them; where one was stopped, run the same command again"
        if self.faults:
            what = "answers not graded, or refused by a server, with the rest of their batch"
            why = f"{what}: {self.faults:,}; run the same command again"
        end = f"; not finished, missing shards: {self.missing:,} ({why})" if self.missing else ""
        return (
            f"{self.folder}: {self.answers:,} answers{left}, {self.tokens:,} tokens, "
            f"{self.bytes / 1e6:,.1f} MB, {each:,.0f} bytes a token{end}"
        )


def score(config: Experiment, asked: Asked, out: Path) -> Stored:
    """Score answers and keep the scores in a folder; the same call again goes on.

    Raises:
        ConfigError: the experiment does not go with what is asked.
        ResumeError: the folder holds other scores.
        ModelError, DataError, ServerError: models or answers cannot be used, or another file stands in the
            place of the page.
    """
    begun = perf_counter()
    folder = out.expanduser()
    require_free_page(folder)
    job, pair = opened(config, asked)
    manifest, save = describe(job, pair)
    manifest = begin(folder, manifest, save)
    expect([job.teacher], [manifest.teacher])
    writer = Writer(folder, manifest)
    faults = 0
    if not writer.finish():
        with StopRequest() as stop:
            faults = _work(job, writer, stop)
    notes = writer.written
    if writer.finish() and any(note.answers for note in notes):
        write_answers(Scores(folder))
    return Stored(
        folder,
        sum(note.answers for note in notes),
        sum(note.left_out for note in notes),
        sum(note.tokens for note in notes),
        sum(note.bytes for note in notes),
        manifest.shards - len(notes),
        faults,
        perf_counter() - begun,
        asked.samples if asked.keep == "correct" and asked.run is None else None,
    )


def opened(config: Experiment, asked: Asked) -> tuple[Job, Pair]:
    """What scores the answers, ready to work."""
    quieten()
    models.use_threads(config.training.threads)
    require_accelerator(config.training)
    together = rows_together(config, asked.samples)
    config = prepared(config, asked)
    pair, with_student = load(config, asked)
    return make_job(config, asked, pair, with_student, together), pair


def load(config: Experiment, asked: Asked) -> tuple[Pair, bool]:
    """The models; the student without weights where nobody asks it anything."""
    with_student = asked.answers == "student" or candidates_of(config.method) is not None
    student: Loaded | None = None
    if not with_student:
        path, revision = config.student.path, config.student.revision
        student = models.load_shell(path, revision), models.load_tokenizer(path, revision)
    return load_pair(config, student), with_student


def make_job(
    config: Experiment, asked: Asked, pair: Pair, with_student: bool, together: int
) -> Job:
    """What shards are made with, each model where it works."""
    prompts = opened_prompts(config, asked, pair)
    if asked.keep == "correct":
        prompts.require_graders()
    count = count_of(prompts, asked, config.name)
    require_answered(prompts, count, config, pair, not asked.sampled)
    device = torch.device(models.device(config.training.accelerator))
    teacher, _ = pair.scorers(config)
    if with_student:
        pair.student.to(device)  # pyright: ignore[reportArgumentType]
    teacher.place(torch.device(config.training.teacher_device or device), config.teacher.offload)
    student = pair.subject(pair.student, config)
    collector = Collector(config, student, teacher, prompts, (), pair.ends(pair.teacher))
    return Job(config, asked, collector, teacher, prompts, together, device, with_student)


def opened_prompts(config: Experiment, asked: Asked, pair: Pair) -> PromptSource:
    """The prompts of the experiment, or those of a run with its answers."""
    if asked.run is None:
        benchmarks = config.evaluation.benchmarks
        return open_prompts(config.prompts, pair.tokenizer, config.seed, benchmarks)
    correct = asked.keep == "correct"
    wording = config.prompts.wording
    found = RecordedAnswers(asked.run, pair.tokenizer, wording, config.seed, correct)
    every, ends, most = found.count, pair.ends(pair.student), config.rollout.max_new_tokens
    served = contexts([config])

    def read(prompt: Prompt) -> None:
        answer_ids(prompt, pair.tokenizer, ends, most, pair.vocabulary, wording)
        if why := misfit(prompt, most, pair, served):
            raise UnfitError(*why)

    odd = found.leave_out(read)
    if odd:
        warn(
            f"{asked.run}: {len(odd)} of its {every} answers cannot be scored and are left out: "
            + "; ".join(odd[:NAMED])
            + ("; ..." if len(odd) > NAMED else ""),
            stacklevel=2,
        )
    if found.retokenised:
        warn(
            f"{asked.run}: {found.retokenised} of its {found.count} answers have other tokens than those "
            "that were drawn, since a run holds texts; they are scored as this tokenizer reads them",
            stacklevel=2,
        )
    return found


def describe(job: Job, pair: Pair) -> tuple[Manifest, Callable[[Path], None]]:
    """What the store is of, and what writes the teacher's files into it."""
    config, asked = job.config, job.asked
    prompts = count_of(job.prompts, asked, config.name)
    width = width_of(pair.teacher)
    candidates = candidates_of(config.method)
    template = config.prompts.template
    teacher = contents(config.teacher, pair.teacher, template)
    source = config.student
    known = [source.path, source.revision, template]
    student = models.manifest(pair.student, *known) if job.with_student else told_of(pair, config)
    longest = config.rollout.max_new_tokens
    manifest = Manifest(
        id="",
        begun=now(),
        kind=asdict(asked.kind),
        candidates=None if candidates is None else asdict(candidates),
        answers=answers_told(job, prompts, teacher),
        vocabulary=pair.vocabulary,
        rows=rows_a_shard(asked.kind, pair.vocabulary, width, longest, asked.samples),
        student_told=job.with_student,
        teacher=teacher,
        student=student,
        prompts=job.prompts.manifest(),
        wording=str(config.prompts.wording),
        eos_ids=list(job.subject.eos_ids),
        pad_id=job.subject.pad_id,
    )
    head = asked.kind.name == "hidden"
    return manifest, lambda folder: save_teacher(folder, pair.teacher, pair.teacher_tokenizer, head)


def answers_told(job: Job, prompts: int, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Whose the answers are, and how they come about."""
    config, asked = job.config, job.asked
    sampled = {
        "temperature": config.rollout.temperature,
        "top_p": config.rollout.top_p,
        "engine": learned(config.model_dump(mode="json"))["rollout"],
    }
    return {
        "from": asked.answers,
        "count": prompts * asked.samples,
        "samples": asked.samples,
        "keep": asked.keep,
        "seed": config.seed,
        "max_new_tokens": config.rollout.max_new_tokens,
        "precision": config.training.precision,
        **(sampled if asked.sampled else {}),
        **({"by_teacher": _by_teacher(job, teacher)} if asked.answers == "run" else {}),
        **({"graders": job.prompts.graders} if asked.keep == "correct" else {}),
    }


def _by_teacher(job: Job, teacher: Mapping[str, Any]) -> bool:
    """Whether the answers of a run are the teacher's own."""
    weights = teacher.get("weights_sha256")
    return isinstance(job.prompts, RecordedAnswers) and bool(weights) and job.prompts.by(weights)


def width_of(model: PreTrainedModel) -> int:
    """Numbers of a hidden state as the vocabulary projection takes it."""
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        return head.in_features
    return int(model.config.get_text_config().hidden_size)


def told_of(pair: Pair, config: Experiment) -> dict[str, str]:
    """What identifies a student that is asked nothing: how it reads texts."""
    tokenizer, template = pair.tokenizer, config.prompts.template
    return {
        "tokenizer_sha256": models.tokenizer_sha256(tokenizer),
        "template_sha256": models.template_sha256(tokenizer, template),
    }


def _work(job: Job, writer: Writer, stop: StopRequest) -> int:
    """Make the shards that nobody has made, one after the other; how many answers could not be graded.

    A shard with such an answer is not written, so that the same command asks the grader again.
    """
    count = writer.manifest.count
    console.print(f"{BOLD}{job.config.name}{END} -> {writer.folder}", soft_wrap=True)
    tokens, faults, begun = 0, 0, perf_counter()
    with progress_bar() as bar:
        task = bar.add_task("answers", total=count, completed=writer.done)
        for numbers in writer.missing(job.shards_together(writer.manifest)):
            stop.check()
            places, started = [writer.places(number) for number in numbers], perf_counter()
            made = job.shards(writer.manifest, places)
            for number, (answers, failed) in zip(numbers, made, strict=True):
                if failed:
                    faults += failed
                    continue
                note = writer.write(number, answers, perf_counter() - started)
                tokens += note.tokens
                bar.figures = f"{tokens / (perf_counter() - begun):,.0f} tokens a second"
                bar.update(task, completed=writer.done)  # with what other processes wrote
                started = perf_counter()
                stop.check()
        stop.check()
    took = perf_counter() - begun
    console.print(
        f"{tokens:,} tokens in {duration(took)}: {tokens / max(took, 1e-9):,.0f} tokens a second"
    )
    return faults
