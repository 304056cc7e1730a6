"""Stored samples in shorthand, for tests: one letter a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from opdlab.records import REFUSED, Sample

LETTERS = {
    "1": "correct",
    "0": "wrong",
    "n": "no_answer",
    "t": "truncated",
    "x": "grader_timeout",
    "e": "grader_error",
    "s": "sandbox_error",
    "r": "server_error",
}


def row(problem: str = "p0", index: int = 0, status: str = "correct", **changes: object) -> Sample:
    """One sample; `changes` are fields of `Sample`."""
    refused = status == "server_error"
    values: dict[str, object] = {
        "checkpoint": "student",
        "benchmark": "math",
        "problem": problem,
        "index": index,
        "seed": 7,
        "prompt": f"question {problem}",
        "completion": f"completion {index} of {problem}",
        "tokens": 0 if refused else 10,
        "stop": REFUSED if refused else "length" if status == "truncated" else "eos",
        "status": status,
        "answer": {"correct": "gold", "wrong": "junk"}.get(status),
        "reason": "",
        "grader": "grader-1",
        "protocol": "protocol-1",
        **changes,
    }
    return Sample(**values)  # type: ignore[arg-type]


def rows(problems: Mapping[str, str], **changes: object) -> list[Sample]:
    """`{"p0": "110"}` is three samples of p0, the first two correct; see LETTERS."""
    return [
        row(problem, index, LETTERS[letter], **changes)
        for problem, letters in problems.items()
        for index, letter in enumerate(letters)
    ]


def votes(answers: Mapping[str, Sequence[str | None]], **changes: object) -> list[Sample]:
    """`{"p0": ["gold", "b", None]}`: extracted answers, correct where they are "gold"."""
    statuses = {"gold": "correct", None: "no_answer"}
    return [
        row(problem, index, statuses.get(answer, "wrong"), answer=answer, **changes)
        for problem, given in answers.items()
        for index, answer in enumerate(given)
    ]


def grid(correct: np.ndarray, **changes: object) -> list[Sample]:
    """Samples from a 0/1 array `[problems, k]`."""
    return rows(
        {f"p{i:03d}": "".join(map(str, line.astype(int))) for i, line in enumerate(correct)},
        **changes,
    )
