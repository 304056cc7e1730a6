"""Known problems: what is not a copy of the benchmark is refused by its name and row."""

from __future__ import annotations

import json
import re
from itertools import chain

import code_rows
import pytest
from code_rows import write as write_programs
from machine import own_data

from opdlab.datafiles import read_rows
from opdlab.errors import DataError
from opdlab.evaluation.store import data_hash
from opdlab.plugins import registry as plugins
from opdlab_evaluators.benchmarks import benchmark as benchmark_module
from opdlab_evaluators.benchmarks.hmmt_feb_2025 import HmmtFeb2025
from opdlab_evaluators.benchmarks.hmmt_feb_2026 import HmmtFeb2026
from opdlab_evaluators.benchmarks.humaneval import HumanEval
from opdlab_evaluators.benchmarks.humaneval_plus import HumanEvalPlus
from opdlab_evaluators.benchmarks.livecodebench import LiveCodeBench
from opdlab_evaluators.benchmarks.math_500 import Math500
from opdlab_evaluators.benchmarks.math_benchmark import MathBenchmark
from opdlab_evaluators.benchmarks.mbpp import Mbpp
from opdlab_evaluators.benchmarks.mbpp_plus import MbppPlus
from opdlab_evaluators.data import known
from opdlab_evaluators.data.source import find_local

GOLDS = ["8\\sqrt{10}", "\\dfrac{1}{2}", *map(str, range(28))]
ROWS = [{"problem": f"What is ${n}^2$, said {n}?", "answer": GOLDS[n]} for n in range(30)]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    benchmark_module._checked.cache_clear()


@pytest.fixture
def exam(tmp_path, monkeypatch):
    """A benchmark whose problems are ROWS."""
    folder = tmp_path / "known"
    folder.mkdir()
    pairs = [known.pair(row["problem"], row["answer"]) for row in ROWS]
    (folder / "hmmt_feb_2025.txt").write_text(known.lines(pairs))
    monkeypatch.setattr(known, "FOLDER", folder)
    known.forget()
    yield tmp_path
    known.forget()


def write(folder, rows, name="exam.jsonl"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def standing(folder, rows):
    benchmark_module._checked.cache_clear()
    path = write(folder, rows, f"{len(list(folder.iterdir()))}.jsonl")
    return HmmtFeb2025(path=path).data().standing


def test_a_copy_with_other_signs_in_its_questions_and_answers_is_known(exam):
    said = "known questions and answers, content recorded on this first use"
    assert standing(exam, ROWS) == said
    typeset = [
        {"question": f"What is  \\({n}^{{2}}\\), said {n} ?", "answer": f"${GOLDS[n]} $"}
        for n in range(30)
    ]
    typeset[1]["answer"] = "\\frac{1}{2}"
    assert standing(exam, typeset[::-1]) == said


def test_a_question_in_other_words_is_known_by_its_answer(exam):
    reworded = [*ROWS[:29], {**ROWS[29], "problem": "Say something else."}]
    assert standing(exam, reworded).startswith("known answers, 1 of 30 questions unknown, ")


def test_a_data_set_of_other_problems_claims_nothing(exam):
    other = [{"problem": f"{n} and {n}?", "answer": "7"} for n in range(30)]
    assert standing(exam, other) == "no known question, content recorded on this first use"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [{**r, "answer": rows[n - 1]["answer"]} for n, r in enumerate(rows)],
         "row 1 asks a known problem of hmmt_feb_2025, with another reference answer"),
        (lambda rows: [*rows[:4], {**rows[4], "answer": "-2"}, *rows[5:]], "row 5 asks a known problem"),
        (lambda rows: [*rows[:4], rows[3], *rows[5:]], "rows 4 and 5"),
        (lambda rows: [*rows[:4], {"problem": "Else?", "answer": "99"}, *rows[5:]],
         "row 5 is no problem of hmmt_feb_2025"),
        (lambda rows: [*rows[:4], {"problem": "Else?", "answer": rows[3]["answer"]}, *rows[5:]],
         "row 5 is no problem of hmmt_feb_2025"),
    ],
    ids=["shifted answers", "one answer", "a row twice", "another problem", "another, known answer"],
)  # fmt: skip
def test_changed_problems_are_refused_by_row(exam, change, said):
    with pytest.raises(DataError, match=said):
        standing(exam, change(ROWS))


