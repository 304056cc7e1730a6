"""What is measured of a student, and how its answers are sampled for it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from opdlab.configuration.posing import AnyEvaluator
from opdlab.configuration.section import Section
from opdlab.seeds import LARGEST_SEED


class Evaluation(Section):
    """What is measured, and when."""

    benchmarks: list[AnyEvaluator] = []
    """Benchmarks to sample and grade."""
    samples: int = Field(default=8, ge=1)
    """Completions per problem: the k of mean@k."""
    every: int = Field(default=0, ge=0)
    """Also evaluate every N steps; 0 evaluates only at the end."""
    references: list[Literal["student", "teacher"]] = ["student", "teacher"]
    """Models evaluated for comparison: the student before training, the teacher."""
    sampling: Literal["reasoning", "on_policy", "greedy"] = "on_policy"
    """`reasoning`: temperature 0.6, top-p 0.95, 32,768 tokens. `on_policy`: temperature 1, top-p 1.
    `greedy`: temperature 0. The three keys below override single values."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens; by default that of `sampling`, else that of the rollout."""
    temperature: float | None = Field(default=None, ge=0)
    """Sampling temperature, instead of that of `sampling`; 0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Top-p of nucleus sampling, instead of that of `sampling`."""
    seed: int = Field(default=1234, ge=-LARGEST_SEED, le=LARGEST_SEED)
    """Seed of sampling. The same for every checkpoint, so that they are compared pairwise."""
    batch_rows: int = Field(default=512, ge=1)
    """Most responses sampled at a time."""
    batch_tokens: int = Field(default=262_144, ge=1)
    """Most tokens, padding included, whose keys and values are in memory at a time; a longer response
    is sampled alone. Rows are sampled as long as there is room for what they have produced; the newest
    wait if longer ones need the room. Only for models in this process."""
