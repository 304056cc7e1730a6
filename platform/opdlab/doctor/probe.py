"""What doctor looks at: a few answers of the student to prompts of every teacher's domains."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opdlab.configuration import Experiment
from opdlab.doctor.lines import Line, failed, passed, skipped
from opdlab.doctor.rounding import Tolerance, tolerance
from opdlab.modelling import log_distribution, models
from opdlab.plugins import returned
from opdlab.prompts import PromptSource, open_prompts
from opdlab.records import ONE_STEP, Lookahead, Prompt, Questions, Rollout, TeacherScores
from opdlab.scoring import (
    Scorer,
    Specialist,
    Teacher,
    chosen,
    part,
    score_by_domain,
    states_before_tokens,
)
from opdlab.shapes import Float, Tensor
from opdlab.training import make_scorer, require_within

ROWS, TOKENS, CANDIDATES = 8, 64, 4
SEARCHED = 512
"""Prompts among which a teacher's domains, and the longest one, are looked for."""


@dataclass(frozen=True)
class Cast:
    """The models of an experiment as loaded.

    Attributes:
        teachers: model and tokenizer by their key in the file; `teacher` first, then `specialists.0` ...
    """

    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    teachers: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]


@dataclass(frozen=True)
class Probe:
    """A few answers of the student, with all that is needed to look at them.

    Attributes:
        teacher: scores them; `itself` is the student in the teacher's place.
        problems: prompt of each row.
        specialists: score the rows of their domains in the teacher's place.
        confidences: that the experiment's methods ask for: the measure, and how far it looks ahead.
    """

    config: Experiment
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    teacher: Scorer
    itself: Scorer
    vocabulary: int
    prompts: PromptSource
    problems: list[Prompt]
    rollout: Rollout
    specialists: tuple[Specialist, ...] = ()
    confidences: frozenset[tuple[str, Lookahead]] = frozenset({("max_prob", ONE_STEP)})

    @property
    def domains(self) -> list[str]:
        """Domain of each row."""
        return [prompt.problem.benchmark for prompt in self.problems]

    @cached_property
    def student_tolerance(self) -> Tolerance:
        row = self.rollout.row
        return tolerance(self.student.dtype, row, lambda: [self.training_log_probs()])

    @cached_property
    def teacher_tolerance(self) -> Tolerance:
        """Of a teacher that is here."""
        teacher, rows = self.teacher, range(len(self.rollout.tokens))
        assert isinstance(teacher, Teacher)
        return tolerance(
            teacher.dtype,
            self.rollout.row,
            lambda: (teacher.reference_log_probs(self.rollout, row) for row in rows),
        )

    @torch.no_grad()
    def training_log_probs(self) -> Float[Tensor, "T V"]:
        """log pi_S before each token by the forward pass that training uses."""
        hidden = states_before_tokens(self.student, self.rollout)
        return log_distribution(self.student, hidden, self.vocabulary)

    def score(self, questions: Questions) -> TeacherScores:
        """Every row's own teacher's answers, as in training."""
        teacher = self.teacher.device
        rollout = self.rollout.to(teacher)
        questions = replace(questions, candidates=questions.candidates.to(teacher))
        if not self.specialists:
            found = self.teacher.score(rollout, questions)
        else:
            general, others = self.teacher, self.specialists
            found = score_by_domain(general, others, rollout, questions, self.domains)
        return found.to(self.student.device)

    def more(self, problem: Prompt, seeds: Sequence[int]) -> Rollout:
        """Answers to one prompt, one to each seed."""
        asked = [problem] * len(seeds)
        return draw(self.config, self.student, self.tokenizer, asked, seeds, 0, self.vocabulary)

    def by_teacher(self) -> list[Probe | None]:
        """For each teacher, the general one first, the rows that it scores; None where there are none."""
        patterns = [one.domains for one in self.specialists]
        mine = [chosen(domain, patterns) for domain in self.domains]
        probes: list[Probe | None] = []
        for number in (None, *range(len(self.specialists))):
            rows = [row for row, each in enumerate(mine) if each == number]
            teacher = self.teacher if number is None else self.specialists[number].teacher
            probes.append(self.only(rows, teacher) if rows else None)
        return probes

    def only(self, rows: Sequence[int], teacher: Scorer) -> Probe:
        """Some rows, and one teacher for them, on its device."""
        chosen_rows = torch.tensor(rows, device=self.rollout.tokens.device)
        rollout = part(self.rollout, chosen_rows)[0].to(teacher.device)
        problems = [self.problems[row] for row in rows]
        return replace(self, teacher=teacher, specialists=(), problems=problems, rollout=rollout)


