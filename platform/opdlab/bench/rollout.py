"""Student sampling side by side: the engine `cached` and the library's `generate`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from opdlab.bench.race import Side, machine, race, show, show_machine, write
from opdlab.bench.shapes import Shape
from opdlab.modelling import DTYPES
from opdlab.sampling import CachedEngine, GenerateEngine

OURS, PLAIN, REFERENCE = "cached (opdlab)", "generate", "generate, with log-probs"


def bench_rollout(
    shape: Shape,
    rows: int,
    new_tokens: int,
    prompt: int,
    top_k: int,
    rounds: int,
    device: str,
    dtype: str,
    json_file: str | None,
) -> None:
    """Print a table for answers of equal and of unequal length, and write both."""
    found: dict[str, Any] = {"machine": machine(device), "shape": asdict(shape), "tables": []}
    show_machine(found["machine"])
    model = shape.build(device, DTYPES[dtype], prompt + new_tokens + 1)
    generator = torch.Generator().manual_seed(3)
    prompts = torch.randint(3, shape.vocabulary, (rows, prompt), generator=generator).tolist()
    # Of a random model every token is about equally likely, so this share of the vocabulary as ends makes
    # lengths with a mean of a quarter of the limit.
    ends = max(1, 4 * shape.vocabulary // new_tokens)
    for kind, eos in (("equal", ()), ("unequal", tuple(range(ends)))):
        timings, lengths = one_kind(model, prompts, eos, new_tokens, top_k, rounds, device)
        title = (
            f"{rows} answers of {kind} length, {min(lengths)} to {max(lengths)} tokens, mean "
            f"{sum(lengths) / rows:.0f}, K {top_k}, {dtype}"
        )
        show(title, OURS, timings)
        found["tables"].append({"kind": kind, "lengths": lengths, "timings": timings})
    write(json_file, found)


def one_kind(
    model: PreTrainedModel,
    prompts: list[list[int]],
    eos: tuple[int, ...],
    new_tokens: int,
    top_k: int,
    rounds: int,
    device: str,
) -> tuple[dict[str, Any], list[int]]:
    """Timings of the ways, and the lengths of the answers that ours gave."""
    seeds = list(range(len(prompts)))
    lengths: list[int] = []

    def sample(engine: CachedEngine | GenerateEngine) -> None:
        rollout = engine.sample(model, prompts, seeds, eos_ids=eos, pad_id=0, top_k=top_k)
        lengths[:] = rollout.response_lengths.tolist()

    settings = {"max_new_tokens": new_tokens}
    ids = torch.tensor(prompts, device=device)
    # Plain sampling, without seeds, log-probabilities, entropy or candidates: less than a rollout needs.
    own = GenerationConfig(
        do_sample=True,
        top_k=0,
        max_new_tokens=new_tokens,
        eos_token_id=list(eos) or None,
        pad_token_id=0,
    )

    def plain() -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=own)  # type: ignore[operator]

    model.generation_config = own
    sides = [
        Side(PLAIN, plain),
        Side(REFERENCE, lambda: sample(GenerateEngine(**settings)), rounds=2),
        Side(OURS, lambda: sample(CachedEngine(**settings))),
    ]
    return race(sides, rounds, device), lengths