TOPICS = ["apples", "bridges", "candles", "deserts", "engines"]
TOPICS += ["forests", "glaciers", "harbours", "islands", "jackets"]
LONG = [
    {"problem": f"Of the {n + 2} {TOPICS[n % 10]} that {TOPICS[n // 3]} hide, how many are left to see?",
     "answer": str(n)}
    for n in range(30)
]  # fmt: skip


@pytest.fixture
def long_exam(exam):
    """A benchmark with questions that are long enough to be known amid other words."""
    pairs = [known.pair(row["problem"], row["answer"]) for row in LONG]
    (known.FOLDER / "hmmt_feb_2025.txt").write_text(known.lines(pairs))
    known.forget()
    return exam


def worded(rows, form="Solve this with care: {} Think first."):
    return [{**row, "problem": form.format(row["problem"])} for row in rows]


def test_questions_with_words_added_are_known(long_exam):
    said = "known questions and answers (30 questions with words added or changed), "
    assert standing(long_exam, worded(LONG)).startswith(said)
    some = [*worded(LONG[:9]), *LONG[9:20], *worded(LONG[20:], "Q. {}")]
    assert "and answers (19 questions with words added" in standing(long_exam, some)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**row, "answer": str(n - 1)} for n, row in enumerate(worded(LONG))],
         "row 1 asks a known problem of hmmt_feb_2025, with another reference answer"),
        ([*LONG[:7], *worded([{**LONG[7], "answer": "99"}]), *LONG[8:]], "row 8 asks a known problem"),
        ([*LONG[:7], *worded(LONG[6:7]), *LONG[8:]], "row 8 is no problem of hmmt_feb_2025"),
        ([*worded(LONG[:8]), *worded(LONG[7:8], "Q: {}"), *LONG[9:]], "row 9 is no problem of"),
    ],
    ids=["shifted answers", "one answer", "a row twice", "a row twice in other words"],
)  # fmt: skip
def test_added_words_hide_no_change(long_exam, rows, said):
    with pytest.raises(DataError, match=said):
        standing(long_exam, rows)


@pytest.mark.parametrize("name", ["aime_2026", "hmmt_feb_2026"])
def test_added_words_hide_no_other_benchmark(long_exam, name):
    path = write(long_exam, worded(LONG))
    said = f"{name}: .* holds problems of hmmt_feb_2025: row 1 and 29 more"
    with pytest.raises(DataError, match=said):
        plugins.load(plugins.EVALUATORS, name)(path=path).problems()


def test_problems_of_another_benchmark_are_refused_by_its_name(exam):
    known.forget()
    path = write(exam, [{**row, "answer": "7"} for row in ROWS])
    for name in ("aime_2026", "aime_2024", "hmmt_feb_2026", "math_500"):
        with pytest.raises(DataError, match=f"{name}: .* holds problems of hmmt_feb_2025: row 1"):
            plugins.load(plugins.EVALUATORS, name)(path=path).problems()


@pytest.mark.parametrize("name", ["aime_2026", "gsm8k", "humaneval", "mbpp_plus", "livecodebench"])
def test_a_file_of_other_columns_is_told_by_the_benchmark_that_it_holds(exam, name):
    path = write(exam, [{"id": n, "text": row["problem"]} for n, row in enumerate(ROWS)])
    with pytest.raises(
        DataError, match=r"holds problems of hmmt_feb_2025. Put .*row 1 has nothing"
    ):
        plugins.load(plugins.EVALUATORS, name)(path=path).problems()
    # A faulty row of its own file is told as that.
    with pytest.raises(DataError, match="row 1 has nothing in problem or question"):
        HmmtFeb2025(path=path).problems()


