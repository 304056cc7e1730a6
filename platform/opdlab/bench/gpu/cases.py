"""What the suite measures, the most telling first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from transformers import AutoConfig

from opdlab.bench.gpu import leaves, loss, memory, rivals, rollout, scoring, step
from opdlab.bench.gpu.figures import Card, Case
from opdlab.bench.shapes import KNOWN, Shape
from opdlab.bench.small_models import small_config

_TINY = Shape(64, 2, 4, 2, 128, 512)


def cases(card: Card) -> Iterator[Case]:
    """All of a card; tiny ones of everything else."""
    yield from _of_a_card() if card.device.type == "cuda" else tiny()


def tiny() -> Iterator[Case]:
    """Each kind at a size of no worth, to try it."""
    yield from scoring.cases("tiny", _TINY, (24, 48), 1)
    yield from rollout.cases("tiny", _TINY, ((4, 16),), 1, rivals=4)
    yield from rollout.hybrid("tiny Qwen3.5", small_config("qwen3_5"), 4, 16, 1)
    yield from loss.cases("tiny", _TINY, (64,), 15)
    yield from step.cases("tiny", _TINY, _TINY, 1, rows=2, tokens=8)
    yield from memory.cases("tiny", _TINY, _TINY, 1, rows=2, tokens=8)
    yield from rivals.trl("tiny", _TINY, _TINY, 1, rows=2, tokens=8)
    yield from rivals.vllm("tiny", _TINY, 1, rows=4, tokens=16)
    yield from leaves.cases("tiny", _TINY, (24,), 1)


def _of_a_card() -> Iterator[Case]:
    small, large = KNOWN["qwen2.5-1.5b"], KNOWN["qwen2.5-7b"]
    one, other, both = "Qwen2.5 1.5B", "Qwen2.5 7B", "Qwen2.5, 1.5B by 7B"
    yield from chain(
        scoring.cases(one, small, (4096, 16384), 10),
        rollout.cases(one, small, ((64, 1024), (8, 1024), (256, 1024)), 15, rivals=64),
        scoring.cases(other, large, (4096, 16384, 39000), 25),
        rollout.cases(other, large, ((64, 1024),), 20),
        loss.cases(one, small, (4096, 32768), 15),
        step.cases(both, small, large, 90, rows=8, tokens=1024),
        memory.cases(both, small, large, 45, rows=8, tokens=1024),
        rivals.trl(both, small, large, 120, rows=8, tokens=256),
        leaves.cases(one, small, (16384,), 40),
        rollout.cases(one, small, ((64, 8192), (8, 8192), (256, 8192)), 25),
        scoring.cases(one, small, (39000,), 20),
        rivals.vllm(one, small, 150, rows=64, tokens=1024),
        scoring.cases("Qwen3 8B", KNOWN["qwen3-8b"], (16384,), 30),
        scoring.cases("Qwen3 1.7B", KNOWN["qwen3-1.7b"], (16384,), 20),
        loss.cases(one, small, (8192, 16384), 15),
        leaves.cases(other, large, (16384,), 40),
        rollout.cases(other, large, ((8, 1024), (256, 1024), (64, 8192), (8, 8192)), 40),
        rivals.vllm(other, large, 150, rows=64, tokens=1024),
        rollout.hybrid(
            "Qwen3.5 by default, 9B", AutoConfig.for_model("qwen3_5_text"), 64, 1024, 60
        ),
        scoring.cases("Qwen3 32B", KNOWN["qwen3-32b"], (4096, 16384, 39000), 60),
        rollout.cases(other, large, ((256, 8192),), 120),
    )
