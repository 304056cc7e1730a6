"""The vocabulary projection in chunks against the whole product: time, and memory of a fresh process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.bench.peak import in_fresh_process, rise
from opdlab.bench.race import Side, machine, race, show, show_machine, write
from opdlab.bench.shapes import Shape
from opdlab.console import console
from opdlab.methods import OPD
from opdlab.modelling import (
    DTYPES,
    chunked_loss,
    head_parameters,
    logits_of,
    project,
    vocabulary_statistics,
)
from opdlab.records import Supervision
from opdlab.shapes import Float, Tensor

CHUNKS, WHOLE = "chunks (opdlab)", "whole product"


def ways(shape: Shape, tokens: int, device: str, dtype: str) -> dict[str, Callable[[], Any]]:
    """`scoring` and `loss`, each in chunks and whole, on the same random rows."""
    model = shape.build(device, DTYPES[dtype], 64)
    teacher = shape.build(device, DTYPES[dtype], 64, seed=1)
    torch.manual_seed(2)
    hidden = torch.randn(tokens, shape.width, device=device).to(DTYPES[dtype])
    targets = torch.randint(0, shape.vocabulary, (tokens,), device=device)
    for weight in head_parameters(model):
        weight.requires_grad_(True)
    nothing = hidden.new_zeros(tokens, 0)
    supervision = Supervision(
        targets, hidden.new_zeros(tokens), hidden.new_zeros(tokens), nothing.long(), nothing
    )

    def loss_in_chunks() -> None:
        model.zero_grad()
        leaf = hidden.clone().requires_grad_()
        method = OPD(support="full")
        said = logits_of(teacher, hidden)
        found = chunked_loss(model, leaf, said, supervision, method.token_loss)
        found.loss.mean().backward()

    def loss_whole() -> None:
        model.zero_grad()
        leaf = hidden.clone().requires_grad_()
        whole_loss(model, teacher, leaf, hidden).backward()

    return {
        f"scoring {CHUNKS}": lambda: vocabulary_statistics(model, hidden, targets),
        f"scoring {WHOLE}": lambda: whole_statistics(model, hidden, targets),
        f"loss {CHUNKS}": loss_in_chunks,
        f"loss {WHOLE}": loss_whole,
    }


@torch.no_grad()
def whole_statistics(
    model: PreTrainedModel, hidden: Float[Tensor, "T H"], targets: Tensor
) -> tuple[Tensor, ...]:
    """Target, largest and entropy the plain way."""
    log_p = project(model, hidden).log_softmax(-1)
    target = log_p.gather(1, targets[:, None]).squeeze(1)
    return target, log_p.amax(-1), -(log_p.exp() * log_p).sum(-1)


def whole_loss(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    hidden: Float[Tensor, "T H"],
    teacher_hidden: Float[Tensor, "T H"],
) -> Tensor:
    """Mean reverse KL the plain way."""
    log_p = project(model, hidden).log_softmax(-1)
    with torch.no_grad():
        log_q = project(teacher, teacher_hidden).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def bench_head(
    shape: Shape, tokens: int, rounds: int, device: str, dtype: str, json_file: str | None
) -> None:
    """Print time and memory of each part, and write them."""
    found: dict[str, Any] = {"machine": machine(device), "shape": asdict(shape), "tokens": tokens}
    show_machine(found["machine"])
    kinds = ways(shape, tokens, device, dtype)
    order = [asdict(shape), tokens, device, dtype]
    found["timings"], found["memory"] = {}, in_fresh_process("opdlab.bench.head", order)
    for part in ("scoring", "loss"):
        names = [f"{part} {CHUNKS}", f"{part} {WHOLE}"]
        timings = race([Side(name, kinds[name]) for name in names], rounds, device)
        notes = {name: f"peak +{found['memory'][name] / 1e6:,.0f} MB" for name in names}
        title = (
            f"{part}: {tokens:,} rows, {shape.vocabulary:,} entries, width {shape.width}, {dtype}"
        )
        show(title, names[1], timings, notes)
        found["timings"] |= timings
    logits = tokens * shape.vocabulary * 4
    console.print(
        f"one float32 tensor of all rows by the vocabulary would take {logits / 1e6:,.0f} MB"
    )
    write(json_file, found)


def main(order: str) -> None:
    """What the fresh process runs: each way once on few rows, so that libraries are loaded, then on all."""
    shape, tokens, device, dtype = json.loads(order)
    for run in ways(Shape(**shape), 8, device, dtype).values():
        run()
    kinds = ways(Shape(**shape), tokens, device, dtype)
    print(json.dumps({name: rise(run, device) for name, run in kinds.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
