"""Where the final answer of a completion stands."""

import pytest

from opdlab_evaluators.answers.extraction import after_thinking, extract

CASES = {
    r"so \boxed{42}": "42",
    r"first \boxed{7}, then finally \boxed{42}": "42",
    r"\boxed{3} and \boxed{5}": "3, 5",
    r"$x=\boxed{3}$ or $\boxed{5}$": None,
    r"\boxed{42}. Again: \boxed{42}": "42",
    r"\boxed{42}, \boxed{42}": "42",
    r"\boxed{\frac{a}{b_{1}}}": r"\frac{a}{b_{1}}",
    r"\boxed{\{1, 2\}}": r"\{1, 2\}",
    r"\boxed{\boxed{5}}": "5",
    r"\fbox{5}": "5",
    r"\boxed 5": "5",
    r"\boxed{}": None,
    r"\boxed{7} and then \boxed{\frac{1}{": "7",
    r"The answer is \boxed{\frac{7}{1": None,
    r"<think>\boxed{1}</think> so \boxed{2}": "2",
    r"<think>\boxed{1}</think> the answer is 41.": "41",
    r"\boxed{1}</think>\boxed{2}": "2",
    r"<think>\boxed{1}": None,
    r"<think>a</think>b<think>\boxed{1}": None,
    "She has 5 eggs.\n#### 1,234": "1,234",
    "Final answer: 42 (checked for n = 10)": "42",
    "**Final Answer:** $\\frac{1}{2}$.": r"\frac{1}{2}",
    "The answer is (B).": "B",
    "The answer is Friday. I am sure.": "Friday",
    "The answer is $18.00 a day": "$18.00",
    "I do not know, perhaps 17": None,
    "": None,
}
CASES[r"$x=\boxed{3}$ or $\boxed{5}$"] = "3, 5"


@pytest.mark.parametrize("completion", CASES)
def test_the_final_answer_is_found_where_it_stands(completion):
    found = extract(completion)
    assert (found.text if found else None) == CASES[completion]


def test_a_long_completion_without_end_of_boxes_is_read_in_linear_time():
    assert extract("\\boxed{" * 50_000) is None
    assert extract("answer is " * 50_000) is None
    assert extract(r"\boxed{1} and " * 20_000).text == "1"


def test_thinking_that_was_never_closed_leaves_nothing():
    assert after_thinking("<think> long") == ""
    assert after_thinking("no tags") == "no tags"
