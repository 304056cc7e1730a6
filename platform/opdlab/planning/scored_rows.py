"""Rows that a teacher would score, and which of its passes over them take most."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from opdlab.records import Rollout
from opdlab.scoring import TRUNK_TOKENS, WORTH_A_CALL, Chunk, Leaves
from opdlab.shapes import Tensor


@dataclass(frozen=True)
class ScoredRows:
    """What a teacher is asked to score on a device: rows of one length.

    Attributes:
        prompt, response: tokens of each row.
        group: rows that answer one prompt.
        top_k: candidates at each active position; 0 for none.
        active: share of the positions that have candidates, spread evenly.
        full: whether the loss needs the teacher's states.
        steps: how far candidates are followed.
    """

    rows: int
    prompt: int
    response: int
    group: int = 1
    top_k: int = 0
    active: float = 1.0
    full: bool = False
    steps: int = 1

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.response

    @property
    def reached(self) -> int:
        """Tokens of a row with what may follow its candidates."""
        return self.length + self.steps - 1

    def together(self, most: int | None, reach: int | None = None) -> int:
        """Rows that are scored together; `most` tokens of a row are scored with others, `reach` in all."""
        if self.reached > min(most or self.reached, reach or self.reached):
            return 1
        return max(1, min(self.rows, min(TRUNK_TOKENS, reach or TRUNK_TOKENS) // self.length))

    def of_length(self, length: int) -> ScoredRows:
        """As many rows as are scored together, of another length with as large a part of prompt."""
        prompt = max(1, self.prompt * length // self.length)
        rows = self.together(None)
        return replace(self, rows=rows, prompt=prompt, response=length - prompt)

    def rollout(self, rows: int) -> Rollout:
        """Of so many of these rows; the sampled tokens are none of the candidates."""
        tokens = torch.zeros(rows, self.length, dtype=torch.long)
        tokens[:, : self.prompt] = (torch.arange(rows) // self.group)[:, None]
        count = round(self.active * self.response)
        place = torch.arange(count) * self.response // max(1, count)
        candidates = torch.full((rows, self.response, self.top_k), -1)
        candidates[:, place] = 1 + torch.arange(self.top_k)
        T = rows * self.response
        return Rollout(
            tokens=tokens,
            prompt_lengths=torch.full((rows,), self.prompt),
            response_lengths=torch.full((rows,), self.response),
            ended=torch.zeros(rows, dtype=torch.bool),
            log_prob=torch.zeros(T),
            entropy=torch.zeros(T),
            candidates=candidates.flatten(0, 1),
            seeds=torch.arange(rows),
            eos_ids=(),
        )


def beside(asked: ScoredRows, count: int) -> list[Tensor]:
    """What is known of all rows while so many of them are scored, where that is not all."""
    if count == asked.rows:
        return []
    others = (asked.rows - count) * asked.response
    # Numbers drawn for all and scores of those before; of these, copies of what is asked.
    return [
        torch.empty(others, 5 + 2 * asked.top_k),
        torch.empty(count * asked.response, 5 + asked.top_k),
        torch.empty(count * asked.response, 2 + 2 * asked.top_k, dtype=torch.long),
    ]


def costly(parts: list[Chunk], tree: Leaves) -> list[Chunk]:
    """Of the passes with the most leaves the last one, and the last that has no key to itself unmasked."""
    largest = max((part.stop - part.start for part in parts), default=0)
    full = [part for part in parts if part.stop - part.start >= 0.9 * largest]
    early = [part for part in full if int(tree.column[part.start]) < WORTH_A_CALL]
    return [*early[-1:], *(full[-1:] if full[-1:] != early[-1:] else [])]
