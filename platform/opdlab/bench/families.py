"""Architectures of transformers, tried: scoring by the tree, cached rollouts, gradients, time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils import logging

from opdlab.bench.architectures import FAMILIES, RECURRENT
from opdlab.bench.race import machine, show_machine, timed, write
from opdlab.bench.small_models import random_rollout, small_model
from opdlab.console import console, progress_bar
from opdlab.errors import ConfigError, OpdlabError, writing_to
from opdlab.files import write_whole
from opdlab.modelling import forget, log_distribution, models, recurrent_layers, use_threads
from opdlab.records import Questions, Rollout
from opdlab.sampling import CachedEngine
from opdlab.scoring import Teacher, states_before_tokens
from opdlab.shapes import Float, Tensor

NAMES = (*RECURRENT, *FAMILIES, "rwkv")
PROMPTS, RESPONSES, CANDIDATES = (3, 5, 1, 9), (4, 9, 13, 2), 4
# What is timed: one answer, of which these share of positions have so many candidates each.
LENGTH, ACTIVE, TOP_K = 256, 0.15, 8
_ROUNDS = 2
_HEAD = ("family", "states", "tree", "cached", "gradient", "time", "naive")
_LEGEND = (
    "states: layers that keep a recurrent state. tree, cached: largest difference from whole forwards, in "
    "nats; naive: scored by these. gradient: difference from that of rows alone, as a share. time: of "
    f"scoring an answer of {LENGTH} tokens, {ACTIVE:.0%} of positions with {TOP_K} candidates each, over "
    "plain forwards of as many tokens; naive: whole forwards for each candidate, over scoring. "
    "Models of width 32 are overhead for the most part."
)


@dataclass(frozen=True)
class Tried:
    """What was found of one architecture.

    Attributes:
        recurrent: layers that keep a state.
        way: how it is scored, `tree` or `naive`.
        tree: largest difference in log-probabilities and log-confidences from whole forwards, in nats.
        cached: the same of rollouts' log-probabilities; None where the engine refuses the model.
        refused: why it does.
        gradient: largest difference from that of whole rows alone, as a share of the largest gradient.
        time: of scoring, over that of plain forwards of as many tokens.
        forwards: time of a whole forward for each candidate, over that of scoring.
    """

    family: str
    recurrent: int
    way: str
    tree: float
    cached: float | None
    refused: str
    gradient: float
    time: float
    forwards: float

    def cells(self) -> list[str]:
        """A row of the table."""
        return [
            self.family,
            str(self.recurrent or "-"),
            f"{self.tree:.0e}" if self.way == "tree" else "naive",
            "refused" if self.cached is None else f"{self.cached:.0e}",
            f"{self.gradient:.0e}",
            f"{self.time:.2f}" if self.way == "tree" else "-",
            f"{self.forwards:.2g}" if self.way == "tree" else "-",
        ]


def bench_families(
    names: Sequence[str], path: str | None, to: str | None, json_file: str | None
) -> None:
    """Print a row for each architecture, or for a model of one's own, and write the table.

    Raises:
        ConfigError: there is no such architecture among those that are built here.
    """
    if unknown := [name for name in names if name not in NAMES]:
        raise ConfigError(
            f"--only: no architecture {unknown[0]!r} here; known are {', '.join(sorted(NAMES))}"
        )
    use_threads(1)
    logging.set_verbosity_error()
    show_machine(machine())
    builds: list[tuple[str, Callable[[], PreTrainedModel]]] = [
        (name, lambda name=name: small_model(name)) for name in (names or NAMES)
    ]
    if path is not None:
        builds = [(Path(path).name, lambda: models.load_model(path))]
    found = []
    with progress_bar() as progress:
        task = progress.add_task("", total=len(builds))
        for name, build in builds:
            progress.update(task, description=name)
            found.append(tried(name, build()))
            progress.advance(task)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(_HEAD):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for one in found:
        table.add_row(*one.cells())
    console.print(table)
    console.print(_LEGEND, style="dim")
    for one in found:
        if one.refused:
            console.print(f"{one.family}: {one.refused}", style="dim", markup=False)
    if to is not None:
        with writing_to(Path(to), "--to"):
            write_whole(Path(to), markdown(found))
        console.print(f"written: {to}", soft_wrap=True)
    write(json_file, {"machine": machine(), "families": [asdict(one) for one in found]})


def markdown(found: Sequence[Tried]) -> str:
    """The table for a document."""
    rows = [_HEAD, ["---"] * len(_HEAD), *(one.cells() for one in found)]
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines) + f"\n\n{_LEGEND}\n"


def tried(name: str, model: PreTrainedModel) -> Tried:
    """Everything that the table says of a model."""
    size = model.config.get_text_config().vocab_size
    rollout = random_rollout(PROMPTS, RESPONSES, CANDIDATES, vocabulary=size)
    with warnings.catch_warnings():
        # What they say stands in the table.
        warnings.simplefilter("ignore", UserWarning)
        teacher = Teacher(model).probe()
        tree = tree_gap(teacher, rollout)
        time, forwards = times(model, teacher, size) if teacher.way == "tree" else (1.0, 1.0)
        try:
            cached, refused = rollout_gap(model, size), ""
        except OpdlabError as error:
            cached, refused = None, str(error)
    gradient = gradient_gap(model, rollout)
    layers = len(recurrent_layers(model))
    return Tried(name, layers, teacher.way, tree, cached, refused, gradient, time, forwards)


def tree_gap(teacher: Teacher, rollout: Rollout) -> float:
    """Largest difference from whole forwards, in nats."""
    questions = Questions(rollout.candidates)
    found = teacher.score(rollout, questions)
    truth = teacher.reference(rollout, questions)
    gaps = (
        (found.confidence.log() - truth.confidence.log()).nan_to_num(),
        found.log_prob - truth.log_prob,
    )
    return max(float(gap.abs().max()) for gap in gaps)


def rollout_gap(model: PreTrainedModel, size: int) -> float:
    """Largest difference of greedy rollouts' log-probabilities from those of a forward of each row alone.

    Infinite where a token is not the likeliest by that forward, two of equal probability aside.
    """
    prompts = [
        [(7919 * i + 31 * row + 11) % size for i in range(n)] for row, n in enumerate(PROMPTS)
    ]
    engine = CachedEngine(max_new_tokens=12, temperature=0.0)
    rollout = engine.sample(model, prompts, range(len(prompts)), eos_ids=(2,), pad_id=0, max_rows=3)
    worst = 0.0
    with torch.no_grad():
        for row in range(len(prompts)):
            said = _alone(model, rollout, row)
            mine = rollout.row == row
            of_token = said.gather(1, rollout.token[mine][:, None])[:, 0]
            worst = max(worst, float((of_token - rollout.log_prob[mine]).abs().max()))
            if float((said.amax(-1) - of_token).max()) > 1e-3:
                return torch.inf
    return worst


def gradient_gap(model: PreTrainedModel, rollout: Rollout) -> float:
    """Largest difference between gradients of all rows together and of each row alone, as a share."""
    model.requires_grad_(True)

    def together() -> Tensor:
        said = log_distribution(model, states_before_tokens(model, rollout), None)
        return said.gather(1, rollout.token[:, None]).sum()

    def alone() -> Tensor:
        rows = [_alone(model, rollout, row) for row in range(len(rollout.tokens))]
        return torch.cat(rows).gather(1, rollout.token[:, None]).sum()

    found = []
    for loss in (together, alone):
        model.zero_grad()
        loss().backward()
        found.append([w.grad.clone() for w in model.parameters() if w.grad is not None])
    model.zero_grad()
    model.requires_grad_(False)
    largest = max(float(gradient.abs().max()) for gradient in found[1])
    if len(found[0]) != len(found[1]) or not largest:
        return torch.inf
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True)) / largest


def _alone(model: PreTrainedModel, rollout: Rollout, row: int) -> Float[Tensor, "t V"]:
    """Log-probabilities before each token of a response, by the model's own forward of its row."""
    forget(model)
    first, count = int(rollout.prompt_lengths[row]), int(rollout.response_lengths[row])
    logits = model(input_ids=rollout.tokens[row : row + 1, : first + count], use_cache=False).logits
    return logits[0, first - 1 : -1].float().log_softmax(-1)


@torch.no_grad()
def times(model: PreTrainedModel, teacher: Teacher, size: int) -> tuple[float, float]:
    """Time of scoring over that of as many tokens, and of whole forwards over that of scoring."""
    rollout = random_rollout([1], [LENGTH - 1], TOP_K, vocabulary=size)
    active = torch.rand(LENGTH - 1, generator=torch.Generator().manual_seed(0)) < ACTIVE
    questions = Questions(rollout.candidates.masked_fill(~active[:, None], -1))
    rows, mean = 4, LENGTH // 2
    batch = rollout.tokens.expand(rows, -1).contiguous()
    ways: dict[str, Callable[[], Any]] = {
        "tree": lambda: teacher.score(rollout, questions),
        "plain": lambda: model(input_ids=batch, use_cache=False),
        "whole": lambda: model(input_ids=batch[:1, :mean].expand(TOP_K, -1), use_cache=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_ROUNDS + 1):
        for name, way in ways.items():
            taken = timed(way, "cpu")
            if number:
                seconds[name].append(taken)
    tree, plain, whole = (median(seconds[name]) for name in ways)
    tokens = LENGTH + teacher.score(rollout, questions).leaves
    return tree / (plain * tokens / (rows * LENGTH)), whole * int(active.sum()) / tree