def test_tests_of_mbpp_are_not_taken_for_those_of_mbpp_plus(exam):
    rows = [
        {"task_id": n, "prompt": f"Write {n}.", "code": f"def f{n}(): return 1",
         "test": [f"assert f{n}() == {n}"]}
        for n in range(378)
    ]  # fmt: skip
    remember("mbpp", Mbpp(), [Mbpp().normalise(row, 1) for row in rows])
    path = write(exam, rows, "mbpp.jsonl")
    with pytest.raises(
        DataError, match=r"mbpp_plus: .* holds problems of mbpp: row 1 and 377 more"
    ):
        MbppPlus(path=path).problems()


def test_a_benchmark_with_more_tests_may_ask_the_same_questions_and_not_by_the_same_tests(exam):
    write_programs(exam, "humaneval")
    fields = [
        HumanEval().normalise(json.loads(line), 1)
        for line in (exam / "humaneval.jsonl").read_text().splitlines()
    ]
    remember("humaneval", HumanEval(), fields)
    with pytest.raises(DataError, match=r"humaneval_plus: .* holds problems of humaneval: row 1"):
        HumanEvalPlus(path=str(exam / "humaneval.jsonl")).problems()
    more = (exam / "humaneval.jsonl").read_text().replace("candidate([]) ==", "candidate([0]) ==")
    (exam / "more.jsonl").write_text(more)
    assert len(HumanEvalPlus(path=str(exam / "more.jsonl")).problems()) == 164


def remember(name, benchmark, fields):
    """Make the problems that these fields ask the known ones of a benchmark."""
    pairs = [
        known.pair(row["question"], benchmark.judged_by(row), row["_conditions"]) for row in fields
    ]
    (known.FOLDER / f"{name}.txt").write_text(known.lines(pairs))
    known.forget()


