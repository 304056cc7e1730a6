"""Where the final answer of a completion stands."""

from time import process_time

import pytest
from hypothesis import given, settings, strategies as st

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
    r"\boxed{7} and then \boxed{\frac{1}{": None,
    r"The answer is \boxed{\frac{7}{1": None,
    r"<think>\boxed{1}</think> so \boxed{2}": "2",
    r"<think>\boxed{1}</think> the answer is 41.": "41",
    r"\boxed{1}</think>\boxed{2}": "2",
    r"<think>\boxed{1}": None,
    r"<think>a</think>b<think>\boxed{1}": None,
    "She has 5 eggs.\n#### 1,234": "1,234",
    "Final answer: 42 (checked for n = 10)": "42",
    "**Final Answer:** $\\frac{1}{2}$.": r"\frac{1}{2}",
    "The answer is (B).": "(B)",
    "The answer is Friday. I am sure.": "Friday",
    "The answer is $18.00 a day": "$18.00",
    "I do not know, perhaps 17": None,
    "": None,
}
CASES[r"$x=\boxed{3}$ or $\boxed{5}$"] = "3, 5"


CASES |= {
    r"It is \boxed{42}. I put it in \boxed as you asked.": "42",
    r"\boxed{42} (see `\boxed` above).": "42",
    r"\boxed{42}. Written with the \boxed{...} command.": "42",
    r"I will use \boxed for it: \boxed{42}": "42",
    "**Final Answer**\n\n**73**": "73",
    "## Final Answer\n73": "73",
    "The answer is 5 or 6.": "5 or 6",
    "The answer is 10 - 3 = 7.": "10 - 3 = 7",
    "The answer is: A total of 12.": "12",
    "The final answer is 15.\n\n#### Check": "15",
    "#### Step 1: add\n3+4\n#### Step 2": None,
    "#### 18\nI hope that this answer is helpful.": "18",
    "The answer is 42 because geometry proves it.": "42",
    "The answer is 10 a.m. or 11 a.m.": "10 a.m. or 11 a.m",
    "The answer is $5$ or $6$. Done.": "5  or  6",
    "The answer to the question is 5.": "5",
    "The answer cannot be 5.": None,
    # A question that was copied states nothing; an equation and a result do.
    "Put it in \\boxed{}.\n\nEvaluate\n\\[\\sin 0 + 5.\\]": None,
    "Please compute the product:\n\n$$2 + 3$$": None,
    "**Simplify** $x$. What is\n$$2 + 3$$": None,
    "Let us see. Compute\n\n$$\n\\sum_{j=-9}^{9}\\left\\lfloor\\frac{2025}{j+0.5}\\right\\rfloor\n$$": None,
    "Evaluate $\\sum_{k=1}^{n_{k=2}} k$.": None,
    "Evaluate $\\sum_k=1^9 k$.": None,
    "Evaluate it: $\\sum_{k=1}^{9} k = 45$.": "\\sum_{k=1}^{9} k = 45",
    "Compute the sum:\n\\[2 + 3 = 5\\]": "2 + 3 = 5",
    "Evaluate it step by step. We get\n\\[\\frac{1}{2}\\]": r"\frac{1}{2}",
    # Tags, keys, tables, lists and displays are closings as a sentence is.
    "So.\n<answer>\n37\n</answer>": "37",
    "[ANSWER] 52 [/ANSWER]": "52",
    '```json\n{"steps": "3+4", "final_answer": "81"}\n```': "81",
    "```\n42\n```": "42",
    "| Pens | $6 |\n| **Total** | **$20** |": "$20",
    "| Pens | $6 |\n| Books | $14 |": None,
    "- Apples: 3\n- Total fruit: 7": "7",
    "- Apples: 3\n- Pears: 4": None,
    "Final Answer:\n\n  1. $x = 3$": "x = 3",
    "Final Answer:\n1. $x = 3$\n2. $x = 5$": None,
    "So we get\n$$\nn = 2^5 = 32.\n$$": "n = 2^5 = 32",
    "\\begin{align*}\nx + 5 &= 12\\\\\nx &= 7\n\\end{align*}": "x = 7",
    "He has 22 toys now. That's it!": "22",
    "So it takes 14 days.\n\n---\n*Would you like to see another method?*": "14 days",
    "答案是 42。": "42",
    "Ответ: 45": "45",
    "He thought the answer was 5.": None,
    "Simplifying, this is\n\\[\\frac{1}{2}\\]": r"\frac{1}{2}",
}