def make_probe(config: Experiment, runs: Sequence[Experiment], cast: Cast) -> Probe:
    """Let the student answer a few of the experiment's prompts, as training would, but not for long.

    Args:
        runs: of the experiment; there are as many answers to a prompt, and candidates, as any needs.
    """
    student, tokenizer = cast.student, cast.tokenizer
    shared = min(
        models.count_shared(tokenizer, theirs, student, model)
        for model, theirs in cast.teachers.values()
    )
    require_within(config, shared)
    prompts = open_prompts(config.prompts, tokenizer, config.seed, config.evaluation.benchmarks)
    group = max(run.rollout.group_size for run in runs)
    asked = [
        prompts.prompt(index)
        for index in places(config, prompts, max(1, ROWS // group))
        for _ in range(group)
    ]
    candidates = max(CANDIDATES, *(run.method.group for run in runs))
    rollout = draw(config, student, tokenizer, asked, range(len(asked)), candidates, shared)
    sources = (config.teacher, *config.specialists)
    general, *others = (
        make_scorer(source, model, shared).probe()
        for source, (model, _) in zip(sources, cast.teachers.values(), strict=True)
    )
    specialists = [
        Specialist(tuple(one.domains), teacher)
        for one, teacher in zip(config.specialists, others, strict=True)
    ]
    itself = Teacher(copy.deepcopy(student), shared).probe()
    return Probe(
        config,
        student,
        tokenizer,
        general,
        itself,
        shared,
        prompts,
        asked,
        rollout,
        tuple(specialists),
        frozenset(
            (asked.measure, asked.lookahead)
            for asked in (returned.questions(run.method, rollout, shared) for run in runs)
        ),
    )


def draw(
    config: Experiment,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Prompt],
    seeds: Sequence[int],
    candidates: int,
    vocabulary: int,
) -> Rollout:
    """Short answers to prompts, by the experiment's engine; in this process where that is a server.

    A server may be training another student now, whose weights must stay.
    """
    engine = config.rollout.in_process()
    return returned.sample(
        replace(engine, max_new_tokens=min(TOKENS, config.rollout.max_new_tokens)),
        student,
        [prompt.tokens for prompt in asked],
        list(seeds),
        eos_ids=models.require_end(student, tokenizer, vocabulary, config.prompts.wording),
        pad_id=models.pad_id(student, tokenizer, vocabulary),
        top_k=candidates,
        vocabulary=vocabulary,
    )


def places(config: Experiment, prompts: PromptSource, count: int) -> list[int]:
    """Where in the sequence of prompts to look: the first of every teacher, so many in all or one each."""
    if not config.specialists:
        return list(range(count))
    patterns = [one.domains for one in config.specialists]
    found: dict[int | None, list[int]] = {}
    for index in range(SEARCHED):
        found.setdefault(chosen(prompts.problem(index).benchmark, patterns), []).append(index)
    each = max(1, count // len(found))
    return sorted(index for mine in found.values() for index in mine[:each])


def share_of_teachers(probe: Probe) -> list[Line]:
    """Whether every specialist is ever asked: a mistyped domain would leave it idle, unnoticed."""
    patterns = [one.domains for one in probe.specialists]
    domains = [probe.prompts.problem(index).benchmark for index in range(SEARCHED)]
    mine = [chosen(domain, patterns) for domain in domains]
    lines = []
    for number in (None, *range(len(patterns))):
        name = "teacher" if number is None else f"specialists.{number}"
        what = f"{name}: some prompts are its own"
        share = mine.count(number) / SEARCHED
        if share:
            lines.append(passed(what, f"{share:.0%} of the first {SEARCHED}"))
        elif number is None:
            lines.append(skipped(what, "specialists score all prompts; it will have nothing to do"))
        else:
            lines.append(
                failed(
                    what,
                    f"none of the first {SEARCHED} is of {', '.join(patterns[number])}; they are of "
                    f"{', '.join(sorted(set(domains)))}",
                    f"correct {name}.domains, or leave the specialist out",
                )
            )
    return lines
