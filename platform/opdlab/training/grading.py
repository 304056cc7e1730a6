"""Outcome rewards: the training answers of a step, judged by the evaluator that posed their problem."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from opdlab.evaluation import decode
from opdlab.evaluator import Evaluator
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
    answers = list(zip(problems, decode(rollout, tokenizer), strict=True))
    rows: dict[Evaluator, list[int]] = {}
    for row, problem in enumerate(problems):
        rows.setdefault(prompts.evaluator(problem), []).append(row)
    found = torch.zeros(len(problems))
    for evaluator, mine in rows.items():
        verdicts = evaluator.grade_all([answers[row] for row in mine])
        for row, verdict in zip(mine, verdicts, strict=True):
            right = float(verdict.status == "correct")
            found[row] = torch.nan if verdict.status in FAULTS else right
    return found.to(rollout.tokens.device)