@pytest.mark.parametrize("completion", CASES)
def test_the_final_answer_is_found_where_it_stands(completion):
    found = extract(completion)
    assert (found.text if found else None) == CASES[completion]


def test_a_long_completion_without_end_of_boxes_is_read_in_linear_time():
    assert extract("\\boxed{" * 50_000) is None
    assert extract("answer is " * 50_000) is None
    many = extract(r"\boxed{1} and " * 20_000)
    assert many is not None
    assert many.text == "1"
    for blank in ("\n", " ", "\t", "\u00a0"):
        assert extract("I think so." + blank * 500_000) is None
        assert extract("The answer is" + blank * 500_000) is None
    for piece in ("answer ", "**", "####", "$", r"\(", r"\boxed", "<think>", "</think>", "1.", "`"):
        extract(piece * 100_000)


def test_thinking_that_was_never_closed_leaves_nothing():
    assert after_thinking("<think> long") == ""
    assert after_thinking("no tags") == "no tags"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("The answer is 5!", "5!"),
        ("The answer is **5**!", "5"),
        ("The answer is Friday!", "Friday"),
        ("The answer is $5!$", "5!"),
        ("The answer is 5<|end_of_text|>", "5"),
        ("So \\boxed{5}<|im_end|> and \\boxed{6}", "5"),
    ],
)
def test_an_exclamation_and_a_mark_of_the_end_are_no_part_of_an_answer(completion, answer):
    found = extract(completion)
    assert found is not None
    assert found.text == answer


@pytest.mark.parametrize(
    "text",
    [
        "x" + " \n" * 4000 + "y is 5.",
        "a . " * 4000 + "5",
        "\u2713 " * 4000 + "5",
        " ." * 9000 + "5",
    ],
)
def test_the_last_statement_is_looked_for_in_time_linear_in_its_length(text):
    began = process_time()
    extract(text)
    assert process_time() - began < 1


@pytest.mark.parametrize(
    "piece",
    [
        *("| a | b |\n", "<b>", "</answer>", '{"answer": 1} ', "$$\n", "\\end{align}\n", "1. x\n"),
        *("答案是 4 ", "so 5, ", "((5) ", "which is 5, ", "five hundred ", "1 000 ", "x = 5 ", "~5 "),
    ],
)  # fmt: skip
def test_a_closing_is_read_in_time_linear_in_its_length(piece):
    began = process_time()
    for tail in ("", "\nThe answer is 5.", "\nSo " + piece * 20):
        extract(piece * (80_000 // len(piece)) + tail)
    assert process_time() - began < 1


WORDS = [
    "5",
    "$5",
    "5%",
    "1/2",
    "$x=5$",
    "$$",
    ",",
    ";",
    ":",
    ".",
    "-",
    "—",
    "(",
    ")",
    "[",
    "]",
    "!",
    "?",
    "=",
    "apples",
    "Tom",
    "miles",
    "twenty",
    "hundred",
    "and",
    "a",
    "x",
    "≈",
    "**",
    "→",
    "i.e.",
    "p.m.",
    "3:45",
    "~",
    "is",
    "are",
    "if",
    "when",
    "unless",
    "so",
    "thus",
    "therefore",
    "which",
    "means",
    "leaving",
    "for",
    "total",
    "of",
    "than",
    "more",
    "not",
    "or",
    "rather",
    "instead",
    "in",
    "all",
    "the",
    "another",
    "remaining",
    "half",
    "twice",
    "each",
    "every",
    "to",
    "be",
    "that",
    "because",
    "since",
    "given",
    "with",
    "by",
    "up",
]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_no_order_of_words_breaks_the_reader(sentence):
    extract(sentence)
    extract(f"The answer is {sentence}")
