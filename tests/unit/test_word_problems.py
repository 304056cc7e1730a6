"""Word problems: their sums are right, sides never meet, and a grader that checks every step."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from opdlab.plugins import registry as plugins
from opdlab_evaluators.embedded.family import CONTENT, is_test
from opdlab_evaluators.embedded.word_problems import LARGEST, WordProblems

FAMILIES = [WordProblems(steps=steps, limit=200) for steps in (1, 2, 3)]
LEVELS = pytest.mark.parametrize("family", FAMILIES, ids=["1", "2", "3"])
WORDS = {"two": 2, "twice": 2, "three times": 3, "four times": 4}


def worked_out(prompt: str) -> int:
    """The answer, read off the sentences without a look at the generator."""
    story = prompt.partition("\n")[0]
    value: int | None = None
    for sentence in re.findall(r"[^.?]+[.?]", story):
        numbers = [int(one) for one in re.findall(r"\d+", sentence)]
        if times := re.search(r"(twice|three times|four times) as many", sentence):
            assert value is not None
            value *= WORDS[times[1]]
        elif value is None:
            (value,) = numbers
        elif re.search(r"fewer|sells|gives \d+ ", sentence):
            value -= numbers[0]
        elif numbers:
            value += numbers[0]
    assert value is not None
    return value


@LEVELS
def test_the_story_of_a_problem_leads_to_its_answer(family: WordProblems) -> None:
    problems = [*family.problems(), *(family.training_problem(3, n) for n in range(150))]
    for problem in problems:
        gold = problem.gold
        assert worked_out(problem.prompt) == gold[-1][-1], problem.prompt
        assert len(gold) == family.steps
        for left, sign, right, result in gold:
            assert {"+": left + right, "-": left - right, "*": left * right}[sign] == result
            assert 2 <= result <= LARGEST
    kinds = {kind for problem in problems for kind in problem.extra["kinds"]}
    assert kinds == {"buys", "gets", "gives", "sells", "multiplies", "more", "fewer"}


@LEVELS
def test_what_is_tested_is_never_trained_on_whoever_it_is_about(family: WordProblems) -> None:
    tests = {one.extra[CONTENT] for one in family.problems()}
    trained = [family.training_problem(seed, n) for seed in (0, 1) for n in range(400)]
    assert not tests & {one.extra[CONTENT] for one in trained}
    assert not any(map(is_test, trained))
    assert len(tests) > 100
    assert len({one.id for one in family.problems()}) == 200


@LEVELS
def test_traces_are_right_answers_in_several_wordings(family: WordProblems) -> None:
    problem = family.training_problem(0, 0)
    traces = {family.training_trace(problem, seed) for seed in range(40)}
    assert len(traces) > 2
    assert family.training_trace(problem, 7) == family.training_trace(problem, 7)
    for one in (family.training_problem(1, n) for n in range(200)):
        assert family.grade(one, family.training_trace(one, 0)).status == "correct"
    for one in family.problems():
        assert family.grade(one, family.right_answer(one)).status == "correct"
        assert json.loads(json.dumps(one.gold)) == one.gold


def problem(gold: list[list[Any]]) -> Any:
    made = FAMILIES[len(gold) - 1].problems()[0]
    return type(made)(made.benchmark, "x", made.prompt, gold, made.extra)


TWO = problem([[12, "+", 7, 19], [19, "-", 4, 15]])
VERDICTS = {
    "12 + 7 = 19\n19 - 4 = 15\nAnswer: 15": "correct",
    "Tom buys 7: 7+12=19. He gives 4 away: 19 − 4 = 15.\n\nAnswer: 15.\n": "correct",
    "12 + 7 = 19\n19 - 4 = 15\nAnswer: 16": "wrong",
    "12 + 7 = 19\n19 - 4 = 16\nAnswer: 15": "wrong",
    "12 + 7 = 19\nAnswer: 15": "wrong",
    "19 - 4 = 15\n12 + 7 = 19\nAnswer: 15": "wrong",
    "12 - 4 = 8\n8 + 7 = 15\nAnswer: 15": "wrong",
    "4 - 19 = 15\n12 + 7 = 19\nAnswer: 15": "wrong",
    "12 + 7 = 19\n19 - 4 = 15\n15 + 0 = 15\nAnswer: 15": "wrong",
    "12 + 7 = 19 = 19\n19 - 4 = 15\nAnswer: 15": "wrong",
    "Answer: 15": "wrong",
    "12 + 7 = 19\n19 - 4 = 15": "no_answer",
    "12 + 7 = 19\n19 - 4 = 15\nAnswer: 15 apples": "no_answer",
    "12 + 7 = 19\n19 - 4 = 15\nAnswer: 15\nAnswer: 15 or so": "no_answer",
    "The Answer: 15": "no_answer",
    "": "no_answer",
}


@pytest.mark.parametrize("completion", VERDICTS)
def test_every_calculation_and_the_answer_count(completion: str) -> None:
    assert FAMILIES[1].grade(TWO, completion).status == VERDICTS[completion]


def test_operands_of_a_product_may_stand_in_either_order_and_of_a_difference_not() -> None:
    for said, status in (
        ("3 * 5 = 15", "correct"),
        ("5 x 3 = 15", "correct"),
        ("5 × 3 = 15", "correct"),
    ):
        assert FAMILIES[0].grade(problem([[5, "*", 3, 15]]), f"{said}\nAnswer: 15").status == status
    turned = "4 - 9 = 5\nAnswer: 5"
    assert FAMILIES[0].grade(problem([[9, "-", 4, 5]]), turned).status == "wrong"


@settings(max_examples=40)
@given(st.text(max_size=60) | st.text("0123456789 +-*=\nAnswer:.", max_size=60))
def test_no_text_is_too_much_for_the_grader(text: str) -> None:
    assert FAMILIES[1].grade(TWO, text + "\nAnswer: 15").status in ("correct", "wrong", "no_answer")


def test_an_experiment_names_it_as_any_other_family() -> None:
    found = plugins.load(plugins.EVALUATORS, "word_problems")
    assert found is WordProblems
    assert found.explains()
    assert found(steps=2).benchmark == "word_problems/2-step"
