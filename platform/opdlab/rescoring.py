"""What a model says of responses that were sampled elsewhere, as an engine of its own records it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from opdlab.head import hidden_states, project, rows_at_a_time
from opdlab.packing import packs
from opdlab.sampling import Recorded, concatenate, record, weigh
from opdlab.sampling_mode import sampling_mode
from opdlab.shapes import Int, Tensor
from opdlab.teacher import picks_by_length
from opdlab.vocabulary_loss import slices

SCORED_TOKENS = 16384
"""Tokens of a forward, at most, or one row."""


def scored(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "length"]],
    vocabulary: int | None,
    top_k: int,
) -> Recorded:
    """What the model says of the responses: rows of like length together, vocabulary rows in chunks."""
    width = vocabulary or model.config.get_text_config().vocab_size
    together, _ = rows_at_a_time(width, model.device)
    lengths = [len(prompt) + len(row) for prompt, row in zip(prompts, responses, strict=True)]
    # Each goes alone where frequencies depend on the longest row, or where filler may enter a state.
    alone = picks_by_length(model) or getattr(model, "_is_stateful", False)
    groups = packs(lengths, 1 if alone else SCORED_TOKENS)
    of_row: dict[int, Recorded] = {}
    with sampling_mode(model):
        for group in groups:
            rows = [
                torch.cat([torch.tensor(list(prompts[row]), device=model.device), responses[row]])
                for row in group
            ]
            states = hidden_states(model, pad_sequence(rows, batch_first=True))
            hidden = torch.cat(
                [
                    states[place, len(prompts[row]) - 1 : lengths[row] - 1]
                    for place, row in enumerate(group)
                ]
            )
            del states
            tokens = torch.cat([responses[row] for row in group])[:, None]
            found = concatenate(
                record(weigh(project(model, hidden[part])[:, :vocabulary]), tokens[part], top_k)
                for part in slices(len(hidden), together)
            )
            ends = torch.arange(len(hidden), device=hidden.device)
            mine = ends.split([len(responses[row]) for row in group])
            of_row |= {row: found[places] for row, places in zip(group, mine, strict=True)}
    return concatenate(of_row[row] for row in range(len(prompts)))
