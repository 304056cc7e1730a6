"""Reference answers of data files: one that is none is refused by its row, all others keep their value."""

from __future__ import annotations

import json

import pytest

from opdlab.errors import DataError
from opdlab_evaluators.benchmarks import benchmark as benchmark_module, humaneval, mbpp
from opdlab_evaluators.benchmarks.aime_2026 import Aime2026
from opdlab_evaluators.benchmarks.gsm8k import Gsm8k
from opdlab_evaluators.benchmarks.hmmt_feb_2026 import HmmtFeb2026
from opdlab_evaluators.benchmarks.math_benchmark import written
from opdlab_evaluators.benchmarks.mbpp import Mbpp


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    benchmark_module._checked.cache_clear()


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


BLANK = [None, float("nan"), "", " \n", []]
NOTHING = [*BLANK, "nan", "N/A", "$$", "$ $", ["7"], {"value": 7}, True, float("inf")]
NOTHING += [
    "\\boxed{}",
    "$\\boxed{\\,}$",
    "{}",
    "\\text{}",
    "\\quad",
    "\u200b",
    ".",
    "?",
    "-",
    "unknown",
]


@pytest.mark.parametrize("kind", [Aime2026, HmmtFeb2026, Gsm8k])
@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_what_is_no_answer_is_refused_by_its_row(tmp_path, kind, value):
    rows = [{"problem": f"{n}?", "answer": f"#### {n}"} for n in range(4)]
    rows[2]["answer"] = value
    if kind is not Gsm8k:
        rows = [{**row, "answer": str(row["answer"]).removeprefix("#### ")} for row in rows]
        rows[2]["answer"] = value
    with pytest.raises(DataError, match=r"a\.jsonl: .*: row 3 has "):
        kind(path=write(tmp_path / "a.jsonl", rows)).problems()


@pytest.mark.parametrize("value", ["1000", -1, "1.5", "\\frac{1}{2}", 2.5, "7 or 8"])
def test_answers_of_aime_are_whole_numbers_up_to_999(tmp_path, value):
    path = write(tmp_path / "a.jsonl", [{"problem": "?", "answer": value}])
    with pytest.raises(
        DataError, match=r"row 1 has no reference answer.*whole numbers of 0 to 999"
    ):
        Aime2026(path=path).problems()
    assert [Aime2026().gold(one) for one in ("073", "$0$", "999")] == ["73", "0", "999"]


@pytest.mark.parametrize(
    "solution", ["It is 7.", "7", "12 \n#### ", "####", "#### 5 apples", "the #### mark"]
)
def test_an_answer_of_gsm8k_stands_behind_its_mark(tmp_path, solution):
    path = write(tmp_path / "a.jsonl", [{"question": "?", "answer": solution}])
    with pytest.raises(DataError, match=r"row 1 has no reference answer"):
        Gsm8k(path=path).problems()


@pytest.mark.parametrize("text", ["\\{\\}", "\\infty", "∅", "\\text{even}", "x", "\\$5"])
def test_an_answer_may_be_no_number(text):
    assert HmmtFeb2026().gold(text) in (text, "5")


@pytest.mark.parametrize("question", [None, "  \n", ["?"], 3])
def test_a_question_is_a_text(tmp_path, question):
    path = write(tmp_path / "a.jsonl", [{"problem": question, "answer": "7"}])
    with pytest.raises(DataError, match=r"row 1 has (nothing in problem|no text as its question)"):
        HmmtFeb2026(path=path).problems()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345678901234567, "12345678901234567"),
        (73.0, "73"),
        (1e22, "1" + 22 * "0"),
        (1e-7, "0.0000001"),
        (0.30000000000000004, "0.30000000000000004"),
        (-2.5, "-2.5"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
    ],
)
def test_numbers_are_written_with_all_their_digits(value, text):
    assert written(value) == text


def test_a_number_that_has_lost_digits_is_refused():
    with pytest.raises(ValueError, match="lost its last digits"):
        written(1.2345678901234568e16)


def test_big_whole_numbers_stay_exact_beside_decimals(tmp_path):
    answers = [12345678901234567, 0.5, *range(31)]
    rows = [{"problem": f"{n}?", "answer": answer} for n, answer in enumerate(answers)]
    table = "problem,answer\n" + "\n".join(f"{n}?,{answer}" for n, answer in enumerate(answers))
    (tmp_path / "a.csv").write_text(table)
    for path in (write(tmp_path / "a.jsonl", rows), str(tmp_path / "a.csv")):
        golds = {problem.gold for problem in HmmtFeb2026(path=path).problems()}
        assert {"12345678901234567", "0.5"} <= golds


@pytest.mark.parametrize(
    "value", [7, "7", 7.0, "07", "HumanEval/7", "Mbpp/7", "HumanEval_7", "test_7"]
)
def test_a_problem_has_one_id_however_a_copy_writes_it(value):
    assert (humaneval.task_id(value), mbpp.task_id(value)) == ("HumanEval/7", "7")


def test_an_id_without_a_number_stays_itself():
    for value in ("a", "HumanEval/7b", "7.5"):
        assert humaneval.task_id(value) == mbpp.task_id(value) == value


def test_tests_of_a_table_are_a_list_again(tmp_path):
    row = {"task_id": 7, "text": "Add.", "code": "def f(x): return x"}
    as_text = Mbpp().normalise({**row, "test_list": "['assert f(1) == 1', 'assert f(2)']"}, 1)
    assert as_text == Mbpp().normalise(
        {**row, "test_list": ["assert f(1) == 1", "assert f(2)"], "task_id": "Mbpp/7"}, 1
    )
    with pytest.raises(ValueError, match="is no list of texts"):
        Mbpp().normalise({**row, "test_list": [1]}, 1)
