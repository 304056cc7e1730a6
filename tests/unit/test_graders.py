"""Graders of anybody's data: reference answers as data sets write them, answers as models do."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets.config
import evaluate.config
import pytest
from huggingface_hub import constants
from pydantic import TypeAdapter

from opdlab.configuration.loader import load_experiment
from opdlab.configuration.posing import AnyGrader
from opdlab.configuration.prompt_settings import DatasetPrompts
from opdlab.datafiles import RowError
from opdlab.errors import ConfigError, MissingDataError, PluginError
from opdlab.plugins import registry as plugins
from opdlab.plugins.grader import Grader
from opdlab.plugins.verdicts import verdicts_on
from opdlab.prompts.rows import Reader
from opdlab.records import Problem, Verdict
from opdlab_evaluators.benchmarks.dataset import DatasetBenchmark
from opdlab_evaluators.graders import evaluate_metric


def grader(name: str, **options: Any) -> Grader:
    return plugins.load(plugins.GRADERS, name)(**options)


def status(name: str, value: Any, completion: str, **options: Any) -> str:
    judge = grader(name, **options)
    gold = json.loads(json.dumps(judge.gold(value)))
    return verdicts_on(judge, [(Problem("mine", "1", "?", gold), completion)])[0].status


@pytest.mark.parametrize(
    ("name", "value", "completion", "wanted"),
    [
        ("math", "\\frac{1}{2}", "It is $\\boxed{0.5}$.", "correct"),
        ("math", 4, "\\boxed{5}", "wrong"),
        ("choice", "C", "The correct answer is C. Option A ignores gravity.", "correct"),
        ("choice", "C", "Option A is wrong, and option B as well.\n\nC", "correct"),
        ("choice", "D", "Answer: C\n\nOption D is too large.", "wrong"),
        ("choice", "B", "The correct option is B. Choice A is none.", "correct"),
        ("choice", "I", "The answer is I think B", "no_answer"),
        ("choice", "B", "The answer is, I think, (B).\n\nB", "correct"),
        ("choice", "B", "I choose option B.", "correct"),
        ("numeric", 4, "\\boxed{\\frac{1}{4}}", "wrong"),
        ("numeric", 0.75, "3/4", "correct"),
        ("numeric", "-\\frac{3}{4}", "\\boxed{-0.75}", "correct"),
        ("numeric", "12 m^2", "12", "correct"),
        ("numeric", 200000, "\\boxed{2 \\times 10^5}", "correct"),
        ("numeric", 5, "\\boxed{2 \\times 10^{5}}", "wrong"),
        ("numeric", 5, "5/0", "no_answer"),
        ("numeric", 3.5, "The answer is 3 1/2.", "correct"),
        ("numeric", 0.5, "3 1/2", "wrong"),
        ("numeric", 3.5, "\\boxed{3\\frac{1}{2}}", "correct"),
        ("numeric", "-3\\frac12", "-3.5", "correct"),
        ("numeric", 12, "\\boxed{\\frac12}", "wrong"),
        ("numeric", 3, "3\u00bd", "wrong"),
        ("numeric", 4, "10 20/5", "correct"),
        ("numeric", 2, "\\boxed{\\sqrt{2}}", "no_answer"),
        ("numeric", 4, "\\boxed{\\frac{\\pi}{4}}", "no_answer"),
        ("numeric", 3, "\\boxed{2\\sqrt{2} = 3}", "correct"),
        ("numeric", 3, "(-2)^3", "no_answer"),
        ("numeric", 3, "0^0", "no_answer"),
        ("numeric", 1024, "\\boxed{2^{10}}", "correct"),
        ("numeric", 0.001, "$10^{-3}$", "correct"),
        ("numeric", 150000, "1.5 \u00d7 10\u2075", "correct"),
        ("numeric", 345, "\\boxed{12{,}345}", "wrong"),
        ("numeric", 12345, "\\boxed{12\\,345}", "correct"),
        ("numeric", 12345, "12\u202f345 km\u00b2", "correct"),
        ("numeric", -5, "x = - 5", "correct"),
        ("numeric", -5, "-$5", "correct"),
        ("numeric", -5, "\u20135", "correct"),
        ("numeric", 0.1, "5 \\pm 0.1", "no_answer"),
        ("numeric", 4, "3 + 4", "no_answer"),
        ("numeric", '["34"]', "34", "correct"),
        ("math", '["34"]', "\\boxed{34}", "correct"),
        ("math", "[1, 2]", "\\boxed{[1, 2]}", "correct"),
        ("exact", '["a b", "c"]', "c", "correct"),
        ("exact", "Paris", "\\boxed{\\text{Paris}}", "correct"),
        ("exact", "Paris", "The answer is **Paris**.", "correct"),
        ("exact", "Paris", '**Answer:** "Paris".', "correct"),
        ("exact", "'a'", "a", "correct"),
        ("choice", ["C"], "C", "correct"),
        ("choice", 2.0, "C", "correct"),
        ("choice", "B", "Answer: $\\text{B}$", "correct"),
        ("choice", "B", "\\boxed{\\textbf{B}}", "correct"),
        ("choice", "B", "**Answer:** \\(\\mathbf{B}\\)", "correct"),
        ("choice", "B", "(B) is the correct answer.", "correct"),
        ("choice", "D", "Option C is wrong, so the answer must be D.", "correct"),
        ("choice", "B", "Answer: **B**\n\nWhy: answer A is too small", "correct"),
        ("choice", "B", "Answer - <B>", "correct"),
        ("choice", "D", "I'd go with D", "correct"),
        ("choice", "E", "Answer: E\u0301", "no_answer"),
        ("math", "Adding. #### 1,234", "The answer is \\boxed{1234}.", "correct"),
        ("math", ["34"], "\\boxed{34}", "correct"),
        ("math", "Thus \\boxed{\\frac{3}{4}}.", "\\boxed{3/4}", "correct"),
        ("math", "4", "I do not know", "no_answer"),
        ("exact", "Paris", "<think>Rome?</think>\nThe answer is: paris.", "correct"),
        ("exact", "Paris", "Rome", "wrong"),
        ("exact", ["yes", "no doubt"], "Hm.\nNo   doubt", "correct"),
        ("exact", True, "true", "correct"),
        ("exact", "a", "  ", "no_answer"),
        ("choice", "B", "Let me see. **Answer: (B)**", "correct"),
        ("choice", 1, "\\boxed{\\text{B}}", "correct"),
        ("choice", "(c)", "The correct answer is C) because A is wrong.", "correct"),
        ("choice", "A", "The answer is a hard one to find.", "no_answer"),
        ("choice", "A", "B. It cannot be A.", "wrong"),
        ("choice", "D", "I think so.\nD", "correct"),
        ("choice", "A", "", "no_answer"),
        ("numeric", "3.14159", "about 3.1415901", "correct"),
        ("numeric", 1000, "The answer is 1,000 dollars.", "correct"),
        ("numeric", "-2e3", "\\boxed{-2000}", "correct"),
        ("numeric", 4, "4 or 5", "wrong"),
        ("numeric", 4, "four", "no_answer"),
    ],
)
def test_answers_are_judged_as_people_would(
    name: str, value: Any, completion: str, wanted: str
) -> None:
    assert status(name, value, completion) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("math", ""),
        ("math", "nan"),
        ("math", None),
        ("math", {"a": 1}),
        ("exact", []),
        ("exact", " "),
        ("choice", "Paris"),
        ("choice", 40),
        ("choice", True),
        ("choice", None),
        ("numeric", "four"),
        ("code", ""),
        ("code", []),
        ("code", "x ="),
        ("code", "print(1)"),
        ("code", "assert True"),
        ("code", {"inputs": ["1"], "outputs": []}),
        ("code", [{"input": "1", "output": "2", "testtype": "functional"}]),
        ("code", 3),
    ],
)
def test_what_is_no_reference_answer_is_refused(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        grader(name).gold(value)


@pytest.mark.parametrize("name", ["math", "exact", "choice", "numeric"])
def test_the_right_answer_is_judged_right_and_nothing_is_no_answer(name: str) -> None:
    judge = grader(name)
    problem = Problem("mine", "1", "?", judge.gold("7" if name != "choice" else "C"))
    answer = judge.right_answer(problem)
    assert answer is not None
    assert judge.grade(problem, answer).status == "correct"
    assert judge.grade(problem, "").status == "no_answer"


def test_options_of_a_grader_are_part_of_its_version() -> None:
    versions = {
        grader("exact").version,
        grader("exact", case=True).version,
        grader("numeric").version,
        grader("numeric", relative=0.1).version,
        grader("numeric", absolute=0.1234567).version,
        grader("numeric", absolute=0.1234568).version,
        grader("evaluate", metric="one/acc").version,
        grader("evaluate", metric="other/acc").version,
        grader("evaluate", metric="acc", at_least=0.1234567).version,
        grader("evaluate", metric="acc", at_least=0.1234568).version,
        grader("code").version,
        grader("code", cpu_limit_s=3.0).version,
        grader("code", unsafe_run_on_this_machine=True).version,
    }
    assert len(versions) == 13
    assert status("numeric", 100, "105", relative=0.1) == "correct"
    assert status("exact", "Paris", "paris", case=True) == "wrong"


SQUARE = "```python\ndef square(x):\n    return x * x\n```"
PRINTED = "```python\nprint(int(input()) ** 2)\n```"


@pytest.mark.parametrize(
    ("tests", "completion", "wanted"),
    [
        (["assert square(3) == 9", "assert square(-1) == 1"], SQUARE, "correct"),
        ("assert square(3) == 10", SQUARE, "wrong"),
        ({"inputs": ["3\n", ["4"]], "outputs": ["9\n", "16"]}, PRINTED, "correct"),
        (json.dumps({"inputs": [[3]], "outputs": [9], "fn_name": "square"}), SQUARE, "correct"),
        ([{"input": "3", "output": "8", "testtype": "stdin"}], PRINTED, "wrong"),
        (["assert square(3) == 9"], "no program", "no_answer"),
    ],
    ids=range(6),
)
def test_programs_are_run_against_tests_of_every_form(
    tests: Any, completion: str, wanted: str
) -> None:
    assert status("code", tests, completion) == wanted


class Failing(Grader):
    """Raises for every answer."""

    @property
    def version(self) -> str:
        return "1"

    def gold(self, value: Any) -> Any:
        return value

    def grade(self, problem: Problem, completion: str) -> Verdict:
        raise RuntimeError("no")


def test_a_grader_that_fails_is_no_wrong_answer() -> None:
    (verdict,) = verdicts_on(Failing(), [(Problem("mine", "1", "?", "1"), "1")])
    assert verdict.status == "grader_error"
    assert "no" in verdict.reason


@dataclass(frozen=True)
class Slipping(Failing):
    """A grader with one slip beside its verdicts."""

    slip: str = ""

    @property
    def version(self) -> Any:
        return None if self.slip == "version" else "1"

    def gold(self, value: Any) -> Any:
        if self.slip == "exit":
            sys.exit(2)
        return {"raises": lambda: 1 / 0, "nan": lambda: math.nan}.get(self.slip, lambda: value)()

    def require(self) -> None:
        if self.slip == "require":
            raise KeyError("oops")


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        ("exit", r"Slipping.gold failed: SystemExit: 2 .test_graders.py, line \d+"),
        ("raises", r"Slipping.gold failed: ZeroDivisionError: .*test_graders.py, line \d+"),
        ("nan", "no answer that can be graded in column 'a' .*JSON compliant"),
        ("require", r"Slipping.require failed: KeyError: 'oops' .test_graders.py, line \d+"),
    ],
)
def test_a_slip_of_a_grader_names_it_wherever_it_is_used(slip: str, words: str) -> None:
    """`sys.exit` in one ended the command without a word, anything else in a traceback."""
    columns = {"path": "p.jsonl", "column": "q", "answer_column": "a", "grader": Slipping(slip)}
    benchmark = DatasetBenchmark(name="own", **columns)
    for reader in (Reader(DatasetPrompts(type="dataset", **columns)), benchmark.reader()):
        with pytest.raises((PluginError, RowError), match=words):  # noqa: PT012 - one of them raises
            reader.asked({"q": "1+2=", "a": "3"})
            benchmark.require_grader()


METRIC = """
import datasets
import evaluate


