"""Student sampling: prompts in, a `Rollout` with log-probabilities, entropy and candidates out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from opdlab.records import Rollout, option


@dataclass(frozen=True, kw_only=True)
class RolloutEngine(ABC):
    """Samples responses from a model. Register an engine under the entry point `opdlab.rollouts`."""

    max_new_tokens: int = option(128, "Longest response, in tokens, its EOS included.", ge=1)
    temperature: float = option(1.0, "Of sampling; 0 is greedy.", ge=0)
    top_p: float = option(
        1.0, "Nucleus; below 1 the samples are no longer the student's own.", gt=0, le=1
    )
    group_size: int = option(1, "Responses to each prompt.", ge=1)

    @abstractmethod
    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        eos_ids: tuple[int, ...],
        pad_id: int,
        top_k: int = 0,
        vocabulary: int | None = None,
        max_rows: int | None = None,
        on_finished: Callable[[int], None] | None = None,
    ) -> Rollout:
        """One response to each prompt (`group_size` is the caller's to unfold).

        Args:
            prompts: token ids, ragged.
            seeds: one a row; the same seed and prompt give the same response whatever else is in
                the batch.
            eos_ids: tokens that end a response.
            pad_id: filler for the right of the returned rows.
            top_k: candidates to return with every sampled token.
            vocabulary: sample among the first so many entries only (the part that student and teacher
                share); None for all.
            max_rows: rows decoded at a time; a finished row frees its place for the next prompt.
            on_finished: called with the number of rows that ended since the last call.

        `log_prob` and `entropy` are those of the untempered, untruncated distribution, in float32.
        """
