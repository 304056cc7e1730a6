"""`opdlab prompts FILE`: what the model really sees, how long it is, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from opdlab.configuration import Experiment, loader
from opdlab.console import BOLD, DIM, END, RED, YELLOW, console, quieten
from opdlab.errors import OpdlabError
from opdlab.modelling import models
from opdlab.prompts.dataset import DatasetSource
from opdlab.prompts.drawn import Loss, Opened, open_dataset, open_prompts, overlapping
from opdlab.prompts.overlap import Overlap
from opdlab.prompts.source import PromptSource

if TYPE_CHECKING:
    from opdlab.configuration import DatasetPrompts
    from opdlab.plugins import Evaluator

MEASURED = 2000
"""Prompts whose lengths are measured."""
BINS, BAR = 10, 40
SEARCHED_ROWS = 200_000
"""Rows that are looked through for problems of the benchmarks, at most."""


def show_prompts(name: str, overrides: Sequence[str], count: int) -> bool:
    """Print some prompts of an experiment; whether training would take its data as they are.

    Args:
        count: prompts that are printed, the first that are drawn.
    """
    quieten()
    config = loader.load_experiment(name, overrides)
    tokenizer = models.load_tokenizer(config.student.path, config.student.revision)
    benchmarks = config.evaluation.benchmarks
    losses: list[Loss] = []
    if config.prompts.type == "dataset":
        opened = open_dataset(config.prompts, tokenizer, config.seed, benchmarks, lenient=True)
        prompts: PromptSource = opened.source
        losses = opened.losses
        _show_rows(opened)
        _show_overlap(config.prompts, opened, benchmarks)
    else:
        prompts = open_prompts(config.prompts, tokenizer, config.seed)
    for index in range(count):
        _show_prompt(prompts, index)
    _show_lengths(prompts, config)
    if (found := prompts.unknown()).bad_tokens:
        console.print(f"{YELLOW}unknown text:{END} {found}")
    return not any(loss.refused for loss in losses)


def _show_prompt(prompts: PromptSource, index: int) -> None:
    prompt = prompts.prompt(index)
    problem = prompt.problem
    where = f"row {problem.id}" if isinstance(prompts, DatasetSource) else problem.id
    head = f"prompt {index}: {problem.benchmark}, {where}, {len(prompt.tokens)} tokens"
    console.print(f"{BOLD}{head}{END}")
    text = prompts.tokenizer.decode(list(prompt.tokens), clean_up_tokenization_spaces=False)
    console.print(str(text), soft_wrap=True)
    if problem.gold is not None:
        console.print(f"{DIM}answer:{END} {str(problem.gold)[:500]}", soft_wrap=True)
    if "given" in problem.extra:
        given = str(problem.extra["given"])[:500]
        console.print(f"{DIM}given answer:{END} {given}", soft_wrap=True)
    console.print()


def _show_rows(opened: Opened) -> None:
    table = Table("rows", "", "the first", box=None, pad_edge=False)
    table.add_row(f"{opened.read:,}", "read", "")
    for loss in opened.losses:
        mark = f"{RED}refused{END} " if loss.refused else "dropped: " if loss.dropped else "kept: "
        table.add_row(f"{loss.count:,}", f"{mark}{loss.what}", loss.first)
    table.add_row(f"{opened.source.count:,}", "drawn from", "")
    console.print(table)
    if any(loss.refused for loss in opened.losses):
        console.print(
            f"{RED}Training refuses these rows:{END} mend them, or leave them out by prompts.drop and "
            "prompts.too_long"
        )
    console.print()


def _show_overlap(config: DatasetPrompts, opened: Opened, benchmarks: Sequence[Evaluator]) -> None:
    if config.decontaminate or not benchmarks:
        return
    if said := overlap_of(opened.source, benchmarks):
        console.print(f"{YELLOW}benchmarks:{END} {said}", soft_wrap=True)


def remarks(opened: Opened) -> list[str]:
    """What is left out of a data set, and what is twice in it, a line each."""
    return [
        f"{loss.count:,} of {opened.read:,} rows {'dropped' if loss.dropped else 'kept'}: {loss.what}"
        + (f" ({loss.first})" if loss.first else "")
        for loss in opened.losses
    ]


def overlap_of(source: DatasetSource, benchmarks: Sequence[Evaluator]) -> str:
    """How many prompts hold problems of benchmarks, with an example; empty for none.

    A benchmark without data here is left out. Of large data sets the first rows are looked at.
    """
    present = [one for one in benchmarks if _is_there(one)]
    overlap = Overlap(present)
    count, looked, example = 0, 0, ""
    for part in source.parts if overlap else ():
        rows = part.rows[: max(0, SEARCHED_ROWS - looked)]
        looked += len(rows)
        found = overlapping(part.data, rows, overlap)
        count += len(found)
        for row, shared in islice(found, 0 if example else 1):
            example = (
                f"the first is {part.data.place(row)} with problem {shared.problem} of "
                f"{shared.benchmark} ({shared.words[:100]!r})"
            )
    if not count:
        return ""
    return (
        f"{count} of {looked} prompts share a run of words with problems that are measured: {example}. "
        "Set prompts.decontaminate: true to leave them out"
    )


def _is_there(benchmark: Evaluator) -> bool:
    try:
        benchmark.problems()
    except OpdlabError:
        return False
    return True


def _show_lengths(prompts: PromptSource, config: Experiment) -> None:
    count = min(MEASURED, prompts.count or MEASURED)
    lengths = np.array([len(prompts.prompt(index).tokens) for index in range(count)])
    width = max(1, -(-int(lengths.max() - lengths.min() + 1) // BINS))
    edges = np.arange(lengths.min(), lengths.max() + width + 1, width)
    counts, edges = np.histogram(lengths, edges)
    of = "" if prompts.count is None else f" of {prompts.count:,}"
    table = Table("tokens", "prompts", "", box=None, pad_edge=False)
    for first, end, each in zip(edges, edges[1:], counts, strict=False):
        bar = "#" * round(BAR * each / counts.max())
        table.add_row(f"{first} to {end - 1}", f"{each:,}", bar)
    console.print(f"{BOLD}lengths{END} of {count:,}{of} prompts, template included:")
    console.print(table)
    said = f"mean {lengths.mean():.0f}, longest {lengths.max()}"
    most = config.prompts.max_prompt_tokens if config.prompts.type == "dataset" else None
    limit = f"; prompts.max_prompt_tokens is {most}" if most else ""
    console.print(f"{said}; answers of {config.rollout.max_new_tokens} tokens at most{limit}")
