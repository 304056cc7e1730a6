"""`code`: a program that passes tests, run in the sandbox."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opdlab.errors import DataError
from opdlab.plugins import Grader
from opdlab.records import Problem, Verdict
from opdlab_evaluators.programs import (
    Answered,
    Assertions,
    RunsPrograms,
    Worker,
    answer_named,
    answer_stdin,
    brief,
    cases,
    judge,
    last_block,
    mentioned,
    read_tests,
    rules,
)

VERSION = "code-2"
SETUP = "import math"


@dataclass(frozen=True)
class ProgramTests(RunsPrograms, Grader):
    """A program in a fenced block that passes every test.

    Tests are assertions (a text or a list of them), `check(candidate)` functions, or inputs with the
    outputs that they ask for, of standard input or of a function's arguments.
    """

    @property
    def version(self) -> str:
        return self.version_of(VERSION)

    def gold(self, value: Any) -> dict[str, Any]:
        """The tests: assertions, or cases with the function that they call.

        Raises:
            ValueError: they are none, or no program can fail them.
        """
        found = _opened(value)
        if isinstance(found, Mapping) and "test_list" in found:
            found = "\n".join([str(found.get("test_setup_code") or ""), *found["test_list"]])
        if isinstance(found, list) and found and all(isinstance(one, str) for one in found):
            found = "\n".join(found)
        if isinstance(found, str):
            return _assertions(found)
        function, listed = _cases(found)
        if not listed:
            raise ValueError("it holds no tests")
        return {"cases": listed, "function": function}

    def require(self) -> None:
        self.require_sandbox()

    def program(self, problem: Problem, completion: str) -> str | None:
        names = problem.gold.get("names") or [problem.gold.get("function")]
        return last_block(completion, [name for name in names if name])

    def judge(self, problem: Problem, program: str, worker: Worker) -> Verdict:
        gold = problem.gold
        if "tests" in gold:
            names = {name: name for name in gold["names"]}
            return judge(worker, program, Assertions(gold["tests"], SETUP, names), self.limits)
        for number, (given, wanted) in enumerate(gold["cases"], start=1):
            answered = self._answered(worker, program, gold["function"], given)
            if answered.fault:
                return Verdict("sandbox_error", program, answered.error)
            right = rules.strict_text if gold["function"] is None else rules.strict_value
            if not right(answered, wanted):
                what = answered.error or f"{brief(answered.value)!r}, expected {brief(wanted)!r}"
                return Verdict("wrong", program, f"test {number}: {what}")
        return Verdict("correct", program)

    def _answered(self, worker: Worker, program: str, function: str | None, given: Any) -> Answered:
        if function is None:
            return answer_stdin(worker, program, given, self.limits, rules.PREAMBLE)
        return answer_named(worker, program, function, given, self.limits)


def _opened(value: Any) -> Any:
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _assertions(tests: str) -> dict[str, Any]:
    tests = tests.replace("\r\n", "\n").strip()
    if not tests:
        raise ValueError("it is empty")
    try:
        read_tests(tests, "tests", 1)
        names = mentioned(tests) - {"math"} - set(dir(builtins))
    except SyntaxError as error:
        packed = _packed(tests)
        if packed is None:
            raise ValueError(f"its tests are no Python ({error.msg})") from error
        return packed
    except DataError as error:
        raise ValueError("no program can fail its tests: they assert nothing of it") from error
    if "candidate" in names and "def check" not in tests:
        raise ValueError("its tests check a `candidate` that has no name")
    return {"tests": tests, "names": sorted(names)}


def _packed(tests: str) -> dict[str, Any] | None:
    """Tests as LiveCodeBench packs them; None where it is something else."""
    try:
        found = cases(tests, "tests")
    except DataError:
        return None
    if any(case.kind != "stdin" for case in found):
        return None  # the function's name stands in another column
    return {"cases": [[case.input, case.output] for case in found], "function": None}


def _cases(found: Any) -> tuple[str | None, list[list[Any]]]:
    """Function and pairs of input and output, from the forms in which RL data write them."""
    if isinstance(found, Mapping) and {"inputs", "outputs"} <= found.keys():
        function = found.get("fn_name")
        inputs, outputs = found["inputs"], found["outputs"]
        if len(inputs) != len(outputs):
            raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs")
        pairs = [list(pair) for pair in zip(inputs, outputs, strict=True)]
    elif isinstance(found, list) and all(
        isinstance(one, Mapping) and {"input", "output"} <= one.keys() for one in found
    ):
        functions = {one.get("fn_name") for one in found}
        if len(functions) > 1:
            raise ValueError("its tests call several functions")
        function = next(iter(functions), None)
        if any(one.get("testtype") == "functional" for one in found) and function is None:
            raise ValueError("its tests call a function without a name (fn_name)")
        pairs = [[one["input"], one["output"]] for one in found]
    else:
        raise ValueError(
            "it holds no tests: wanted are assertions, or `inputs` and `outputs` (with `fn_name`)"
        )
    if function is None:
        return None, [[_lines(given), _lines(wanted)] for given, wanted in pairs]
    return function, [[_arguments(given), _value(wanted)] for given, wanted in pairs]


def _lines(value: Any) -> str:
    """Standard input or output: a text, or a list of its lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _arguments(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [json.loads(line) for line in value.split("\n") if line.strip()]
    return value if isinstance(value, list) else [value]


def _value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
