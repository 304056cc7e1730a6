"""Teacher scoring side by side: the tree, a dense mask, segments, a decode or a prefill per candidate."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel

from opdlab.bench.race import Side, Timing, ceiling, machine, race, show, show_machine, write
from opdlab.bench.rivals import Decoder, dense_tree, prefill_each
from opdlab.bench.shapes import Shape, ask, nothing, random_rollout, work
from opdlab.console import console
from opdlab.modelling import DTYPES
from opdlab.records import Questions, Rollout
from opdlab.scoring import Teacher, leaves, same_prompts
from opdlab.shapes import Float, Int, Tensor

UNIT = "OPD"
TREE = "tree (opdlab)"
NOT_SHARED = "OPD, no prompt shared"
DECODE, PREFILL = "decode per candidate", "prefill per candidate"
SEGMENTS = 8
# Candidates that the slowest ways are timed on, and the share of the segments; their time is scaled to all.
_DECODED, _PREFILLED = 48, 8
_EVERY = 4


def bench_scoring(
    shape: Shape,
    lengths: list[int],
    top_k: int,
    active: float,
    rows: int,
    prompt: int,
    ragged: bool,
    shared_prompt: bool,
    ways: list[str],
    rounds: int,
    device: str,
    dtype: str,
    json_file: str | None,
) -> None:
    """Print a table for each length, and write them all."""
    found: dict[str, Any] = {"machine": machine(device), "shape": asdict(shape), "tables": []}
    show_machine(found["machine"])
    model = shape.build(device, DTYPES[dtype], prompt + max(lengths) + 1)
    top = found["ceiling"] = ceiling(device, DTYPES[dtype])
    for length in lengths:
        responses = [length * (row + 1) // rows if ragged else length for row in range(rows)]
        rollout = random_rollout(shape, [prompt] * rows, responses, top_k, device, shared_prompt)
        questions = ask(rollout, active)
        sizes = {"L": length, "K": top_k, "active": active, "rows": rows, "prompt": prompt}
        sizes |= {"ragged": ragged, "shared_prompt": shared_prompt, "dtype": dtype}
        one = one_length(model, shape, rollout, questions, ways, rounds, device)
        found["tables"].append({**sizes, **one})
        _print(sizes, one, top)
    write(json_file, found)


def one_length(
    model: PreTrainedModel,
    shape: Shape,
    rollout: Rollout,
    questions: Questions,
    ways: list[str],
    rounds: int,
    device: str,
) -> dict[str, Any]:
    """Timings, largest difference in log c to the tree's, and what arithmetic says."""
    teacher, results = Teacher(model).probe(), {}
    tree = leaves(rollout, questions.candidates)
    some, few = (evenly(len(tree), n).to(tree.row.device) for n in (_DECODED, _PREFILLED))

    def keep(name: str, value: Float[Tensor, "*n"]) -> None:
        results[name] = value

    decoder = Decoder(model, rollout)
    possible = {
        "dense": Side(
            "dense mask",
            lambda: keep("dense mask", dense_tree(model, rollout, questions)),
            rounds=3,
        ),
        "segments": Side(
            f"{SEGMENTS} segments",
            lambda: keep(
                f"{SEGMENTS} segments", dense_tree(model, rollout, questions, SEGMENTS, _EVERY)
            ),
            part=1 / _EVERY,
            rounds=2,
        ),
        "decode": Side(
            DECODE,
            lambda: keep(DECODE, decoder(tree, some)),
            part=len(some) / len(tree),
            rounds=3,
        ),
        "prefill": Side(
            PREFILL,
            lambda: keep(PREFILL, prefill_each(model, rollout, tree, few)),
            part=len(few) / len(tree),
            rounds=2,
        ),
    }
    alone = Teacher(model).probe()
    alone.shares = False
    apart = Side(NOT_SHARED, lambda: alone.score(rollout, nothing(rollout)), rounds=3)
    sides = [
        Side(UNIT, lambda: teacher.score(rollout, nothing(rollout))),
        Side(TREE, lambda: keep(TREE, teacher.score(rollout, questions).confidence)),
        *([apart] if shares_prompts(rollout) else []),
        *(side for name, side in possible.items() if name in ways),
    ]
    timings = race(sides, rounds, device)
    if DECODE in timings:
        # The keys were there already: the pass that makes them is OPD's own.
        steps = timings[DECODE]
        once = timings[UNIT].median
        timings[DECODE] = Timing(tuple(once + one for one in steps.seconds), steps.part)
    ours = results.pop(TREE)[tree.place, tree.slot].log()
    chosen = {DECODE: some, PREFILL: few}
    differences = {
        name: _gap(value, ours[chosen[name]] if name in chosen else ours)
        for name, value in results.items()
    }
    todo = work(shape, rollout, questions)
    return {
        "timings": timings,
        "differences": differences,
        "leaves": len(tree),
        "candidates": int((questions.candidates >= 0).sum()),
        "operations": asdict(todo),
        "arithmetic": todo.ratio,
        "arithmetic, no prompt shared": work(shape, rollout, questions, shared=False).trunk
        / todo.trunk,
    }


def evenly(count: int, n: int) -> Int[Tensor, "n"]:
    """At most n of so many leaves in order of column, each for an equal part of them."""
    n = min(n, count)
    return torch.arange(n) * count // n + count // (2 * n)


def _gap(found: Float[Tensor, "*n"], ours: Float[Tensor, "*n"]) -> float:
    """Largest difference, where a way was run."""
    return float((found - ours)[~found.isnan()].abs().max())


def shares_prompts(rollout: Rollout) -> bool:
    """Whether several rows answer one prompt."""
    return len(same_prompts(rollout)[1]) < len(rollout.tokens)


def _print(sizes: dict[str, Any], one: dict[str, Any], top: float) -> None:
    timings: dict[str, Timing] = one["timings"]
    title = ", ".join(f"{name} {value}" for name, value in sizes.items() if value is not False)
    notes = {name: f"log c +-{gap:.0e}" for name, gap in one["differences"].items()}
    ratio = timings[TREE].median / timings[UNIT].median
    notes[TREE] = f"{ratio / one['arithmetic']:.3f} x arithmetic"
    if NOT_SHARED in timings:
        ratio, asked = (
            timings[NOT_SHARED].median / timings[UNIT].median,
            one["arithmetic, no prompt shared"],
        )
        notes[NOT_SHARED] = f"arithmetic {asked:.2f}, {ratio / asked:.0%} of it"
    # Who has no trunk must ask about the sampled token, too.
    for way in (DECODE, PREFILL):
        if way in timings:
            every = timings[way].median / timings[UNIT].median * one["candidates"] / one["leaves"]
            notes[way] += f"; with the sampled token {every:.4g}"
    show(f"{title}, {one['leaves']:,} leaves", UNIT, timings, notes)
    speed = one["operations"]["trunk"] / timings[UNIT].median / top
    extra = timings[TREE].median - timings[UNIT].median
    leaf_speed = one["operations"]["leaves"] / extra / top if extra > 0 else float("nan")
    console.print(
        f"arithmetic asks for {one['arithmetic']:.3f}; of the ceiling of matrix products the trunk reaches "
        f"{speed:.0%}, the leaves {leaf_speed:.0%}\n"
    )
