"""`generate` made to draw as every engine here does."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from opdlab.sampling.draws import choose, uniforms, weigh
from opdlab.shapes import Int, Tensor


class Seeded(LogitsProcessor):
    """Draws each row's token from its own seed and position.

    It leaves one finite logit a row, so the greedy search that follows takes the token drawn.
    """

    def __init__(
        self,
        temperature: float,
        top_p: float,
        seeds: Int[Tensor, "B"],
        prompt: int,
        vocabulary: int | None,
    ) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.seeds, self.prompt, self.vocabulary = seeds, prompt, vocabulary

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        position = torch.full_like(self.seeds, input_ids.shape[1] - self.prompt)[:, None]
        token = choose(
            weigh(scores[:, : self.vocabulary].clone()),
            uniforms(self.seeds[:, None], position),
            self.temperature,
            self.top_p,
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)
