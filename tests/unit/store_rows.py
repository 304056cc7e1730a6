"""Generations and grades in shorthand, for tests of the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sample_rows import LETTERS

from opdlab.records import Generation, Grade
from opdlab.store import Asked, SampleSet


def asked(**changes: Any) -> Asked:
    """What an evaluation asks for: two problems, two samples."""
    values: dict[str, Any] = {
        "benchmark": "math",
        "evaluator": {"type": "math"},
        "data": "data-1",
        "problems": 2,
        "template": "none",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": 80,
        "seed": 1234,
        "samples": 2,
        "grader": "grader-1",
        "software": {},
        **changes,
    }
    return Asked(**values)


def kept(folder: Path | str, checkpoint: str = "student", **changes: Any) -> SampleSet:
    """A set that was asked for."""
    one = SampleSet(folder, checkpoint, asked(**changes))
    one.ask()
    return one


def drawn(problem: str = "p0", index: int = 0, **changes: Any) -> Generation:
    """One completion."""
    values: dict[str, Any] = {
        "problem": problem,
        "index": index,
        "seed": 7,
        "prompt": f"question {problem}",
        "completion": f"completion {index} of {problem}",
        "tokens": 10,
        "stop": "eos",
        "seconds": 0.5,
        **changes,
    }
    return Generation(**values)


def many(problems: Mapping[str, str]) -> list[Generation]:
    """`{"p0": "10"}` is two completions of p0."""
    return [drawn(p, i) for p, letters in problems.items() for i in range(len(letters))]


def graded(problems: Mapping[str, str], grader: str = "grader-1") -> list[Grade]:
    """`{"p0": "10"}` is a right one and a wrong one; see LETTERS."""
    return [
        Grade(p, i, grader, LETTERS[letter], None, "")
        for p, letters in problems.items()
        for i, letter in enumerate(letters)
    ]


def fill(one: SampleSet, problems: Mapping[str, str]) -> None:
    """Completions with their grades."""
    one.add_generations(many(problems))
    one.add_grades(graded(problems))
