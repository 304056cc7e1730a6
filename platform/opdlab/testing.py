"""Contract tests for authors of plugins: subclass in a test file, and pytest finds the rest.

from opdlab.testing import EvaluatorContract

class TestMine(EvaluatorContract):
    def make(self):
        return Mine(limit=5)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import islice, pairwise
from typing import ClassVar

from opdlab import plugins
from opdlab.evaluation import data_hash
from opdlab.plugins import Evaluator
from opdlab.records import Problem, Verdict

HOSTILE = (
    "",
    " \n\t ",
    "\x00",
    "\ud83d",
    "42",
    "NaN",
    "None",
    "\\boxed{",
    "\\boxed{}",
    "}" * 1000,
    "{" * 1000,
    "(" * 5000,
    "<think>" * 100,
    "</think>",
    "```python\nraise SystemExit(0)\n```",
    "```",
    "__import__('os')",
    "1" * 20_000,
    "word " * 20_000,
    "\u202e\u0661\u0662",
)
"""Things a model may write that are no answer to anything."""


class EvaluatorContract:
    """What every evaluator promises; `make` gives the one to test.

    Attributes:
        graded: number of problems, from the first, that are graded; the others are only read.
    """

    graded: ClassVar[int] = 20

    def make(self) -> Evaluator:
        """A new evaluator, small enough to be graded in a test."""
        raise NotImplementedError("define make() to return the evaluator under test")

    def test_is_a_dataclass_registered_under_its_entry_point(self) -> None:
        evaluator = self.make()
        assert is_dataclass(evaluator)
        plugins.type_name(plugins.EVALUATORS, evaluator)

    def test_every_option_has_a_description(self) -> None:
        for field in fields(self.make()):
            assert field.metadata.get("description"), f"option {field.name} has no description"

    def test_is_made_again_from_its_options(self) -> None:
        evaluator = self.make()
        described = json.loads(json.dumps(plugins.describe(evaluator)))
        assert plugins.made(plugins.EVALUATORS, described) == evaluator

    def test_problems_are_the_same_every_time_and_in_order(self) -> None:
        first, second = self.make().problems(), self.make().problems()
        assert list(first) == list(second)
        assert first, "there are no problems"

    def test_problems_can_be_told_apart_and_stored(self) -> None:
        evaluator = self.make()
        problems = evaluator.problems()
        for problem in problems:
            assert problem.benchmark == evaluator.benchmark
            assert isinstance(problem.id, str)
            assert problem.prompt.strip(), f"problem {problem.id} has no prompt"
        assert data_hash(problems)

    def test_grader_has_a_version(self) -> None:
        version = self.make().grader_version
        assert isinstance(version, str)
        assert version.strip()
        assert version == self.make().grader_version

    def test_nothing_that_a_model_writes_makes_the_grader_raise_or_say_correct(self) -> None:
        evaluator = self.make()
        problem = self.problems_without_answer(HOSTILE)[0]
        for completion, verdict in zip(HOSTILE, self.verdicts(problem, HOSTILE), strict=True):
            assert isinstance(verdict, Verdict)
            assert verdict.status != "correct", f"{evaluator.benchmark} accepts {completion[:40]!r}"

    def test_a_right_answer_is_judged_correct(self) -> None:
        evaluator = self.make()
        pairs = [(p, evaluator.right_answer(p)) for p in evaluator.problems()[: self.graded]]
        known = [(problem, answer) for problem, answer in pairs if answer is not None]
        for (problem, _), verdict in zip(known, evaluator.grade_all(known), strict=True):
            assert verdict.status == "correct", f"problem {problem.id}: {verdict}"

    def test_the_right_answer_to_another_problem_is_not(self) -> None:
        evaluator = self.make()
        problems = evaluator.problems()[: self.graded]
        swapped = [
            (problem, answer)
            for problem, other in pairwise(problems)
            if problem.gold != other.gold and (answer := evaluator.right_answer(other)) is not None
        ]
        for (problem, answer), verdict in zip(swapped, evaluator.grade_all(swapped), strict=True):
            assert verdict.status != "correct", f"problem {problem.id} accepts {answer!r}"

    def test_grading_many_and_one_by_one_is_the_same(self) -> None:
        evaluator = self.make()
        problems = evaluator.problems()[: self.graded]
        answers = [(p, evaluator.right_answer(p) or "42") for p in problems] + [(problems[0], "")]
        together = evaluator.grade_all(answers)
        assert [v.status for v in together] == [evaluator.grade(*a).status for a in answers]
        assert [v.status for v in reversed(evaluator.grade_all(answers[::-1]))] == [
            v.status for v in together
        ]

    def test_training_problems_repeat_by_seed_and_are_never_test_problems(self) -> None:
        evaluator = self.make()
        try:
            first = list(islice(evaluator.training_problems(3), self.graded))
        except NotImplementedError:
            return  # a benchmark with test problems only
        assert first == list(islice(self.make().training_problems(3), self.graded))
        assert first[-1] == evaluator.training_problem(3, self.graded - 1)
        tested = {problem.prompt for problem in evaluator.problems()}
        assert not tested & {problem.prompt for problem in first}

    def verdicts(self, problem: Problem, completions: Sequence[str]) -> list[Verdict]:
        """The evaluator's verdicts on completions of one problem."""
        return self.make().grade_all([(problem, completion) for completion in completions])

    def problems_without_answer(self, completions: Sequence[str]) -> list[Problem]:
        """Problems whose gold is none of the completions."""
        return [p for p in self.make().problems() if str(p.gold) not in completions]
