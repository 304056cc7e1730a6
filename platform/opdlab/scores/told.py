"""What a teacher elsewhere tells of its distributions, made distributions again."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from opdlab.modelling import Listed, TeacherLogits
from opdlab.records import Distributions
from opdlab.scores.head import Head
from opdlab.scores.spread import dense_top
from opdlab.scoring import Elsewhere
from opdlab.shapes import Tensor
from opdlab.transfers import to_device


class Told(Elsewhere, ABC):
    """A teacher that tells its hidden states, or its likeliest tokens and, in a last column whose id is -1,
    all others together.

    Attributes:
        vocabulary: entries that it shares with the student; None for all.
        whole_head: makes distributions of hidden states, where it is here already.
        placed: where losses are computed; None before `place`.
    """

    vocabulary: int | None
    whole_head: Head | None
    placed: torch.device | None = None

    @abstractmethod
    def entries(self) -> int:
        """Of a distribution, the shared ones."""

    def fetched_head(self) -> Head:
        """That of a teacher which tells hidden states."""
        assert self.whole_head is not None
        return self.whole_head

    def place(self, device: torch.device, offload: bool = False) -> None:
        """Its head goes where losses are computed, and tokens when they are asked for; the rest stays."""
        self.placed = device
        if self.whole_head is not None:
            self.whole_head.place(device)

    def logits(self, said: Distributions) -> TeacherLogits:
        """Logits of what was told, over the shared vocabulary."""
        entries = self.entries()
        if said.hidden is not None:
            return self.fetched_head().logits(said.hidden, entries)
        ids, values = self.tokens(said)
        return lambda part: dense_top(ids[part], values[part], entries)

    def tokens(self, said: Distributions) -> tuple[Tensor, Tensor]:
        """The tokens that were told, and their log-probabilities, where losses are computed."""
        assert said.top_ids is not None
        assert said.top_log_prob is not None
        device = self.placed or said.top_ids.device
        return to_device(said.top_ids, device), to_device(said.top_log_prob, device)

    def listed(self, said: Distributions) -> Listed | None:
        """The tokens that were told, and the rest as one; None of hidden states."""
        if said.top_ids is None or said.top_log_prob is None:
            return None
        return Listed(said.top_ids[:, :-1], said.top_log_prob[:, :-1], said.top_log_prob[:, -1])
