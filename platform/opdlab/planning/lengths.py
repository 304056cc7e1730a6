"""How long the prompts of an experiment are, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from opdlab.configuration import Experiment, loader
from opdlab.modelling import models
from opdlab.prompts import (
    DatasetSource,
    Unknown,
    open_dataset,
    open_prompts,
    overlap_of,
    remarks,
)

PROMPTS_READ = 256
LONGEST_READ = 8
ASSUMED = 1024
"""Tokens of the longest prompt, where the prompts are not here and nothing limits them."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts that were looked at.

    Attributes:
        first: of the first prompts.
        longest: of the rows of a dataset with the most characters; none of prompts without an end.
        rows: of the dataset; None where there is no end of prompts.
        unknown: how much of the first prompts the student's tokenizer does not know.
        remarks: on rows that are left out, twice there, or problems of the benchmarks.
    """

    first: list[int]
    longest: list[int]
    rows: int | None
    unknown: Unknown
    remarks: Sequence[str] = ()

    @property
    def most(self) -> int:
        """Tokens of the longest prompt seen."""
        return max(self.first + self.longest)

    @property
    def mean_and_most(self) -> str:
        """Both, as the plan shows them."""
        return f"{sum(self.first) / len(self.first):.0f}, {self.most}"

    def looked_at(self, run: Experiment) -> str:
        """How many of the prompts that a run will draw."""
        drawn = run.training.rollouts * run.training.prompts_per_step
        there = drawn if self.rows is None else self.rows
        count = min(len(self.first), there)
        also = " and the longest" if self.longest and count < there else ""
        return f"{count:,} of {there:,}{also}"


def assumed(config: Experiment) -> int:
    """Tokens of the longest prompt of data that cannot be read here."""
    return getattr(config.prompts, "max_prompt_tokens", None) or ASSUMED


def longest_prompt(config: Experiment) -> int:
    """Tokens of the longest prompt that was seen, over all runs."""
    return max(one.most for one in prompt_lengths(loader.variants(config)).values())


def prompt_lengths(runs: Sequence[tuple[str, Experiment]]) -> dict[str, Lengths]:
    """What each run will ask, by its name; prompts that several ask are read once."""
    read: list[tuple[Experiment, Lengths]] = []
    found: dict[str, Lengths] = {}
    for name, run in runs:
        shared = (lengths for other, lengths in read if _asks_the_same(run, other))
        found[name] = next(shared, None) or _read(run)
        read.append((run, found[name]))
    return found


def _asks_the_same(run: Experiment, other: Experiment) -> bool:
    return (run.prompts, run.seed, run.student) == (other.prompts, other.seed, other.student)


def _read(run: Experiment) -> Lengths:
    """Of the first prompts, and of the longest ones of a dataset."""
    tokenizer = models.load_tokenizer(run.student.path, run.student.revision)
    prompts = open_prompts(run.prompts, tokenizer, run.seed, run.evaluation.benchmarks)
    count = min(PROMPTS_READ, prompts.count or PROMPTS_READ)
    return Lengths(
        [len(prompts.prompt(index).tokens) for index in range(count)],
        prompts.longest(LONGEST_READ) if isinstance(prompts, DatasetSource) else [],
        prompts.count,
        prompts.unknown(),
        _remarks(run, tokenizer),
    )


def _remarks(config: Experiment, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a data set's rows need to be told of; reading them a second time costs nothing."""
    if config.prompts.type != "dataset":
        return []
    benchmarks = config.evaluation.benchmarks
    opened = open_dataset(config.prompts, tokenizer, config.seed, benchmarks)
    shared = "" if config.prompts.decontaminate else overlap_of(opened.source, benchmarks)
    return [*remarks(opened), *([shared] if shared else [])]
