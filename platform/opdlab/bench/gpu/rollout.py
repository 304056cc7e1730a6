"""Decoding: bytes that a step must read, over the time that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from opdlab.bench.gpu.figures import Card, Case, Figure
from opdlab.bench.shapes import Shape
from opdlab.modelling import sampling_mode
from opdlab.sampling import Decoder, Draw, Manner, Records, Room, held_of_a_token

STEPS = {"cuda": 256}
"""Steps that are timed, after as many that are not."""
PLAIN_STEPS = {"cuda": 32}
FEW = 8
"""Where there is no card."""
GOAL = 0.6


def cases(
    name: str, shape: Shape, sizes: Sequence[tuple[int, int]], seconds: int, rivals: int = 0
) -> Iterator[Case]:
    """One for each (rows, tokens of each so far).

    Args:
        rivals: rows at which the library's `generate` and the model's own step are timed, too.
    """
    longest = max(tokens for _, tokens in sizes) + 2 * STEPS["cuda"] + 2
    for rows, tokens in sizes:
        title = f"{name}, {rows} rows after {tokens:,} tokens"
        run = partial(_case, shape, rows, tokens, longest, rows == rivals)
        keys = rows * (tokens + 2 * STEPS["cuda"]) * _kept_of_a_token(shape)
        yield Case("rollout", title, seconds, run, holds=shape.weights() + keys)


@torch.no_grad()
def _case(
    shape: Shape, rows: int, tokens: int, longest: int, rivals: bool, card: Card
) -> list[Figure]:
    model = card.model(shape, longest)
    prompts = torch.randint(3, shape.vocabulary, (rows, tokens)).tolist()
    steps, few = (of.get(card.device.type, FEW) for of in (STEPS, PLAIN_STEPS))
    with sampling_mode(model):
        step = _step(card, model, prompts, Manner("lean"), steps)
        moved = _bytes(model, _kept_of_a_token(shape), rows, tokens + steps * 3 // 2)
        floor = moved / card.bandwidth
        goal = GOAL if rows == 64 else None
        found = [
            Figure("a token of every row", step * 1e3, "ms"),
            Figure("tokens a second", rows / step, "/s"),
            Figure("of the bandwidth", floor / step, "share", goal),
        ]
        if rivals:
            ways = {"its own step, recorded": Manner("static"), "its own step": Manner("plain")}
            for name, way in ways.items():
                other = _step(card, model, prompts, way, few)
                found.append(Figure(f"{name} over it", other / step, "x"))
            theirs = _generate(card, model, prompts, few)
            found.append(Figure("`generate` over it", theirs / step, "x"))
    return found


def hybrid(
    name: str, config: PretrainedConfig, rows: int, tokens: int, seconds: int
) -> Iterator[Case]:
    """Of a model with recurrent layers: whether its step is worth recording, a card alone can tell."""
    title = f"{name}, {rows} rows after {tokens:,} tokens"
    yield Case("rollout", title, seconds, partial(_hybrid, config, rows, tokens))


@torch.no_grad()
def _hybrid(config: PretrainedConfig, rows: int, tokens: int, card: Card) -> list[Figure]:
    card.drop()
    torch.manual_seed(0)
    with torch.device(card.device):
        model = AutoModelForCausalLM.from_config(config, dtype=card.dtype)
    model.eval().requires_grad_(False)
    prompts = torch.randint(3, config.vocab_size, (rows, tokens)).tolist()
    steps = PLAIN_STEPS.get(card.device.type, FEW)
    with sampling_mode(model):
        states, keys = held_of_a_token(model)
        recorded, own = (
            _step(card, model, prompts, Manner(way), steps) for way in ("static", "plain")
        )
    # States are read and written.
    moved = _bytes(model, keys, rows, tokens) + 2 * rows * states
    return [
        Figure("a token of every row", recorded * 1e3, "ms"),
        Figure("tokens a second", rows / recorded, "/s"),
        Figure("of the bandwidth", moved / card.bandwidth / recorded, "share"),
        Figure("its own step over it", own / recorded, "x"),
    ]


@torch.no_grad()
def lean_step_seconds(card: Card, shape: Shape, rows: int, tokens: int, steps: int) -> float:
    """Seconds of a step by the quickest manner."""
    model = card.model(shape, tokens + 2 * steps + 2)
    prompts = torch.randint(3, shape.vocabulary, (rows, tokens)).tolist()
    with sampling_mode(model):
        return _step(card, model, prompts, Manner("lean"), steps)


def _step(card: Card, model: Any, prompts: list[list[int]], way: Manner, steps: int) -> float:
    """Seconds of a step, sampling and records included, prefill and recording excluded."""
    draw = Draw(1.0, 1.0, 8, None, 2 * steps, ())
    decoder = Decoder(
        model, prompts, range(len(prompts)), draw, Room(len(prompts)), Records(draw), way, steps
    )
    decoder.refill()
    decoder.stretch(len(prompts))
    return card.once(lambda: decoder.stretch(len(prompts))) / steps


def _generate(card: Card, model: Any, prompts: list[list[int]], steps: int) -> float:
    ids = torch.tensor(prompts, device=card.device)

    def sample(count: int) -> None:
        settings = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=count, min_new_tokens=count, pad_token_id=0
        )
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)

    before, model.generation_config = model.generation_config, GenerationConfig()
    try:
        sample(2)
        short, long = (card.once(partial(sample, count)) for count in (2, 2 + steps))
    finally:
        model.generation_config = before
    return (long - short) / steps


def _bytes(model: Any, kept: int, rows: int, tokens: int) -> int:
    """Weights once, but for embeddings that are looked up; and keys and values of every row.

    Args:
        kept: numbers of the keys and values of a token.
    """
    embeddings = model.get_input_embeddings().weight
    weights = sum(p.numel() for p in model.parameters())
    if not model.config.tie_word_embeddings:
        weights -= embeddings.numel()
    return embeddings.element_size() * (weights + rows * tokens * kept)


def _kept_of_a_token(shape: Shape) -> int:
    """Numbers of its keys and values."""
    return shape.layers * 2 * shape.kv * shape.head_width
