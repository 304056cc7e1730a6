"""What a model holds while it trains, samples and scores: measured, beside what `opdlab plan` counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from opdlab.bench.race import machine, show_machine, write
from opdlab.console import console, progress_bar
from opdlab.modelling import DTYPES, forget_prefixes, load_config
from opdlab.planning import (
    Held,
    ScoredRows,
    activations,
    attended,
    cached,
    kept_for_backward,
    scoring,
    sizes,
)
from opdlab.records import Lookahead, Questions
from opdlab.scoring import Teacher

TOP_K = 4
"""Candidates at every position that scoring is measured with."""


@dataclass(frozen=True)
class Holding:
    """One thing that is held.

    Attributes:
        what: of which, in words.
        measured: bytes.
        planned: bytes.
    """

    what: str
    measured: int
    planned: int

    @property
    def ratio(self) -> float:
        """Planned to measured."""
        return self.planned / self.measured


def bench_models(
    paths: Sequence[str], rows: int, length: int, dtype: str, json_file: str | None
) -> None:
    """Print what models of these configurations hold, with random weights, on the CPU."""
    found: dict[str, Any] = {
        "machine": machine("cpu"),
        "rows": rows,
        "tokens": length,
        "models": {},
    }
    show_machine(found["machine"])
    table = Table(
        title=f"{rows} rows of {length} tokens, {dtype}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    table.add_column("held", no_wrap=True)
    for name in ("MB", "plan", "plan / MB"):
        table.add_column(name, justify="right")
    with progress_bar() as progress:
        for path in progress.track(paths, description="building models"):
            model = build(load_config(path), dtype)
            holdings = list(measure(model, rows, length))
            for top_k in (0, TOP_K):
                holdings.append(scored(model, ScoredRows(rows, 1, length - 1, top_k=top_k)))
            found["models"][path] = [asdict(one) for one in holdings]
            for place, one in enumerate(holdings):
                sizes_in_mb = (f"{size / 1e6:,.3f}" for size in (one.measured, one.planned))
                table.add_row("" if place else path, one.what, *sizes_in_mb, f"{one.ratio:.3f}")
    console.print(table)
    write(json_file, found)


def build(config: PretrainedConfig, dtype: str) -> PreTrainedModel:
    """A model of a configuration with random weights, which its memory does not depend on."""
    return AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype]).eval()


def measure(model: PreTrainedModel, rows: int, length: int) -> Iterator[Holding]:
    """Weights, and what is held of rows of so many tokens; nothing of what a model does not have."""
    dtype = model.dtype
    plan = sizes(model.config, dtype)
    # Of unlike tokens, which experts of a model share among them.
    tokens = torch.arange(rows * length).view(rows, length) * 7919 % plan.vocabulary
    weights = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
    yield Holding("weights", weights, plan.weights)
    planned = activations(model.config, rows, length, dtype)
    yield Holding("activations of a step", kept_for_backward(model, tokens), planned)
    with_dropout = activations(model.config, rows, length, dtype, dropout=True)
    if with_dropout != planned:
        kept = kept_for_backward(model.train(), tokens)
        model.eval()
        yield Holding("activations of a step, with dropout", kept, with_dropout)
    if held := sum(one.nbytes for one in cached(model, tokens)):
        planned = plan.cache * dtype.itemsize * rows * length
        yield Holding("keys and values while sampling", held, planned)
    if held := sum(one.nbytes for one in attended(model, tokens[0])):
        planned = plan.attended * dtype.itemsize * length
        yield Holding("keys and values while scoring a row", held, planned)


def scored(model: PreTrainedModel, asked: ScoredRows) -> Holding:
    """What a teacher holds beside its weights, at most, from when it is tried to its first scores."""
    planned = scoring(model.config, model.dtype, asked)
    rollout = asked.rollout(asked.rows)
    forget_prefixes(model)
    with Held(model) as held:
        teacher = Teacher(model).probe()
        ahead = Lookahead(asked.steps)
        teacher.score(rollout, Questions(rollout.candidates, full=asked.full, lookahead=ahead))
    of = f", {asked.top_k} candidates a position" if asked.top_k else ""
    return Holding(f"scoring{of}", held.peak, planned)
