"""Every evaluator of ours keeps the contract that `opdlab.testing` puts to anyone's."""

import json

import pytest
from machine import of_own_data

from opdlab.plugins import registry as plugins
from opdlab.plugins.evaluator import Evaluator
from opdlab.records import Verdict
from opdlab.testing import EvaluatorContract
from opdlab_evaluators.benchmarks import benchmark as benchmark_module

MADE_UP = ("aime_2026", "hmmt_feb_2025", "hmmt_feb_2026", "math_500")
# Made-up rows would be refused.
KNOWN_ANSWERS = ("aime_2024", "aime_2025", "gsm8k")


class OfOurs(EvaluatorContract):
    """Evaluator `name` with `options`."""

    name: str
    options: dict = {}

    def make(self) -> Evaluator:
        return plugins.load(plugins.EVALUATORS, self.name)(**self.options)


class TestMath(OfOurs):
    name, options = "math", {"limit": 16, "level": "long"}


class TestCode(OfOurs):
    name, options = "code", {"limit": 16}


class TestRoutes(OfOurs):
    name, options = "routes", {"limit": 16}


class WithData(OfOurs):
    """A benchmark with rows of its own: made-up ones, or a copy in the folder OPDLAB_DATA."""

    made_up: bool

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def data(cls, tmp_path_factory):
        benchmark_module._checked.cache_clear()
        name, folder = cls.name, tmp_path_factory.mktemp("data")
        source = plugins.load(plugins.EVALUATORS, name).source
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_DATA_HOME", str(folder / "home"))
            if cls.made_up:
                rows = [
                    {"problem": f"What is {n} + {n}?", "answer": str(2 * n)}
                    for n in range(source.count)
                ]
                (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
                patch.setenv("OPDLAB_DATA", str(folder))
            yield


for benchmark in MADE_UP:
    globals()[f"TestMadeUp_{benchmark}"] = type(
        f"TestMadeUp_{benchmark}", (WithData,), {"name": benchmark, "made_up": True}
    )
for benchmark in (*MADE_UP, *KNOWN_ANSWERS):
    title = f"TestOwn_{benchmark}"
    members = {"name": benchmark, "made_up": False, "options": {"limit": 40}}
    globals()[title] = of_own_data(title, benchmark, WithData, **members)


class Broken(OfOurs):
    name, options = "math", {"limit": 4}


@pytest.mark.parametrize(
    ("method", "replacement", "claim"),
    [
        ("grade", lambda self, problem, completion: Verdict("correct"), "say_correct"),
        ("problems", lambda self: [], "same_every_time"),
        ("right_answer", lambda self, problem: "wrong", "a_right_answer"),
        ("grader_version", property(lambda self: " "), "has_a_version"),
        ("training_problem", lambda self, s, i: self.problems()[0], "never_test_problems"),
    ],
)
def test_the_contract_catches_an_evaluator_that_breaks_it(monkeypatch, method, replacement, claim):
    monkeypatch.setattr(plugins.load(plugins.EVALUATORS, "math"), method, replacement)
    contract = Broken()
    (test,) = [name for name in dir(contract) if name.startswith("test_") and claim in name]
    with pytest.raises(AssertionError):
        getattr(contract, test)()
