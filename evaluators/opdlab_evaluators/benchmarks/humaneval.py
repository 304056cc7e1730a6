"""`humaneval`: 164 functions to complete, each with a handful of tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.benchmarks.benchmark import Fields, numbered, pick
from opdlab_evaluators.benchmarks.code_benchmark import CodeBenchmark, fenced
from opdlab_evaluators.data import Source
from opdlab_evaluators.programs import (
    Assertions,
    Worker,
    after_future_imports,
    bare,
    bound,
    defines,
    function_body,
    judge,
    last_block,
    read_tests,
)

INSTRUCTION = (
    "Complete the following Python function. Answer with the whole function in one fenced block."
)


@dataclass(frozen=True)
class HumanEval(CodeBenchmark):
    """HumanEval: 164 Python functions to complete."""

    wording: Literal["instruct", "complete"] = option(
        "instruct",
        "`instruct` (an instruction and the function) or `complete` (only the function).",
    )

    source: ClassVar[Source] = Source(
        "humaneval",
        hub="openai/openai_humaneval",
        count=164,
        aliases=("HumanEval", "openai_humaneval"),
        contents=("d9095f9987f869ca",),
    )

    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        name = self.source.name
        return {
            "id": task_id(pick(row, ("task_id",), name, number)),
            "question": pick(row, ("prompt",), name, number),
            "gold": pick(row, ("canonical_solution",), name, number),
            "entry_point": pick(row, ("entry_point",), name, number),
            **read_tests(pick(row, ("test",), name, number), name, number),
        }

    def judged_by(self, fields: Fields) -> str:
        return bare(fields["tests"])

    def problem(self, fields: Fields) -> Problem:
        question = fields["question"]
        prompt = f"{INSTRUCTION}\n\n{fenced(question.strip())}"
        return Problem(
            self.benchmark,
            fields["id"],
            question if self.wording == "complete" else prompt,
            {"tests": fields["tests"], "entry_point": fields["entry_point"]},
            {"question": question, "solution": fields["gold"]},
        )

    def program(self, problem: Problem, completion: str) -> str | None:
        question = problem.extra["question"]
        entry = problem.gold["entry_point"]
        block = last_block(completion, [entry])
        if block is None:
            if self.wording == "complete" and entry in bound(completion):
                return after_future_imports(_closed(question), completion)
            body = function_body(completion) if self.wording == "complete" else None
            return None if body is None else question + body
        if defines(block, entry):
            # The prompt's imports and helpers count; its unfinished function is replaced.
            return after_future_imports(_closed(question), block)
        return question + block

    def asked_names(self, problem: Problem) -> Sequence[str]:
        return [problem.gold["entry_point"]]

    def judge(self, problem: Problem, program: str, worker: Worker) -> Verdict:
        entry = problem.gold["entry_point"]
        if not defines(problem.extra["question"], entry):
            reason = (
                f"the prompt defines no {entry}, which is tested: take another copy of the data"
            )
            return Verdict("grader_error", program, reason)
        tests = Assertions(
            f"{problem.gold['tests']}\ncheck({entry})",
            _closed(problem.extra["question"]),
            {entry: entry},
            classes=(),
        )
        return judge(worker, program, tests, self.limits)

    def right_answer(self, problem: Problem) -> str | None:
        return fenced(problem.extra["question"] + problem.extra["solution"])


def task_id(value: Any) -> str:
    """`HumanEval/7`, which copies call 7, 7.0, `HumanEval_7` or `test_7`, too."""
    number = numbered(value)
    return str(value) if number is None else f"HumanEval/{number}"


def _closed(question: str) -> str:
    """The prompt as a whole program: its function does nothing."""
    return f"{question.rstrip()}\n    pass\n"
