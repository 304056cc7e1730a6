"""Made-up rows in the columns of public data sets, as their cards have them, and the settings that fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from code_rows import livecodebench, mbpp


class Public(NamedTuple):
    """A public set.

    Attributes:
        row: a row that asks `n+2?`, by n.
        prompts: settings that read it.
        gold: what answers to row 2 are held against; None without a grader.
        method: by which it is trained on.
        measured: settings of a benchmark, where they are others than those of the prompts.
    """

    row: Callable[[int], dict[str, Any]]
    prompts: dict[str, Any]
    gold: Any
    method: str = "grpo"
    measured: dict[str, Any] = {}


def said(n: int, answer: str) -> list[dict[str, str]]:
    """A chat of one question and its answer."""
    turns = [("user", f"{n}+2?"), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in turns]


PUBLIC = {
    "DAPO-Math-17k": Public(
        lambda n: {
            "data_source": "math_dapo",
            "prompt": said(n, "")[:1],
            "ability": "MATH",
            "reward_model": {"ground_truth": str(n + 2), "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": f"{n}a"},
        },
        {"answer_column": "reward_model.ground_truth", "grader": "math"},
        "4",
    ),
    "OpenR1-Math": Public(
        lambda n: {
            "problem": f"{n}+2?",
            "solution": f"Adding. \\boxed{{{n + 2}}}",
            "answer": str(n + 2),
            "messages": said(n, f"<think>{n + 2}</think>{n + 2}"),
        },
        {"column": "messages", "answer_column": "answer", "grader": "math"},
        "4",
    ),
    "DeepMath": Public(
        lambda n: {
            "question": f"{n}+2?",
            "final_answer": str(n + 2),
            "difficulty": 4.5,
            "topic": "Arithmetic",
            "r1_solution_1": "Adding.",
        },
        {
            "column": "question",
            "answer_column": "final_answer",
            "grader": "numeric",
            "where": "difficulty >= 4",
        },
        "4",
    ),
    "NuminaMath": Public(
        lambda n: {
            "source": "cn",
            "problem": f"{n}+2?",
            "solution": f"It is $\\boxed{{{n + 2}}}$.",
        },
        {"column": "problem", "answer_column": "solution", "grader": "math"},
        "4",
    ),
    "UltraChat": Public(
        lambda n: {"prompt": f"{n}+2?", "prompt_id": f"{n}a", "messages": said(n, str(n + 2))},
        {"column": "messages", "given": 1},
        None,
        "sft",
        {"column": "prompt", "answer_column": "messages.1.content", "grader": "exact"},
    ),
    "GSM8K": Public(
        lambda n: {
            "question": f"{n}+2?",
            "answer": f"It is <<{n}+2={n + 2}>>{n + 2}.\n#### {n + 2}",
        },
        {"column": "question", "answer_column": "answer", "grader": "math"},
        "4",
    ),
    "MBPP": Public(
        lambda n: {**mbpp(n), "text": f"{n}+2?"},
        {"column": "text", "answer_column": "test_list", "grader": "code"},
        {
            "names": ["add_2"],
            "tests": "assert add_2(0) == 2\nassert add_2(1) == 3\nassert add_2(2) == 4",
        },
    ),
    "LiveCodeBench": Public(
        lambda n: {**livecodebench(2 * n), "question_content": f"{n}+2?"},
        {
            "column": "question_content",
            "answer_column": "private_test_cases",
            "grader": "code",
            "where": 'starter_code == ""',
        },
        {"cases": [[f"{n} 4\n", f"{n + 4}"] for n in (2, 3, 4)], "function": None},
    ),
}
