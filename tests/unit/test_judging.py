"""From completions to stored verdicts: truncation, thinking that the prompt opened, faults tried again."""

from dataclasses import dataclass

import pytest
from store_rows import drawn, kept

from opdlab.evaluation.measured import grade_missing, judge
from opdlab.plugins.evaluator import Evaluator
from opdlab.records import Problem, Verdict
from opdlab_evaluators.answers.grading import grade_answers

PROBLEM = Problem("math", "p0", "What is 1 + 1?", "2")


@dataclass(frozen=True)
class Sums(Evaluator):
    """One sum, graded as mathematics is."""

    benchmark = "math"
    grader_version = "grader-1"

    def problems(self):
        return [PROBLEM]

    def grade(self, problem, completion):
        return grade_answers([(problem.gold, completion)])[0]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"completion": r"\boxed{2}"}, "correct"),
        ({"completion": r"\boxed{2}", "stop": "length"}, "correct"),
        ({"completion": r"\boxed{3}", "stop": "length"}, "truncated"),
        ({"completion": "so", "stop": "length"}, "truncated"),
        ({"completion": "so"}, "no_answer"),
        ({"completion": r"\boxed{2}", "prompt": "1 + 1?<think>\n"}, "no_answer"),
        ({"completion": r"\boxed{3}</think>\boxed{2}", "prompt": "1 + 1?<think>\n"}, "correct"),
    ],
)
def test_a_completion_gets_its_verdict(changes, status):
    (verdict,) = judge(Sums(), [(PROBLEM, drawn(**changes))])
    assert verdict.status == status


def test_what_was_graded_is_not_graded_again_but_for_faults_of_the_grader(tmp_path):
    one = kept(tmp_path, problems=1)
    one.add_generations([drawn("p0", 0, completion=r"\boxed{2}"), drawn("p0", 1)])
    asked = []

    @dataclass(frozen=True)
    class Failing(Sums):
        def grade(self, problem, completion):
            asked.append(completion)
            return Verdict("grader_error") if "boxed" in completion else Verdict("wrong")

    grade_missing(one, Failing())
    assert [s.status for s in one.samples()] == ["grader_error", "wrong"]
    assert len(asked) == 2
    grade_missing(one, Sums())
    assert [s.status for s in one.samples()] == ["correct", "wrong"]
