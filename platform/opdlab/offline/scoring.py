"""Answers of a shard: written or read, graded, scored, and made ready to be stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from opdlab.configuration import Experiment
from opdlab.errors import needing_room
from opdlab.evaluation import Subject
from opdlab.offline.request import Asked
from opdlab.plugins import returned
from opdlab.prompts import PromptSource
from opdlab.records import Problem, Prompt, Questions, Rollout
from opdlab.sampling import Recorded, assemble
from opdlab.scores import Answer, Manifest, asked_for, columns_of, packed
from opdlab.scoring import Scorer, part
from opdlab.seeds import row_seeds
from opdlab.shapes import Int, Tensor
from opdlab.training import Collector, Place, given_responses, outcomes

FAULT = "fault"
"""In place of the verdict on an answer whose grader failed."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that shards are made with.

    Attributes:
        collector: samples answers as a training does.
        device: where models are.
        with_student: whether the student is there: it writes the answers, or has candidates there.
    """

    config: Experiment
    asked: Asked
    collector: Collector
    teacher: Scorer
    prompts: PromptSource
    device: torch.device
    with_student: bool

    @property
    def subject(self) -> Subject:
        return self.collector.subject

    def shard(self, manifest: Manifest, places: range) -> tuple[list[Answer], int]:
        """The answers of a shard that are kept, scored; and how many could not be graded."""
        rollout, problems = self.answers(places)
        verdicts = self.verdicts(rollout, problems)
        return self.scored(manifest, places, rollout, problems, verdicts), verdicts.count(FAULT)

    def scored(
        self,
        manifest: Manifest,
        places: range,
        rollout: Rollout,
        problems: Sequence[Problem],
        verdicts: Sequence[str | None],
    ) -> list[Answer]:
        """Those of some answers that are kept, with their scores."""
        rows = [row for row, verdict in enumerate(verdicts) if verdict in (None, "correct")]
        if not rows:
            return []
        known = [
            (place, seed, problem.benchmark, problem.id, verdict)
            for place, seed, problem, verdict in zip(
                places, rollout.seeds.tolist(), problems, verdicts, strict=True
            )
        ]
        if len(rows) < len(known):
            rollout = _rows_of(rollout.host, torch.tensor(rows))
            known = [known[row] for row in rows]
        questions = self.questions(rollout)
        with needing_room("scoring"), self.precision():
            scores = self.teacher.score(rollout, asked_for(manifest.kind_of, questions))
            told = bool(manifest.student_told)
            names = columns_of(manifest.kind_of, manifest.candidates_of, told)
            kept = range(len(known))
            return packed(
                manifest.kind_of,
                names,
                rollout,
                questions,
                scores,
                self.teacher,
                known,
                kept,
            )

    def answers(self, places: range) -> tuple[Rollout, list[Problem]]:
        """Answers at some places, prompt by prompt, on the host, with the problem of each."""
        samples = self.asked.samples
        numbers = range(places.start // samples, -(-places.stop // samples))
        if self.asked.answers == "given" and not self.with_student:
            prompts = [self.prompts.prompt(number) for number in numbers]
            return self.read(prompts, numbers), [prompt.problem for prompt in prompts]
        with self.precision():
            found = self.collector.sample(numbers, Place(0, 1, self.device))
        return found.rollout.host, found.problems

    def read(self, prompts: Sequence[Prompt], numbers: Sequence[int]) -> Rollout:
        """Given answers, without a student's word on them."""
        responses = given_responses(prompts, self.subject, self.config.rollout.max_new_tokens)
        tokens = sum(map(len, responses))
        none = torch.full((tokens,), torch.nan)
        recorded = Recorded(
            none, none, torch.zeros((tokens, 0), dtype=torch.long), none[:, None][:, :0]
        )
        return assemble(
            [prompt.tokens for prompt in prompts],
            responses,
            recorded,
            row_seeds(self.config.seed, list(numbers)),
            self.subject.eos_ids,
            self.subject.pad_id,
        )

    def verdicts(self, rollout: Rollout, problems: list[Problem]) -> list[str | None]:
        """What the grader says of each answer; None where nobody asked."""
        if self.asked.keep == "all":
            return [None] * len(problems)
        grades = outcomes(rollout, problems, self.prompts, self.subject.tokenizer).tolist()
        words = {1.0: "correct", 0.0: "wrong"}
        return [words.get(grade, FAULT) for grade in grades]

    def questions(self, rollout: Rollout) -> Questions:
        """What the experiment's method asks about candidates."""
        asked = returned.questions(self.config.method, rollout, self.subject.vocabulary)
        if not self.config.method.group:
            asked = replace(asked, candidates=rollout.candidates[:, :0])
        return asked

    def precision(self) -> AbstractContextManager[object]:
        """What a training of this experiment computes in."""
        formats = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
        chosen = formats.get(self.config.training.precision)
        kind = self.device.type
        return torch.autocast(kind, dtype=chosen, enabled=chosen is not None)


def _rows_of(rollout: Rollout, rows: Int[Tensor, "b"]) -> Rollout:
    """Some rows of a rollout, with what the student said of its candidates there."""
    found, place = part(rollout, rows)
    said = rollout.candidate_log_prob
    return found if said is None else replace(found, candidate_log_prob=said[place])
