"""Other ways to every candidate's confidence, as other programs do it: exact, and used nowhere else."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from opdlab.records import Questions, Rollout
from opdlab.sampling import cache_argument
from opdlab.scoring import Leaves, leaves
from opdlab.shapes import Float, Int, Tensor

# Vocabulary rows projected at a time: rivals get the chunks, too, so that layouts are compared.
_ROWS = 256


def _max_log_prob(model: PreTrainedModel, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N"]:
    head: Any = model.get_output_embeddings()
    parts = [head(rows).float() for rows in hidden.split(_ROWS)]
    return torch.cat([logits.amax(-1) - logits.logsumexp(-1) for logits in parts])


@torch.no_grad()
def dense_tree(
    model: PreTrainedModel,
    rollout: Rollout,
    questions: Questions,
    segments: int = 1,
    every: int = 1,
) -> Float[Tensor, "N"]:
    """Log of the largest probability after each leaf, from one pass over [trunk | leaves] and a dense mask.

    Args:
        segments: leaves in so many passes, each of which prefills the whole trunk again
            (arXiv:2605.30833, section 5).
        every: do this part of the work alone: each so-manieth segment, and of the trunk's projection as
            many rows. NaN for the leaves of the others.

    The trunk's own states are projected in the first pass, as scoring needs them.
    """
    tree = leaves(rollout, questions.candidates)
    found = torch.full((len(tree),), torch.nan, device=rollout.tokens.device)
    for row in range(len(rollout.tokens)):
        length = int(rollout.prompt_lengths[row] + rollout.response_lengths[row])
        tokens = rollout.tokens[row, :length]
        mine = (tree.row == row).nonzero().squeeze(1)
        for number, part in enumerate(mine.tensor_split(segments)[::every]):
            hidden = _one_pass(model, tokens, tree, part)
            if number == 0:
                first = int(rollout.prompt_lengths[row]) - 1
                _max_log_prob(model, hidden[first:length:every])
            found[part] = _max_log_prob(model, hidden[length:])
    return found


def _one_pass(
    model: PreTrainedModel, tokens: Int[Tensor, "S"], tree: Leaves, part: Int[Tensor, "n"]
) -> Float[Tensor, "N H"]:
    column, S, n = tree.column[part], len(tokens), len(part)
    ids = torch.cat([tokens, tree.token[part]])
    place = torch.cat([torch.arange(S, device=tokens.device), column])
    seen = torch.zeros(S + n, S + n, dtype=torch.bool, device=tokens.device)
    seen[:, :S] = place[:, None] > torch.arange(S, device=tokens.device)
    seen.fill_diagonal_(True)
    mask = torch.zeros(seen.shape, dtype=model.dtype, device=tokens.device)
    mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
    output = model.base_model(
        input_ids=ids[None],
        position_ids=place[None],
        attention_mask=mask[None, None],
        use_cache=False,
    )
    return output.last_hidden_state[0]


class Decoder:
    """A decode step for each candidate on the keys of its prefix, which are cached beforehand."""

    def __init__(self, model: PreTrainedModel, rollout: Rollout) -> None:
        self.model, self.rollout = model, rollout

    @cached_property
    def caches(self) -> list[DynamicCache]:
        """Of whole rows, filled when they are first needed."""
        caches = [DynamicCache() for _ in self.rollout.tokens]
        lengths = (self.rollout.prompt_lengths + self.rollout.response_lengths).tolist()
        base = self.model.base_model
        for tokens, length, cache in zip(self.rollout.tokens, lengths, caches, strict=True):
            base(input_ids=tokens[None, :length], use_cache=True, **{cache_argument(base): cache})
        return caches

    @torch.no_grad()
    def __call__(self, tree: Leaves, chosen: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Log of the largest probability after the chosen leaves."""
        found = torch.empty(len(chosen), device=chosen.device)
        takes = cache_argument(self.model)
        for place, leaf in enumerate(chosen.tolist()):
            prefix = _prefix(self.caches[int(tree.row[leaf])], int(tree.column[leaf]))
            logits = self.model(
                input_ids=tree.token[leaf].view(1, 1), use_cache=True, **{takes: prefix}
            ).logits[0, -1]
            found[place] = logits.float().amax() - logits.float().logsumexp(-1)
        return found


def _prefix(cache: DynamicCache, columns: int) -> DynamicCache:
    """The first columns of a cache, without a copy."""
    found = DynamicCache()
    layers: list[Any] = cache.layers
    for layer in layers:
        part = DynamicLayer()
        part.lazy_initialization(layer.keys, layer.values)
        part.keys, part.values = layer.keys[:, :, :columns], layer.values[:, :, :columns]
        found.layers.append(part)
    return found


@torch.no_grad()
def prefill_each(
    model: PreTrainedModel, rollout: Rollout, tree: Leaves, chosen: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """A whole forward for each of the chosen leaves."""
    found = torch.empty(len(chosen), device=chosen.device)
    for place, leaf in enumerate(chosen.tolist()):
        prefix = rollout.tokens[tree.row[leaf], : tree.column[leaf]]
        ids = torch.cat([prefix, tree.token[leaf].view(1)])
        state = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1:]
        found[place] = _max_log_prob(model, state)[0]
    return found
