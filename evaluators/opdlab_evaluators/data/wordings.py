"""Named wordings of the question, as others ask it; the chat template is put around them later."""

from __future__ import annotations

from typing import Literal

Wording = Literal["matharena", "step_by_step", "question_answer", "plain"]

BOXED = "Put your final answer within \\boxed{}."
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."


def ask(question: str, wording: Wording, hint: str = "") -> str:
    """The question in a wording.

    `matharena`: MathArena's of 2026, its instruction before the problem. `step_by_step`: the older one
    of 2024 and 2025, which asks to reason step by step. `question_answer`: that of GSM8K in
    lm-evaluation-harness, for base models. `plain`: the question alone.

    Args:
        hint: what the benchmark says of its answers, such as "The answer is an integer ...".
    """
    if wording == "plain":
        return question
    if wording == "question_answer":
        return f"Question: {question}\nAnswer:"
    instruction = BOXED if wording == "matharena" else STEP_BY_STEP
    return f"{instruction}\n{hint}\n\n{question}" if hint else f"{instruction}\n\n{question}"
