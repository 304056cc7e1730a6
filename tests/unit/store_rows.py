"""Generations and grades in shorthand, for tests of the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import run_folders
from sample_rows import LETTERS

from opdlab.evaluation.store import SampleSet, ask
from opdlab.identity import Measurement
from opdlab.records import Generation, Grade


def asked(**changes: Any) -> Measurement:
    """What an evaluation asks for: two problems, two samples."""
    values = {"benchmark": "math", "problems": 2, "samples": 2, "data": "data-1"}
    return run_folders.asked(**{**values, **changes})


def kept(folder: Path | str, model: str = "student", **changes: Any) -> SampleSet:
    """A set that was asked for."""
    return ask(folder, asked(model=model, **changes))


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
