"""Answers that the data give, in place of sampled ones: supervised fine-tuning, and mixtures with it.

A loss over distributions is right in whatever state it is asked, so a share of the states may be those of
given answers (generalised knowledge distillation, arXiv:2306.13649).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING

import torch

from opdlab.errors import UnfitError
from opdlab.modelling import closing
from opdlab.prompts import continued, rendered
from opdlab.records import Prompt, Rollout
from opdlab.sampling import assemble, scored
from opdlab.shapes import Int, Tensor
from opdlab.transfers import to_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.configuration import Experiment
    from opdlab.evaluation import Subject
    from opdlab.modelling import Wording


def share_of(config: Experiment) -> float:
    """Share of the prompts whose given answers are trained on."""
    return config.prompts.given


def is_given(index: int, share: float) -> bool:
    """Whether the given answer of a place is taken: of any n places in a row, n * share or one off."""
    return floor((index + 1) * share) > floor(index * share)


def answer_ids(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    eos_ids: Sequence[int],
    most: int,
    vocabulary: int | None,
    template: Wording | str,
) -> list[int]:
    """Tokens of a given answer as it follows its prompt, with the EOS that ends it, unless it was `cut`.

    Args:
        most: `rollout.max_new_tokens`.
        vocabulary: entries that student and teacher share.

    Raises:
        UnfitError: it is longer, goes on after an EOS, holds a token that the teacher does not have, or was
            cut before its first token.
    """
    problem = prompt.problem
    shown = problem.extra.get("shown") or rendered(tokenizer, problem, template)
    ids = continued(tokenizer, shown, str(problem.extra["given"]))
    if not problem.extra.get("cut") and (not ids or ids[-1] not in eos_ids):
        ids.append(closing(tokenizer, eos_ids, template))
    whose = f"the given answer to prompt {problem.id} of {problem.benchmark}"
    if not ids:
        raise UnfitError(f"{whose} has no tokens", "leave such rows out by prompts.where")
    if not set(eos_ids).isdisjoint(ids[:-1]):
        mark = tokenizer.convert_ids_to_tokens(next(one for one in ids if one in eos_ids))
        raise UnfitError(
            f"{whose} continues after a token that ends answers ({mark})",
            "cut the text there, or leave such rows out by prompts.where",
        )
    if len(ids) > most:
        raise UnfitError(
            f"{whose} has {len(ids)} tokens, EOS included, and rollout.max_new_tokens is {most}",
            "raise it, or leave such rows out by prompts.where",
        )
    if vocabulary is not None and max(ids) >= vocabulary:
        raise UnfitError(
            f"{whose} holds token {tokenizer.convert_ids_to_tokens(max(ids))!r} (id {max(ids)}), which is "
            f"not among the {vocabulary} entries that student and teacher share",
            "leave such rows out by prompts.where, or take a teacher whose vocabulary has it",
        )
    return ids


def given_responses(
    prompts: Sequence[Prompt], subject: Subject, most: int
) -> list[Int[Tensor, "_"]]:
    """Tokens of given answers."""
    own = (subject.tokenizer, subject.eos_ids, most, subject.vocabulary, subject.template)
    return [torch.tensor(answer_ids(prompt, *own)) for prompt in prompts]


def given_rollout(
    prompts: Sequence[Prompt], subject: Subject, seeds: Sequence[int], most: int, top_k: int
) -> Rollout:
    """Given answers as a rollout, with what the student says of them."""
    device = subject.model.device
    responses = [to_device(one, device) for one in given_responses(prompts, subject, most)]
    asked = [prompt.tokens for prompt in prompts]
    recorded = scored(subject.model, asked, responses, subject.vocabulary, top_k)
    return assemble(asked, responses, recorded, seeds, subject.eos_ids, subject.pad_id)
