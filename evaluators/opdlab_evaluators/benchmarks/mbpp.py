"""`mbpp`: 500 small programs to write from a sentence and three tests."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from opdlab.errors import DataError
from opdlab.records import Problem, Verdict, option
from opdlab_evaluators.answers import after_thinking
from opdlab_evaluators.benchmarks.benchmark import Fields, numbered, pick, texts
from opdlab_evaluators.benchmarks.code_benchmark import CodeBenchmark, fenced
from opdlab_evaluators.data import Source, known
from opdlab_evaluators.programs import (
    Assertions,
    Worker,
    bare,
    classes,
    definitions,
    judge,
    last_block,
    mentioned,
    read_tests,
)

TASK = "You are an expert Python programmer, and here is your task: {} Your code should pass these tests:"
SHOWN_TESTS = 3
SETUP, SETUP_NAMES = "import math", {"math"}
WITHOUT_SETUP = {
    "4b060c97723e": "this copy lacks the set-up code that builds the trees of its tests"
}
"""Hashes of tests that many copies hold without the code that they need."""


@dataclass(frozen=True)
class Mbpp(CodeBenchmark):
    """MBPP's test set: 500 small programs, described by a sentence and three tests."""

    wording: Literal["instruct", "official"] = option(
        "instruct",
        "`instruct` (asks for a fenced block) or `official` (ends with [BEGIN], no shots).",
    )

    source: ClassVar[Source] = Source(
        "mbpp",
        hub="google-research-datasets/mbpp",
        count=500,
        config="full",
        files="full/*",
        aliases=("mbpp_test",),
    )

    def normalise(self, row: Mapping[str, Any], number: int) -> Fields:
        name = self.source.name
        listed = texts(pick(row, ("test_list", "test"), name, number))
        setup = [row.get("test_setup_code") or "", *texts(row.get("test_imports") or [])]
        return {
            "id": task_id(pick(row, ("task_id",), name, number)),
            "question": str(pick(row, ("text", "prompt"), name, number)).strip(),
            "gold": pick(row, ("code",), name, number).replace("\r\n", "\n"),
            "shown": listed,
            **read_tests("\n".join(listed), name, number),
            "setup": "\n".join(part for part in setup if part).replace("\r\n", "\n"),
        }

    def judged_by(self, fields: Fields) -> str:
        return bare(fields["tests"])

    def problem(self, fields: Fields) -> Problem:
        tests = "\n".join(fields["shown"][:SHOWN_TESTS])
        asked = f"{TASK.format(fields['question'])}\n\n{tests}\n"
        ends = {"official": "[BEGIN]\n", "instruct": f"\n{fenced('# YOUR CODE HERE')}"}
        tests = f"{fields['setup']}\n{fields['tests']}"
        # The tests may use what the right solution defines, and nothing else of the program.
        names = mentioned(tests) - SETUP_NAMES
        defined = set(definitions(fields["gold"]))
        gold = {
            "tests": tests,
            "names": sorted(names & defined),
            "classes": sorted(names & set(classes(fields["gold"]))),
            "missing": sorted(names - defined - set(dir(builtins))),
        }
        if not gold["names"] and not gold["missing"]:
            raise DataError(
                f"{self.source.name}: the tests of {fields['id']} use nothing that its solution "
                "defines, so no program can fail; take another copy"
            )
        prompt = asked + ends[self.wording]
        return Problem(self.benchmark, fields["id"], prompt, gold, {"solution": fields["gold"]})

    def program(self, problem: Problem, completion: str) -> str | None:
        block = last_block(completion, problem.gold["names"])
        if block is not None or self.wording != "official":
            return block
        text = after_thinking(completion).partition("[DONE]")[0]
        return text.partition("[BEGIN]")[2] or text if text.strip() else None

    def asked_names(self, problem: Problem) -> Sequence[str]:
        return problem.gold["names"]

    def judge(self, problem: Problem, program: str, worker: Worker) -> Verdict:
        if problem.gold["missing"]:
            missing = ", ".join(problem.gold["missing"])
            return Verdict(
                "grader_error",
                program,
                f"the tests use {missing}, which nothing defines: this copy lacks test_setup_code",
            )
        names = {name: name for name in problem.gold["names"]}
        tests = Assertions(problem.gold["tests"], SETUP, names, problem.gold["classes"])
        return judge(worker, program, tests, self.limits)

    def known_fault(self, problem: Problem) -> str | None:
        """See `Evaluator.known_fault`: told by contents; a copy with the set-up code has none."""
        if not problem.gold["missing"]:
            return None
        return WITHOUT_SETUP.get(known.pair("", problem.gold["tests"]).answer)

    def right_answer(self, problem: Problem) -> str | None:
        return fenced(problem.extra["solution"])


def task_id(value: Any) -> str:
    """`7`, which EvalPlus calls `Mbpp/7`, and tables with gaps 7.0."""
    number = numbered(value)
    return str(value) if number is None else number
