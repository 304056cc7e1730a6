"""A training step by its parts, OPD's and LGR's, and its memory beside what `opdlab plan` says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.gpu.scoring import ACTIVE, K
from opdlab.bench.shapes import Shape
from opdlab.bench.step import open_contenders, part
from opdlab.configuration import Experiment, loader
from opdlab.console import StopRequest, quieten
from opdlab.modelling import load_tokenizer
from opdlab.planning import memory
from opdlab.training import Pair

STEPS = 2


def cases(
    name: str, student: Shape, teacher: Shape, seconds: int, rows: int, tokens: int
) -> Iterator[Case]:
    """One: a few steps of each method on the same models."""
    title = f"{name}, {rows} answers of {tokens:,} tokens"
    yield Case("step", title, seconds, partial(_case, student, teacher, rows, tokens))


def _case(student: Shape, teacher: Shape, rows: int, tokens: int, card: Card) -> list[Figure]:
    quieten()
    card.drop()
    found: list[Figure] = []
    with (
        TemporaryDirectory(prefix="opdlab-", ignore_cleanup_errors=True) as name,
        StopRequest() as stop,
    ):
        folder = Path(name)
        positions = tokens + 1024
        for role, shape in (("student", student), ("teacher", teacher)):
            shape.config(positions).save_pretrained(folder / role)
        taken = {}
        pair = _pair(student, teacher, positions, card)
        config = _experiment(folder, rows, tokens, card)
        for one in open_contenders(config, folder, stop, lambda _: pair):
            if card.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            one.block(STEPS)
            records = [part(record) for record in one.pace.records]
            parts = {key: median(each[key] for each in records) for key in records[0]}
            taken[one.name] = sum(parts.values())
            found += _figures(one.name, parts, rows * tokens)
            if card.device.type == "cuda":
                held = torch.cuda.max_memory_allocated()
                planned = memory(one.config, 64)[""].peak
                found.append(Figure(f"{one.name}: memory", held / 2**30, "GiB"))
                found.append(Figure(f"{one.name}: `plan` over it", planned / held, "x"))
    found.append(Figure("LGR's step over OPD's", taken["lgr"] / taken["opd"], "x"))
    return found


def _figures(method: str, parts: dict[str, float], tokens: int) -> Iterator[Figure]:
    whole = sum(parts.values())
    yield Figure(f"{method}: a step", whole, "s")
    yield Figure(f"{method}: tokens a second", tokens / whole, "/s")
    for name, taken in parts.items():
        if taken:
            yield Figure(f"{method}: {name}", taken / whole, "of the step")


def _pair(student: Shape, teacher: Shape, positions: int, card: Card) -> Pair:
    tokenizer = load_tokenizer("embedded:student")
    learner: Any = student.build(card.device, torch.float32, positions)
    return Pair(
        learner.requires_grad_(True),
        teacher.build(card.device, card.dtype, positions, seed=1),
        tokenizer,
        tokenizer,
        min(student.vocabulary, teacher.vocabulary),
    )


def _experiment(folder: Path, rows: int, tokens: int, card: Card) -> Experiment:
    lgr = f"{{type: lgr, support: full, top_k: {K}, active_share: {ACTIVE}}}"
    return loader.load_experiment(
        "quickstart",
        [
            f"runs=[{{name: opd}}, {{name: lgr, set: {{method: {lgr}}}}}]",
            f"student.path={folder / 'student'}",
            f"teacher.path={folder / 'teacher'}",
            f"teacher.dtype={str(card.dtype).removeprefix('torch.')}",
            f"rollout.max_new_tokens={tokens}",
            f"training.prompts_per_step={rows}",
            "training.precision=bf16-mixed",
            f"training.accelerator={'gpu' if card.device.type == 'cuda' else 'cpu'}",
            f"output={folder / 'runs'}",
        ],
    )
