"""Outcome rewards: the training answers of a step, judged by the evaluator that posed their problem."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from opdlab.evaluation import decode, judge
from opdlab.prompts import PromptSource
from opdlab.records import Problem, Rollout
from opdlab.shapes import Float, Tensor

FAULTS = ("grader_timeout", "grader_error", "sandbox_error")


def outcomes(
    rollout: Rollout,
    problems: list[Problem],
    prompts: PromptSource,
    tokenizer: PreTrainedTokenizerBase,
) -> Float[Tensor, "B"]:
    """1 for a correct answer, 0 for any other, NaN where the grader failed, which is no wrong answer."""
    found = []
    ended = rollout.ended.tolist()
    for problem, text, eos in zip(problems, decode(rollout, tokenizer), ended, strict=True):
        verdict = judge(prompts.evaluator(problem), problem, text, "eos" if eos else "length")
        found.append(torch.nan if verdict.status in FAULTS else float(verdict.status == "correct"))
    return torch.tensor(found, device=rollout.tokens.device)
