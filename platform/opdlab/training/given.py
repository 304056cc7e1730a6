"""Answers that the data give, in place of sampled ones: supervised fine-tuning, and mixtures with it.

A loss over distributions is right in whatever state it is asked, so a share of the states may be those of
given answers (generalised knowledge distillation, arXiv:2306.13649).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import TYPE_CHECKING

import torch

from opdlab.errors import DataError
from opdlab.records import Prompt, Rollout
from opdlab.sampling import assemble, scored

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from opdlab.configuration import Experiment
    from opdlab.evaluation import Subject


def share_of(config: Experiment) -> float:
    """Share of the prompts whose given answers are trained on."""
    return config.prompts.given if config.prompts.type == "dataset" else 0.0


def is_given(index: int, share: float) -> bool:
    """Whether the given answer of a place is taken: of any n places in a row, n * share or one off."""
    return floor((index + 1) * share) > floor(index * share)


def answer_ids(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    eos_ids: Sequence[int],
    most: int,
    vocabulary: int | None,
) -> list[int]:
    """Tokens of a given answer, with the EOS that ends it.

    Args:
        most: `rollout.max_new_tokens`.
        vocabulary: entries that student and teacher share.

    Raises:
        DataError: it is longer, or holds a token that the teacher does not have.
    """
    problem, eos = prompt.problem, tokenizer.eos_token_id
    found = tokenizer(str(problem.extra["given"]), add_special_tokens=False)["input_ids"]
    ids = [*map(int, found), eos if isinstance(eos, int) and eos in eos_ids else eos_ids[0]]  # pyright: ignore[reportArgumentType]
    whose = f"the given answer to prompt {problem.id} of {problem.benchmark}"
    if len(ids) > most:
        raise DataError(
            f"{whose} has {len(ids)} tokens, EOS included, and rollout.max_new_tokens is {most}; raise it, "
            "or leave such rows out by prompts.where"
        )
    if vocabulary is not None and max(ids) >= vocabulary:
        raise DataError(
            f"{whose} holds token {max(ids)}, which is not among the {vocabulary} entries that student and "
            "teacher share"
        )
    return ids


def given_rollout(
    prompts: Sequence[Prompt], subject: Subject, seeds: Sequence[int], most: int, top_k: int
) -> Rollout:
    """Given answers as a rollout, with what the student says of them."""
    responses = [
        torch.tensor(
            answer_ids(prompt, subject.tokenizer, subject.eos_ids, most, subject.vocabulary),
            device=subject.model.device,
        )
        for prompt in prompts
    ]
    asked = [prompt.tokens for prompt in prompts]
    recorded = scored(subject.model, asked, responses, subject.vocabulary, top_k)
    return assemble(asked, responses, recorded, seeds, subject.eos_ids, subject.pad_id)
