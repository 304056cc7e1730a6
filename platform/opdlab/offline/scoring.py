"""Answers of a shard: written or read, graded, scored, and made ready to be stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch

from opdlab.configuration import Experiment
from opdlab.errors import RefusedError, naming_requests, needing_room
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
from opdlab.training import Collector, Place, given_responses, given_rollout, outcomes

LOG = logging.getLogger(__name__)

FAULT = "fault"
"""In place of the verdict on an answer whose grader failed."""


@contextmanager
def refusals() -> Iterator[list[RefusedError]]:
    """Takes in that a server refused some requests, and tells it: what was not refused goes on.

    Raises:
        RefusedError: the server answered none.
    """
    found = list[RefusedError]()
    try:
        yield found
    except RefusedError as error:
        if error.ended:
            raise
        found.append(error)
        LOG.warning("%s", error)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Answers that were sampled, or read, together.

    Attributes:
        places: their numbers among those that were asked for; a row each.
        rollout: on the host; None where a server refused some of them.
        verdicts: of the grader, or `FAULT`; None where nobody asked.
    """

    places: range
    rollout: Rollout | None
    problems: Sequence[Problem]
    verdicts: Sequence[str | None]

    def faults(self, places: range) -> int:
        """How many at some places were not graded, or are not there."""
        return sum(self.verdicts[self.places.index(place)] == FAULT for place in places)


@dataclass(frozen=True, eq=False)
class Job:
    """All that shards are made with.

    Attributes:
        collector: samples answers as a training does.
        together: answers that are sampled together; whole prompts.
        device: where models are.
        with_student: whether the student is there: it writes the answers, or has candidates there.
    """

    config: Experiment
    asked: Asked
    collector: Collector
    teacher: Scorer
    prompts: PromptSource
    together: int
    device: torch.device
    with_student: bool

    @property
    def subject(self) -> Subject:
        return self.collector.subject

    def shards_together(self, manifest: Manifest) -> int:
        """Shards that follow each other whose answers are sampled together."""
        return max(1, self.together // manifest.rows)

    def shards(
        self, manifest: Manifest, wanted: Iterable[range]
    ) -> Iterator[tuple[list[Answer], int]]:
        """The answers of each shard that are kept, scored; and how many were refused or not graded.

        Args:
            wanted: places of the shards; of what is sampled together, one after the other.

        Raises:
            RefusedError: a server answered nothing of a batch.
        """
        drawn: Drawn | None = None
        for places in wanted:
            kept, failed = list[Answer](), 0
            for batch in self.batches(manifest, places):
                if drawn is None or drawn.places != batch:
                    drawn = self.drawn(batch)
                mine = range(max(batch.start, places.start), min(batch.stop, places.stop))
                failed += drawn.faults(mine)
                if not failed:
                    with refusals() as refused:
                        kept += self.scored(manifest, drawn, mine)
                    failed += sum(one.refused for one in refused)
            yield kept, failed

    def batches(self, manifest: Manifest, places: range) -> Iterator[range]:
        """Places that are sampled together, some of which are a shard's."""
        unit = self.shards_together(manifest) * manifest.rows
        first = places.start // unit * unit
        last = min(first + unit, manifest.count)
        for start in range(first, last, self.together):
            batch = range(start, min(start + self.together, last))
            if batch.start < places.stop and places.start < batch.stop:
                yield batch

    def scored(self, manifest: Manifest, drawn: Drawn, places: range) -> list[Answer]:
        """Those at some places that are kept, with their scores."""
        at = [drawn.places.index(place) for place in places]
        rows = [row for row in at if drawn.verdicts[row] in (None, "correct")]
        if not rows:
            return []
        rollout = drawn.rollout
        assert rollout is not None
        seeds = rollout.seeds.tolist()
        known = [
            (
                drawn.places[row],
                seeds[row],
                drawn.problems[row].benchmark,
                drawn.problems[row].id,
                drawn.verdicts[row],
            )
            for row in rows
        ]
        if len(rows) < len(seeds):
            rollout = _rows_of(rollout, torch.tensor(rows))
        questions = self.questions(rollout)
        named = naming_requests(lambda row: f"the answer to {drawn.problems[rows[row]].named}")
        with named, needing_room("scoring"), self.precision():
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

    def drawn(self, places: range) -> Drawn:
        """Answers at some places, prompt by prompt."""
        samples = self.asked.samples
        numbers = range(places.start // samples, -(-places.stop // samples))
        if not self.asked.sampled and (self.asked.answers == "run" or not self.with_student):
            prompts = [self.prompts.prompt(number) for number in numbers]
            rollout, problems = self.read(prompts, numbers), [one.problem for one in prompts]
        else:
            self.collector.refused = []
            with refusals() as refused, self.precision():
                found = self.collector.sample(numbers, Place(0, 1, self.device))
            # A training would go on without some prompts; here each place has its row.
            if refused or self.collector.refused:
                return Drawn(places, None, (), [FAULT] * len(places))
            rollout, problems = found.rollout.host, found.problems
        return Drawn(places, rollout, problems, self.verdicts(rollout, problems))

    def read(self, prompts: Sequence[Prompt], numbers: Sequence[int]) -> Rollout:
        """Given answers, with the student's word on them where it is there."""
        most, seeds = self.config.rollout.max_new_tokens, row_seeds(self.config.seed, list(numbers))
        if self.with_student:
            group = self.config.method.group
            with self.precision():
                return given_rollout(prompts, self.subject, seeds, most, group).host
        responses = given_responses(prompts, self.subject, most)
        tokens = sum(map(len, responses))
        none = torch.full((tokens,), torch.nan)
        recorded = Recorded(
            none, none, torch.zeros((tokens, 0), dtype=torch.long), none[:, None][:, :0]
        )
        return assemble(
            [prompt.tokens for prompt in prompts],
            responses,
            recorded,
            seeds,
            self.subject.eos_ids,
            self.subject.pad_id,
        )

    def verdicts(self, rollout: Rollout, problems: list[Problem]) -> list[str | None]:
        """What the grader says of each answer; None where nobody asked."""
        if self.asked.keep == "all":
            return [None] * len(problems)
        if self.asked.answers == "run":
            return [one.extra["status"] for one in problems]
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
