"""Outcome rewards: the training answers of a step, judged by the evaluator that posed their problem."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from opdlab.evaluation import decode
from opdlab.modelling import marks_of, own_part
from opdlab.plugins import Evaluator, Grader, verdicts_on
from opdlab.prompts import PromptSource
from opdlab.records import Problem, Rollout, Verdict
from opdlab.shapes import Float, Tensor


def outcomes(
    rollout: Rollout,
    problems: list[Problem],
    prompts: PromptSource,
    tokenizer: PreTrainedTokenizerBase,
) -> Float[Tensor, "B"]:
    """1 for a correct answer, 0 for any other, NaN where the grader failed, which is no wrong answer.

    Judged is what an evaluation would judge: the answer's own part.
    """
    marks, begun = marks_of(tokenizer), prompts.wording.prefill
    answers = [
        (
            problem,
            own_part(begun + text, _prompt(rollout, row, tokenizer).removesuffix(begun), marks),
        )
        for row, (problem, text) in enumerate(
            zip(problems, decode(rollout, tokenizer), strict=True)
        )
    ]
    rows: dict[Evaluator | Grader, list[int]] = {}
    for row, problem in enumerate(problems):
        rows.setdefault(prompts.evaluator(problem), []).append(row)
    found = torch.zeros(len(problems))
    for evaluator, mine in rows.items():
        verdicts = verdicts_on(evaluator, [answers[row] for row in mine])
        for row, verdict in zip(mine, verdicts, strict=True):
            right = float(verdict.status == "correct")
            found[row] = torch.nan if verdict.status in Verdict.FAULTS else right
    return found.to(rollout.tokens.device)


def _prompt(rollout: Rollout, row: int, tokenizer: PreTrainedTokenizerBase) -> str:
    ids = rollout.tokens[row, : rollout.prompt_lengths[row]].tolist()
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
