"""Answers that a run has drawn already: those of its last evaluation, as they are stored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opdlab.errors import DataError, UnfitError
from opdlab.evaluation import SampleSet, last_sets
from opdlab.identity import digest
from opdlab.modelling import Wording, models
from opdlab.prompts import PromptSource, as_tokens, continued
from opdlab.records import REFUSED, Generation, Problem, Prompt, Sample, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EOS = "eos"
_WEIGHED = re.compile(r"-?(\d+\.\d{6}|inf)\t.*")
"""A line of what is stored of choices that were weighed: a log-probability and the choice."""


class RecordedAnswers(PromptSource):
    """Prompts of a run's last evaluation, each with one answer of those that were drawn to it.

    A run holds texts, whose tokens are made again: `retokenised` counts answers that have another number of
    tokens than when they were drawn. What a server refused has no answer, and choices that were
    weighed were not drawn: both are left out. A prefill, which no model wrote, belongs to the prompt.

    Raises:
        DataError: the evaluation is not finished, its answers were drawn in another chat template, or some
            could not be graded and right ones are asked for.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        template: Wording | str,
        seed: int,
        correct: bool,
    ) -> None:
        super().__init__(tokenizer, template, seed)
        self.folder, self.sets = folder, last_sets(folder)
        self._require_same()
        every = [sample for one in self.sets for sample in _drawn(one)]
        self.samples = [one for one in every if one.stop != REFUSED and not weighed_choices(one)]
        self.count = len(self.samples)
        if not self.samples:
            raise DataError(f"{folder} holds no answers; evaluate a model there (`opdlab eval`)")
        if correct and (faults := sum(one.status in Verdict.FAULTS for one in self.samples)):
            raise DataError(
                f"{folder}: {faults} of its answers could not be graded, so it is unknown whether "
                "they are right; grade them again with `opdlab regrade`, or take --keep all"
            )

    @cached_property
    def retokenised(self) -> int:
        return sum(self._response(one) != one.tokens for one in self.samples)

    def leave_out(self, read: Callable[[Prompt], object]) -> list[str]:
        """Leave out answers of which a reader raises UnfitError; why, of each.

        Raises:
            DataError: none is left.
        """
        kept, why = [], list[str]()
        for index, one in enumerate(self.samples):
            try:
                read(self.prompt(index))
                kept.append(one)
            except UnfitError as error:
                why.append(error.why)
        if not kept:
            raise DataError(f"{self.folder} holds no answers that can be scored: {why[0]}")
        self.samples, self.count = kept, len(kept)
        return why

    def _require_same(self) -> None:
        mine = models.template_sha256(self.tokenizer, self.wording.template)
        for one in self.sets:
            if one.asked.subject.template != mine:
                raise DataError(
                    f"{self.folder} holds answers to prompts in another chat template than that of "
                    f"{self.tokenizer.name_or_path} with prompts.template: {self.wording.template}; set "
                    "the template that it was evaluated with, or take --answers student"
                )

    def _response(self, sample: Sample) -> int:
        """Tokens of an answer, its end included."""
        ids = continued(self.tokenizer, sample.prompt, sample.completion)
        return len(ids) + (sample.stop == EOS)

    @property
    def graders(self) -> list[str]:
        return sorted({f"{one.asked.benchmark} {one.asked.grader}" for one in self.sets})

    def by(self, weights: str) -> bool:
        """Whether a model with weights of this hash wrote all of them."""
        return all(one.asked.subject.weights == weights for one in self.sets)

    def problem(self, index: int) -> Problem:
        one = self.samples[index % len(self.samples)]
        cut = one.stop != EOS
        extra = {"given": one.completion, "shown": one.prompt, "cut": cut, "status": one.status}
        return Problem(one.benchmark, one.problem, one.prompt, None, extra)

    def prompt(self, index: int) -> Prompt:
        problem = self.problem(index)
        return Prompt(problem, as_tokens(self.tokenizer, problem.prompt, self.wording))

    def at_most(self, index: int) -> int:
        return len(self.prompt(index).tokens)

    def verdicts(self, places: Sequence[int]) -> list[str]:
        """What the grader said of answers."""
        return [self.samples[place].status for place in places]

    def manifest(self) -> dict[str, Any]:
        told = [
            [
                one.benchmark,
                one.problem,
                one.index,
                one.prompt,
                one.completion,
                one.stop,
                one.status,
            ]
            for one in self.samples
        ]
        origin = {"type": "run", "path": str(self.folder), "subjects": self._subjects}
        return {**origin, "count": self.count, "sha256": digest(told)}

    @property
    def _subjects(self) -> list[str]:
        return sorted({one.asked.subject.key for one in self.sets})


def _drawn(one: SampleSet) -> Iterator[Sample]:
    """The samples of a set, their prompts with the prefill and their completions without."""
    prefill = Wording.read(one.asked.template).prefill
    for sample in one.samples():
        text = sample.completion.removeprefix(prefill)
        yield replace(sample, prompt=sample.prompt + prefill, completion=text)


def weighed_choices(sample: Sample | Generation) -> bool:
    """Whether a sample tells log-probabilities of choices, as `opdlab.evaluation.weighing` writes them."""
    lines = sample.completion.split("\n")
    return sample.tokens == len(lines) and all(map(_WEIGHED.fullmatch, lines))
