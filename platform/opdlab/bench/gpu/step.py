"""A training step by its parts, OPD's and LGR's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.scoring import ACTIVE, K
from opdlab.bench.shapes import Shape
from opdlab.bench.step import Contender, open_contenders, part
from opdlab.configuration import Experiment, loader
from opdlab.console import StopRequest, quieten
from opdlab.modelling import DTYPES, load_tokenizer
from opdlab.training import Pair

STEPS = 2
_LGR = f"{{type: lgr, support: full, top_k: {K}, active_share: {ACTIVE}}}"
METHODS = {"opd": "{name: opd}", "lgr": f"{{name: lgr, set: {{method: {_LGR}}}}}"}
"""Runs of an experiment of OPD."""


def cases(
    name: str, student: Shape, teacher: Shape, seconds: int, rows: int, tokens: int
) -> Iterator[Case]:
    """One: a few steps of each method on the same models."""
    title = f"{name}, {rows} answers of {tokens:,} tokens"
    yield Case("step", title, seconds, partial(_case, student, teacher, rows, tokens))


def _case(student: Shape, teacher: Shape, rows: int, tokens: int, card: Card) -> list[Figure]:
    card.drop()
    found: list[Figure] = []
    taken = {}
    with opened(student, teacher, rows, tokens, card, list(METHODS)) as contenders:
        for one in contenders:
            one.block(STEPS)
            parts = medians(one)
            taken[one.name] = sum(parts.values())
            found += _figures(one.name, parts, rows * tokens)
    found.append(Figure("LGR's step over OPD's", taken["lgr"] / taken["opd"], "x"))
    return found


@contextmanager
def opened(
    student: Shape,
    teacher: Shape,
    rows: int,
    tokens: int,
    card: Card,
    methods: Sequence[str],
    settings: Sequence[str] = (),
) -> Iterator[list[Contender]]:
    """A run of each method on the same random models, ready to take steps."""
    quieten()
    with (
        TemporaryDirectory(prefix="opdlab-", ignore_cleanup_errors=True) as name,
        StopRequest() as stop,
    ):
        folder = Path(name)
        positions = tokens + 1024
        for role, shape in (("student", student), ("teacher", teacher)):
            shape.config(positions).save_pretrained(folder / role)
        config = _experiment(folder, rows, tokens, card, methods, settings)
        pair = _pair(student, teacher, positions, card, DTYPES[config.student.dtype])
        yield open_contenders(config, folder, stop, lambda _: pair)


def medians(one: Contender) -> dict[str, float]:
    """Median seconds of each part of the steps that were taken."""
    records = [part(record) for record in one.pace.records]
    return {key: median(each[key] for each in records) for key in records[0]}


def _figures(method: str, parts: dict[str, float], tokens: int) -> Iterator[Figure]:
    whole = sum(parts.values())
    yield Figure(f"{method}: a step", whole, "s")
    yield Figure(f"{method}: tokens a second", tokens / whole, "/s")
    for name, taken in parts.items():
        if taken:
            yield Figure(f"{method}: {name}", taken / whole, "of the step")


def _pair(student: Shape, teacher: Shape, positions: int, card: Card, dtype: torch.dtype) -> Pair:
    tokenizer = load_tokenizer("embedded:student")
    learner: Any = student.build(card.device, dtype, positions)
    return Pair(
        learner.requires_grad_(True),
        teacher.build(card.device, card.dtype, positions, seed=1),
        tokenizer,
        tokenizer,
        min(student.vocabulary, teacher.vocabulary),
    )


def _experiment(
    folder: Path,
    rows: int,
    tokens: int,
    card: Card,
    methods: Sequence[str],
    settings: Sequence[str],
) -> Experiment:
    runs = ", ".join(METHODS[name] for name in methods)
    return loader.load_experiment(
        "quickstart",
        [
            f"runs=[{runs}]",
            f"student.path={folder / 'student'}",
            f"teacher.path={folder / 'teacher'}",
            f"teacher.dtype={str(card.dtype).removeprefix('torch.')}",
            f"rollout.max_new_tokens={tokens}",
            f"training.prompts_per_step={rows}",
            "training.precision=bf16-mixed",
            f"training.accelerator={card.accelerator}",
            f"output={folder / 'runs'}",
            *settings,
        ],
    )
