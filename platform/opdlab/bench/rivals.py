"""Other ways to every candidate's confidence, as other programs do it: exact, and used nowhere else."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from opdlab.records import Questions, Rollout
from opdlab.shapes import Float, Int, Tensor
from opdlab.tree import Leaves, leaves

# Vocabulary rows projected at a time: rivals get the chunks, too, so that layouts are compared.
_ROWS = 256


def _max_log_prob(model: PreTrainedModel, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N"]:
    head: Any = model.get_output_embeddings()
    parts = [head(rows).float() for rows in hidden.split(_ROWS)]
    return torch.cat([logits.amax(-1) - logits.logsumexp(-1) for logits in parts])


@torch.no_grad()
def dense_tree(
    model: PreTrainedModel, rollout: Rollout, questions: Questions, segments: int = 1
) -> Float[Tensor, "N"]:
    """Log of the largest probability after each leaf, from one pass over [trunk | leaves] and a dense mask.

    Args:
        segments: leaves in so many passes, each of which prefills the whole trunk again
            (arXiv:2605.30833, section 5).

    The trunk's own states are projected in the first pass, as scoring needs them.
    """
    tree = leaves(rollout, questions.candidates)
    found = torch.empty(len(tree), device=rollout.tokens.device)
    for row in range(len(rollout.tokens)):
        length = int(rollout.prompt_lengths[row] + rollout.response_lengths[row])
        tokens = rollout.tokens[row, :length]
        mine = (tree.row == row).nonzero().squeeze(1)
        for number, part in enumerate(mine.tensor_split(segments)):
            hidden = _one_pass(model, tokens, tree, part)
            if number == 0:
                _max_log_prob(model, hidden[int(rollout.prompt_lengths[row]) - 1 : length])
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
    """A decode step for each candidate on the cached keys of its row, later columns first."""

    def __init__(self, model: PreTrainedModel, rollout: Rollout) -> None:
        self.model, self.rollout = model, rollout

    @torch.no_grad()
    def __call__(self, tree: Leaves, chosen: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Log of the largest probability after the chosen leaves."""
        found = torch.empty(len(chosen), device=chosen.device)
        for row in tree.row[chosen].unique().tolist():
            mine = (tree.row[chosen] == row).nonzero().squeeze(1)
            mine = mine[tree.column[chosen[mine]].argsort(descending=True)]
            cache = self._prefilled(row)
            for place in mine.tolist():
                leaf = int(chosen[place])
                column = int(tree.column[leaf])
                if behind := cache.get_seq_length() - column:
                    cache.crop(-behind)
                logits = self.model(
                    input_ids=tree.token[leaf].view(1, 1), past_key_values=cache, use_cache=True
                ).logits[0, -1]
                found[place] = logits.float().amax() - logits.float().logsumexp(-1)
        return found

    def _prefilled(self, row: int) -> DynamicCache:
        rollout, cache = self.rollout, DynamicCache()
        length = int(rollout.prompt_lengths[row] + rollout.response_lengths[row])
        tokens = rollout.tokens[row, :length]
        self.model.base_model(input_ids=tokens[None], past_key_values=cache, use_cache=True)
        return cache


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