DISGUISES = {
    "a comment": lambda tests: f"# more tests\n{tests}  # many\n",
    "blanks": lambda tests: tests.replace(" == ", "  ==  "),
    "a note": lambda tests: f"METADATA = {{'author': 'me'}}\n{tests}",
    "an import": lambda tests: f"import numpy as np\n{tests}",
    "messages": lambda tests: re.sub("(== [0-9]+)", r"\1, 'wrong'", tests),
    "another name": lambda tests: tests.replace("candidate", "f"),
    "a test that always holds": lambda tests: f"{tests}\n    assert True, 'reached'\n",
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_the_few_tests_of_humaneval_in_another_form_are_not_those_of_humaneval_plus(exam, disguise):
    rows = [code_rows.humaneval(number) for number in range(164)]
    remember("humaneval", HumanEval(), [HumanEval().normalise(row, 1) for row in rows])
    path = write(exam, [{**row, "test": disguise(row["test"])} for row in rows])
    with pytest.raises(DataError, match=r"holds problems of humaneval: row 1 and 163 more"):
        HumanEvalPlus(path=path).problems()
    if "numpy" not in disguise(""):
        assert HumanEval(path=path).data().standing.startswith("known questions and answers, ")


def test_most_tests_of_mbpp_are_not_those_of_mbpp_plus(exam):
    rows = [code_rows.mbpp(number) for number in range(378)]
    remember("mbpp", Mbpp(), [Mbpp().normalise(row, 1) for row in rows])
    for form in ("# more\n{0}\n{1}\n{2}", "{0}\n{1}", "{0}\n{1}\n{2}\nassert abs(-1)"):
        tests = [{**row, "test": form.format(*row["test_list"])} for row in rows]
        with pytest.raises(DataError, match=r"holds problems of mbpp: row 1 and 377 more"):
            MbppPlus(path=write(exam, tests)).problems()
        benchmark_module._checked.cache_clear()
    changed = {**rows[7], "test_list": [*rows[7]["test_list"][:2], "assert add_7(2) == 10"]}
    whole = [*rows[:7], changed, *rows[8:], *map(code_rows.mbpp, range(378, 500))]
    path = write(exam, whole)
    with pytest.raises(
        DataError, match="row 8 asks a known problem of mbpp, with other tests than"
    ):
        Mbpp(path=path).problems()


@pytest.mark.parametrize(("day", "release"), [("2024-07-27", "v3"), ("2024-09-14", "v4")])
def test_two_releases_of_one_size_are_told_apart_by_their_contests(tmp_path, day, release):
    from code_rows import livecodebench

    rows = [{**livecodebench(n), "contest_date": f"{day}T00:00:00"} for n in range(101)]
    path = write(tmp_path, rows)
    assert len(LiveCodeBench(path=path, release=release).problems()) == 101
    other = {"v3": "v4", "v4": "v3"}[release]
    with pytest.raises(DataError, match=f"these are the problems of {release}, not of {other}"):
        LiveCodeBench(path=path, release=other).problems()
    # What was refused is no first use: the right file may take its place.
    rightly = {"v3": "2024-09-14", "v4": "2024-07-27"}[release]
    write(tmp_path, [{**row, "contest_date": rightly} for row in rows])
    benchmark_module._checked.cache_clear()
    assert len(LiveCodeBench(path=path, release=other).problems()) == 101
    with pytest.raises(DataError, match="101 problems, not 175: v3 or v4 has as many"):
        LiveCodeBench(path=path).problems()
    path = write(tmp_path, [{**row, "contest_date": "08/21/2023"} for row in rows], "odd.jsonl")
    with pytest.raises(DataError, match=r"row 1 is malformed .*08/21/2023"):
        LiveCodeBench(path=path, release="v3").problems()


KNOWN = sorted(file.stem for file in known.FOLDER.glob("*.txt"))


@pytest.mark.parametrize("name", KNOWN)
def test_words_added_to_its_questions_hide_no_benchmark(name):
    """Questions of a few letters have no sketch; a set counts as hidden by half of its questions."""
    problems = known.known(name)
    assert sum(bool(each.sketch) for each in problems) > 0.95 * len(problems)


def test_real_copies_with_words_added_to_every_question_are_known(tmp_path):
    """Reference answers that were moved on by one are told, and another benchmark takes none of them."""
    names = [
        name for name in KNOWN if issubclass(plugins.load(plugins.EVALUATORS, name), MathBenchmark)
    ]
    sources = {name: plugins.load(plugins.EVALUATORS, name).source for name in names}
    for name, file in own_data({one: find_local(sources[one], None) for one in names}).items():
        make = plugins.load(plugins.EVALUATORS, name)
        rows = read_rows(file)
        asked = "question" if "question" in rows[0] else "problem"
        worded = [{**row, asked: f"Solve with care: {row[asked]} Think first."} for row in rows]
        path = write(tmp_path, worded, f"{name}.jsonl")
        assert "questions with words added" in make(path=path).data().standing
        moved = [{**row, "answer": worded[n - 1]["answer"]} for n, row in enumerate(worded)]
        with pytest.raises(
            DataError, match=f"row [0-9]+ asks a known problem of {name}, with another"
        ):
            make(path=write(tmp_path, moved, f"moved-{name}.jsonl")).problems()
        other = HmmtFeb2026 if name != "gsm8k" else Math500
        with pytest.raises(DataError, match=f"holds problems of {name}: row"):
            other(path=path).problems()


def test_real_copies_are_known_and_nothing_else_is_taken_for_them(tmp_path):
    """Every benchmark's own file is whole; in another order it is the same; as another it is refused."""
    benchmarks = {name: plugins.load(plugins.EVALUATORS, name) for name in KNOWN}
    files = own_data({name: find_local(one.source, None) for name, one in benchmarks.items()})
    for name, file in files.items():
        assert "known" in benchmarks[name]().data().standing
        rows = read_rows(file)
        other = benchmarks[name](path=write(tmp_path, rows[::-1], f"{name}.jsonl"))
        assert data_hash(other.problems()) == data_hash(benchmarks[name]().problems())
        half = [p.id for p in benchmarks[name](limit=9).problems()]
        assert [p.id for p in benchmarks[name](path=other.path, limit=9).problems()] == half
    for name, other in chain.from_iterable(
        [(a, b) for b in plugins.names(plugins.EVALUATORS)] for a in files
    ):
        make = plugins.load(plugins.EVALUATORS, other)
        if other != name and hasattr(make, "source"):
            with pytest.raises(DataError):
                make(path=str(files[name])).problems()
