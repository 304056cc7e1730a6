"""What a model says of responses that were sampled elsewhere, as an engine of its own records it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from opdlab.modelling import (
    check_prefixes,
    project,
    rows_at_a_time,
    sampling_mode,
    slices,
    stretches,
)
from opdlab.sampling.draws import Recorded, concatenate, record, weigh
from opdlab.scoring import packs, prefix_states, within
from opdlab.shapes import Int, Tensor
from opdlab.transfers import to_device, to_host

SCORED_TOKENS = 16384
"""Tokens of a forward, at most, or one row."""


def scored(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    top_k: int,
) -> Recorded:
    """What the model says of the responses: rows of like length together, vocabulary rows in chunks.

    Raises:
        ModelError: `check_prefixes` refuses rows so long.
    """
    width = vocabulary or model.config.get_text_config().vocab_size
    together, _ = rows_at_a_time(width, model.device)
    lengths = [len(prompt) + len(row) for prompt, row in zip(prompts, responses, strict=True)]
    # Filler stands on the right, where it is read last.
    groups = packs(lengths, SCORED_TOKENS)
    of_row: dict[int, Recorded] = {}
    # Rows are laid out on the host, so that a device is waited for once, however many they are.
    texts = to_host(responses)
    with sampling_mode(model):
        check_prefixes(model, max(lengths))
        for group in groups:
            rows = [torch.cat([torch.tensor(list(prompts[row])), texts[row]]) for row in group]
            counts = torch.tensor([len(texts[row]) for row in group])
            place, step = within(counts)
            starts = torch.tensor([len(prompts[row]) for row in group])
            hidden = prefix_states(
                model,
                to_device(pad_sequence(rows, batch_first=True), model.device),
                starts + counts,
                place,
                starts[place] + step,
                grouped=len(stretches(model, max(lengths))) > 1,
            )
            tokens = to_device(torch.cat([texts[row] for row in group]), model.device)[:, None]
            found = concatenate(
                record(weigh(project(model, hidden[part])[:, :vocabulary]), tokens[part], top_k)
                for part in slices(len(hidden), together)
            )
            ends = torch.arange(len(hidden), device=hidden.device)
            mine = ends.split([len(responses[row]) for row in group])
            of_row |= {row: found[places] for row, places in zip(group, mine, strict=True)}
    return concatenate(of_row[row] for row in range(len(prompts)))