class Shared(evaluate.Metric):
    def _info(self):
        names = ("predictions", "references")
        texts = datasets.Features({name: datasets.Value("string") for name in names})
        return evaluate.MetricInfo(description="", citation="", features=texts)

    def _compute(self, predictions, references):
        said, gold = set(predictions[0].split()), set(references[0].split())
        share = len(said & gold) / len(gold)
        return {"share": share, "missing": 1 - share, "words": ["a"]}
"""


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "shared.py").write_text(METRIC)
    return str(folder)


def test_a_metric_of_evaluate_judges_texts_from_a_value_on(metric: str) -> None:
    found = grader("evaluate", metric=metric, key="share")
    found.require()
    problem = Problem("mine", "1", "?", found.gold(["red blue green", "one two"]))
    for answer, wanted, value in (
        ("<think>red</think>one", "correct", "share 0.5000"),
        ("red", "wrong", "share 0.3333"),
        ("green blue red", "correct", "share 1.0000"),
    ):
        verdict = found.grade(problem, answer)
        assert (verdict.status, verdict.reason) == (wanted, value)
    assert found.grade(problem, " ").status == "no_answer"
    fewest = grader("evaluate", metric=metric, key="missing", at_most=0.4)
    assert fewest.grade(problem, "red blue").status == "correct"
    assert fewest.grade(problem, "red").status == "wrong"
    versions = {found.version, fewest.version, grader("evaluate", metric=metric).version}
    (Path(metric) / "shared.py").write_text(METRIC + "\n# changed\n")
    assert len({*versions, found.version}) == 4


def test_a_metric_that_cannot_be_used_is_told_before_anything_is_sampled(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="several values; choose of share, missing"):
        grader("evaluate", metric=metric).require()
    with pytest.raises(ConfigError, match="gives no 'rouge', but share, missing"):
        grader("evaluate", metric=metric, key="rouge").require()
    (Path(metric) / "shared.py").write_text("import nothing_of_this_name")
    evaluate_metric._loaded.cache_clear()
    with pytest.raises(ConfigError, match="nothing_of_this_name"):
        grader("evaluate", metric=metric).require()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingDataError, match=r"'rouge' is in no folder.*where the hub can be"):
        grader("evaluate", metric="rouge").require()
    with pytest.raises(ValueError, match="at_most: it is set beside"):
        grader("evaluate", metric=metric, at_least=0.1, at_most=0.2)


@pytest.mark.parametrize(
    "written",
    [
        {"evaluate": "rouge"},
        {"evaluate": {"metric": "rouge"}},
        {"type": "evaluate", "metric": "rouge"},
    ],
    ids=["first option", "name", "type"],
)
def test_a_grader_is_named_by_its_type_or_stands_over_its_options(written: Any) -> None:
    found = TypeAdapter(AnyGrader).validate_python(written)
    assert found == grader("evaluate", metric="rouge")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{judge: {url: 'http://a/v1'}}", "e.yaml:10: missing key .*grader.judge.model"),
        (
            "{evaluate: {metric: a, at_lest: 1}}",
            "e.yaml:10: unknown key .*evaluate.at_lest.*at_least",
        ),
        ("{evaluate: {metric: a, at_least: b}}", "e.yaml:10: .*evaluate.at_least must be a number"),
        ("{evaluate: 3}", "e.yaml:10: .*grader.evaluate.* must be text"),
        ("{juge: {}}", "e.yaml:10: missing key .*grader.type; choose one of choice, code"),
        ("{type: juge}", "e.yaml:10: .*grader.type must be one of .*Did you mean .*judge"),
        ("{judge: {url: x, model: y}}", "e.yaml:10: .*url begins with http"),
        ("3", "e.yaml:10: .*grader must be a mapping"),
    ],
    ids=range(8),
)
def test_a_fault_in_a_grader_is_told_with_its_line_and_key(
    tmp_path: Path, written: str, said: str
) -> None:
    head = """name: mine
student: {path: "embedded:student"}
teacher: {path: "embedded:teacher"}
prompts: {type: problems, sources: [{type: math}]}
rollout: {type: cached}
method: {type: opd}
training: {steps: 2}
evaluation:
  benchmarks:
"""
    path = tmp_path / "e.yaml"
    path.write_text(
        f"{head}  - {{type: dataset, name: a, path: a.csv, answer_column: a, grader: {written}}}\n"
    )
    with pytest.raises(ConfigError, match=said):
        load_experiment(path)
