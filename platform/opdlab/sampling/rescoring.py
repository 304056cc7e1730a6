"""What a model says of responses that were sampled elsewhere, as an engine of its own records it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

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
from opdlab.shapes import Float, Int, Tensor
from opdlab.transfers import to_device, to_host

SCORED_TOKENS = 16384
"""Tokens of a forward, at most, or one row."""


Kept = TypeVar("Kept", Recorded, torch.Tensor)
"""What is kept of some tokens; it can be indexed by them."""
CLIPPED = 3.0
"""Nats below which a token's log-probability counts as this: no token then weighs more."""
EDGE, LOGIT = 0.2, 0.25
"""What rounding may do at the edge of a nucleus: to its probability, as a share of the variance of being
within; and to a logit, nats."""
ENTRIES = 1 << 22
"""Of distributions that are looked at together, as they are sorted and copied some ten times: 0.2 GB."""


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

    def keep(logits: Float[Tensor, "T V"], tokens: Int[Tensor, "T one"]) -> Recorded:
        return record(weigh(logits), tokens, top_k)

    return _of_rows(model, prompts, responses, vocabulary, keep, concatenate)


def surprises(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    temperature: float,
    top_p: float,
) -> Float[Tensor, "T 3"]:
    """How far the responses are from what the model would draw, token by token.

    Of the clipped log-probability of each token, nats: how far it is above its expectation under the
    distribution that the token should come from, its variance there; and 1 where the token is none of that
    distribution's, nor at the edge of its nucleus. The sum of the first has the mean 0 if the tokens were
    drawn so, whatever they are.

    Args:
        temperature, top_p: the distribution is the model's with these; a temperature above 0.
    """

    def few(logits: Float[Tensor, "t V"], tokens: Int[Tensor, "t one"]) -> Float[Tensor, "t 3"]:
        chances = (logits.float() / temperature).softmax(-1)
        far = torch.ones_like(tokens, dtype=torch.bool)
        if top_p < 1:
            ordered = chances.sort(-1, descending=True)
            before = ordered.values.cumsum(-1) - ordered.values
            kept = torch.empty_like(before, dtype=torch.bool)
            kept.scatter_(-1, ordered.indices, before < top_p)
            mine = chances.gather(-1, tokens)
            least = chances.masked_fill(~kept, 2.0).amin(-1, keepdim=True)
            likelier = chances.masked_fill(chances <= mine, 0.0).sum(-1, keepdim=True)
            far = likelier >= top_p + EDGE * top_p * (1 - top_p)
            far &= mine <= least * math.exp(-LOGIT / temperature)
            chances = chances.masked_fill(~kept, 0.0)
            chances /= chances.sum(-1, keepdim=True)
        values = chances.log().clamp_(min=-CLIPPED)
        mean = (chances * values).sum(-1)
        variance = (chances * (values - mean[:, None]).square()).sum(-1)
        cut = chances.gather(-1, tokens)[:, 0] == 0
        above = (values.gather(-1, tokens)[:, 0] - mean).masked_fill(cut, 0.0)
        outside = (cut & far[:, 0]).float()
        return torch.stack([above, variance.masked_fill(cut, 0.0), outside], -1)

    def keep(logits: Float[Tensor, "T V"], tokens: Int[Tensor, "T one"]) -> Float[Tensor, "T 3"]:
        size = max(1, ENTRIES // logits.shape[1])
        return torch.cat([few(logits[some], tokens[some]) for some in slices(len(logits), size)])

    return _of_rows(model, prompts, responses, vocabulary, keep, lambda parts: torch.cat([*parts]))


def _of_rows(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Int[Tensor, "_"]],
    vocabulary: int | None,
    keep: Callable[[Tensor, Tensor], Kept],
    join: Callable[[Iterable[Kept]], Kept],
) -> Kept:
    """What is kept of the logits of each response token, row after row; see `scored`."""
    width = vocabulary or model.config.get_text_config().vocab_size
    together, _ = rows_at_a_time(width, model.device)
    lengths = [len(prompt) + len(row) for prompt, row in zip(prompts, responses, strict=True)]
    # Filler stands on the right, where it is read last.
    groups = packs(lengths, SCORED_TOKENS)
    of_row: dict[int, Kept] = {}
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
            found = join(
                keep(project(model, hidden[part])[:, :vocabulary], tokens[part])
                for part in slices(len(hidden), together)
            )
            ends = torch.arange(len(hidden), device=hidden.device)
            mine = ends.split([len(responses[row]) for row in group])
            of_row |= {row: found[places] for row, places in zip(group, mine, strict=True)}
    return join(of_row[row] for row in range(len(prompts)))
